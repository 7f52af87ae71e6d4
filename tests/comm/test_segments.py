"""Shared memory of jobs that were killed is found, that of jobs that run is not."""

from __future__ import annotations

import os

from gridnn.cli.check import _segment_problems
from gridnn.comm.segments import stale_segments


def test_segments_that_no_process_has_mapped(tmp_path):
    shared, processes = tmp_path / "shm", tmp_path / "proc"
    shared.mkdir()
    for name in ("sm_segment.node.0.1.0", "sm_segment.node.0.2.0", "vader_segment.node.0.3.0", "other"):
        (shared / name).write_bytes(bytes(1000))
    (processes / "17").mkdir(parents=True)
    (processes / "17" / "maps").write_text(f"7f00-7f01 rw-s 00000000 00:19 5 {shared}/sm_segment.node.0.2.0\n")
    (processes / "18").mkdir()
    found = stale_segments(shared, processes)
    assert [path.name for path in found] == ["sm_segment.node.0.1.0", "vader_segment.node.0.3.0"]
    (problem,) = _segment_problems(found)
    assert problem.text.startswith("2 segments of shared memory") and f"rm {found[0]} {found[1]}" in problem.text
    assert not problem.stops and _segment_problems([]) == []


def test_segments_of_other_users_are_theirs(tmp_path, monkeypatch):
    (tmp_path / "sm_segment.node.0.1.0").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert stale_segments(tmp_path, tmp_path / "none") == []
