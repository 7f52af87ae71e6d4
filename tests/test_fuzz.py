"""Every reader of files of somebody else, on damaged ones: accepted, or refused in one line that names the file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from fuzz_readers import READERS
from launch import HELPERS, ROOT, clean_environment

SEED, CASES, VALUES = 1, 100, 60  # damaged bytes; and where it is JSON, as many changed values: 2,080 in all
NEEDS = {"hdf5": "h5py", "pictures": "PIL", "png": "PIL"}


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_refused_in_one_line_or_read(tmp_path, reader):
    """Not a traceback, a crash, a second line, 512 MB, or two seconds of a processor; nothing is printed."""
    pytest.importorskip(NEEDS.get(reader, "numpy"))
    cases = str(VALUES if READERS[reader].json else CASES)
    command = [sys.executable, str(HELPERS / "fuzzing.py"), reader, str(SEED), cases, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT, env=clean_environment())
    last = (tmp_path / "case").read_text().strip()
    assert done.returncode == 0, f"status {done.returncode} after case {last}\n{done.stderr}"
    told = json.loads(done.stdout)
    assert told["faults"] == []
    assert told["refused"] > 0.3 * (told["refused"] + told["accepted"])
