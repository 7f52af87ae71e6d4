"""The record of what a rank does, as others read it; who is missing; and the files that remain of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from gridnn.comm import flight, recorder
from gridnn.comm.flight import RecordWriter, last_job_record, name_job
from gridnn.comm.peers import ENDED, LEFT, SILENT, STOPPED, Peers, Place, RankState, Record, missing, tell
from gridnn.comm.recorder import PASSES, READS, Cell, Note, Recorder
from gridnn.errors import UserError

NOTES = [Note("", "load", False), Note("fc1", "all-reduce on the row", True), Note("fc1", "forward", False)]


@pytest.fixture
def made():
    one = Recorder(name_job(), 3)
    yield one
    one.close()


def seen(one: Recorder) -> RankState:
    with open(one.path, "rb") as file:
        data = file.read()
    assert data == one.read()
    return Record(data).state_of(3, "x")


def run_pass(one: Recorder, number: int, step: int, upto: int) -> None:
    one.begin(number, step, 0)
    for one.cells[one.at], _ in enumerate(NOTES[:upto]):
        pass


# -- the record --------------------------------------------------------------------------------------------------


def test_a_place_in_a_pass_is_seen_from_outside(made):
    number = made.describe("training", lambda: NOTES)
    run_pass(made, number, 12, 2)
    waits = seen(made)
    assert (waits.where, waits.waits) == ("step 12, layer fc1, all-reduce on the row", True)
    assert waits.doing == "in fc1, all-reduce on the row of step 12"
    made.cells[made.at] = 2
    works = seen(made)
    assert (works.doing, works.waits) == ("in fc1, forward of step 12", False)
    assert works.progress > waits.progress
    made.end()
    assert seen(made).doing == "setting up"
    made.go_on()
    assert seen(made).doing == "in fc1, forward of step 12"


def test_passes_without_a_step_are_called_by_their_kind(made):
    number = made.describe("evaluation", lambda: NOTES)
    run_pass(made, number, 0, 1)
    assert seen(made).doing == "in load of evaluation"
    run_pass(made, -1, 7, 3)  # of a schedule that is not described
    assert seen(made).where == "step 7, operation 2"


def test_stages_are_left_for_the_one_before(made):
    with made.doing("saving"):
        with made.waiting():
            one = seen(made)
            assert (one.doing, one.waits) == ("saving, exchanging values", True)
        assert (seen(made).doing, seen(made).waits) == ("saving", False)
    assert seen(made).doing == "setting up"
    run_pass(made, made.describe("training", lambda: NOTES), 2, 3)
    with made.waiting("making the groups"):
        assert seen(made).where == "making the groups"
    assert seen(made).where == "step 2, layer fc1, forward"  # the pass goes on


def test_what_failed_remains(made):
    """A defect ends the job, and is told by the record; a mistake of the user may be made good."""
    with pytest.raises(UserError), made.doing("saving"):
        raise UserError("the disk is full")
    assert seen(made).doing == "setting up"
    with pytest.raises(ValueError, match="no"), made.doing("planning"):
        raise ValueError("no")
    assert seen(made).doing == "planning"


def test_the_reader_is_seen_where_it_is_waited_for(made):
    made.reads("reading batch 13")
    assert seen(made).doing == "setting up"
    with made.doing("waiting for batch 13", READS):
        one = seen(made)
        assert (one.where, one.doing) == ("waiting for batch 13", "reading batch 13")
        assert (one.waits, one.reads) == (False, True)
        made.reads("")
        assert seen(made).doing == "waiting for batch 13"


def test_the_last_operations_follow_from_the_passes(made):
    number = made.describe("training", lambda: NOTES)
    for step in range(1, 2 * PASSES):
        run_pass(made, number, step, 3)
    run_pass(made, number, 2 * PASSES, 2)
    found = Record(made.read()).operations(4)
    last = 2 * PASSES
    assert [(step, text) for step, _, text in found] == [
        (last - 1, "fc1, all-reduce on the row"),
        (last - 1, "fc1, forward"),
        (last, "load"),
        (last, "fc1, all-reduce on the row"),
    ]
    assert len(Record(made.read()).operations(10**6)) == 3 * (PASSES - 1) + 2


def test_how_long_it_has_been_there(made):
    made.beat()
    first = made.since
    time.sleep(0.02)
    made.beat()
    assert made.since == first and seen(made).seconds >= 0.02
    run_pass(made, -1, 1, 1)
    made.beat()
    assert made.since > first


def test_without_a_place_it_is_kept_in_memory(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder.os, "posix_fallocate", full)
    job = name_job()
    one = Recorder(job, 0)
    assert one.path == "" and one.describe("training", lambda: NOTES) == -1
    run_pass(one, -1, 3, 2)
    assert Record(one.read()).state_of(0, "x").where == "step 3, operation 1"
    assert not [name for name in os.listdir("/dev/shm") if job in name]


def test_long_and_strange_texts(made):
    with made.doing("making the network (" + "ä" * 400):
        assert seen(made).doing.startswith("making the network (ä")
    made.cells[Cell.VERSION] = 1
    with pytest.raises(ValueError, match="another version"):
        Record(made.read())
    with pytest.raises(ValueError, match="too short"):
        Record(b"")


def test_a_place_costs_next_to_nothing(made):
    """Well below a microsecond an operation; a step of LeNet on one rank is 40 of them in 13 ms."""
    calls = [(number, int) for number in range(1000)]
    best = {}
    for kind in ("plain", "placed") * 5:
        start = time.perf_counter()
        if kind == "plain":
            for _, call in calls:
                call()
        else:
            cells, at = made.cells, made.at
            for cells[at], call in calls:
                call()
        best[kind] = min(best.get(kind, 1.0), time.perf_counter() - start)
    assert (best["placed"] - best["plain"]) / len(calls) < 1e-6


# -- who is missing ----------------------------------------------------------------------------------------------


def waiter(rank, seconds=60.0, place=5, state=""):
    where = "step 12, layer fc1, all-reduce on the row"
    return RankState(rank, "x", state, True, where, "in fc1, all-reduce on the row of step 12", seconds, (12, place))


def worker(rank, state="", doing="reading batch 13", seconds=61.0):
    return RankState(rank, "y", state, False, "", doing, seconds, (12, 0))


def test_the_line_of_the_issue():
    ranks = [waiter(0), waiter(1), waiter(2), worker(3)]
    assert missing(ranks) == [worker(3)]
    line = "step 12, layer fc1, all-reduce on the row: waiting 60 s for rank 3 (node y), last seen reading batch 13"
    assert tell(ranks[0], ranks) == f"{line} (for 61 s)"


@pytest.mark.parametrize(
    "one, words",
    [
        (worker(1, STOPPED), "rank 1 (node y), stopped by a signal, last seen reading batch 13 (for 61 s)"),
        (waiter(1, state=STOPPED), "rank 1 (node x), stopped by a signal, last seen in fc1, all-reduce on the row"),
        (waiter(1, state=ENDED), "rank 1 (node x), whose process has ended, last seen in fc1"),
        (worker(1, SILENT), "rank 1 (node y), not answering (in native code), last seen reading batch 13 (for 61 s)"),
        (RankState(1, "z", LEFT), "rank 1 (node z), which has left the run"),
        (RankState(1, "z"), "rank 1 (node z), not answering (stopped, or its node is gone)"),
    ],
)
def test_what_is_said_of_a_rank(one, words):
    assert words in tell(waiter(0), [waiter(0), one, waiter(2)])


def test_where_all_wait_the_one_behind_is_named():
    line = tell(waiter(0), [waiter(0), waiter(1, place=3, seconds=62.0), waiter(2)])
    assert "waiting 60 s for others, and so do all 3 ranks; the farthest behind is rank 1 (node x), last" in line


def test_at_most_four_are_named():
    line = tell(waiter(0), [waiter(0), *(worker(rank) for rank in range(1, 8))])
    assert "rank 4 (node y)" in line and "rank 5" not in line and line.endswith("; and 3 more")


def test_a_rank_is_looked_at(made):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        places = [Place("x", 0, made.path, os.getpid()), Place("x", 0, made.path, child.pid), Place("y", 2, "", 1)]
        peers = Peers(places, 0, made)
        assert (peers.here, peers.away, peers.order) == ([0, 1], [2], 0)
        assert peers.look(1).state == ""
        made.cells[Cell.BEAT] -= 10 * 10**9
        assert (peers.look(0).state, peers.look(1).state) == ("", SILENT)
        os.kill(child.pid, 19)
        time.sleep(0.1)
        assert peers.look(1).state == STOPPED
    finally:
        child.kill()
        child.communicate()
    assert peers.look(1).state == ENDED
    made.close()
    assert peers.look(1).state == ENDED


def test_records_that_are_cleared_say_so(made):
    other = Recorder(name_job(), 1)
    Peers([Place("x", 0, one.path, os.getpid()) for one in (made, other)], 0, made).clear()
    assert not os.path.exists(made.path) and not os.path.exists(other.path)
    assert made.cells[Cell.ENDING] == other.cells[Cell.ENDING] == 1


# -- the files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "gridnn"


def written(made, job="20260101-000000-x-1", reason="SIGTERM reached rank 0") -> RecordWriter:
    run_pass(made, made.describe("training", lambda: NOTES), 5, 2)
    one = RecordWriter(job, Peers([Place("x", 0, made.path, os.getpid())], 0, made))
    assert one.write(reason).name == job
    return one


def test_a_job_is_read_back(made, state):
    written(made)
    found = last_job_record()
    assert (found.reason, found.ranks) == ("SIGTERM reached rank 0", 1)
    assert found.seen[0].where == "step 5, layer fc1, all-reduce on the row"
    assert [(step, text) for step, _, text in found.operations[0]] == [(5, "load"), (5, "fc1, all-reduce on the row")]
    assert sorted(path.name for path in found.folder.iterdir()) == ["job.json", "rank-0.json"]


def test_the_first_to_write_knows_best(made, state):
    one = written(made)
    made.end()
    one.write("something else")
    assert (last_job_record().reason, last_job_record().seen[0].waits) == ("SIGTERM reached rank 0", True)


def test_strange_texts_are_read_back(made, state):
    with made.doing("making the network (a\tb\x1b[2J\udc80.py:net)"):
        written(made, reason="ValueError: a\n\tb" + "x" * 5000)
        made.end()
    found = last_job_record()
    assert found.reason.startswith("ValueError: a  bxxx") and len(found.reason) == flight.LONGEST


def test_few_jobs_are_kept_and_nothing_else_is_touched(made, state):
    (state / "notes").mkdir(parents=True)
    for day in range(1, 15):
        written(made, f"202601{day:02d}-000000-x-1")
    names = sorted(path.name for path in state.iterdir())
    assert names == [*(f"202601{day:02d}-000000-x-1" for day in range(15 - flight.KEPT, 15)), "notes"]


def test_a_folder_that_cannot_be_written(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(flight.tempfile, "gettempdir", lambda: str(tmp_path))
    written(made)
    assert last_job_record().folder.parent == tmp_path / f"gridnn-{os.geteuid()}"


def test_no_place_at_all_is_no_failure(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(flight.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert RecordWriter("20260101-000000-x-1", Peers([Place("x", 0, "", 1)], 0, made)).write("why") is None


def test_a_writer_that_hangs_is_not_waited_for(made, state, monkeypatch):
    monkeypatch.setattr(RecordWriter, "_write", lambda *_: time.sleep(5))
    start = time.monotonic()
    RecordWriter("20260101-000000-x-1", Peers([Place("x", 0, "", 1)], 0, made)).write("why")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "name, damage",
    [
        ("job.json", lambda text: text[:-5]),
        ("job.json", lambda text: "[]"),
        ("job.json", lambda text: text.replace('"ranks": 1', '"ranks": 0')),
        ("job.json", lambda text: text.replace("SIGTERM reached", "\\u001b[2J")),
        ("job.json", lambda text: text.replace('"seen": []', '"seen": [3]')),
        ("job.json", lambda text: text.replace('"when": ', '"when": -')),
        ("rank-0.json", lambda text: ""),
        ("rank-0.json", lambda text: text.replace('"rank": 0', '"rank": "0"')),
        ("rank-0.json", lambda text: text.replace("[[5, ", "[[5.5, ")),
        ("rank-0.json", lambda text: text.replace('"operations": [', '"operations": [[], ')),
        ("rank-0.json", lambda text: text.replace('"seconds": ', '"seconds": 1e999, "x": ')),
        ("rank-0.json", lambda text: "[" * 5000),
    ],
)
def test_damaged_records_are_refused_by_name(made, state, name, damage):
    folder = written(made).folder
    text = (folder / name).read_text()
    assert damage(text) != text
    (folder / name).write_text(damage(text))
    with pytest.raises(UserError, match=rf"^record {folder / name}: ") as refused:
        last_job_record()
    assert "\n" not in str(refused.value)


def test_without_a_record(state):
    with pytest.raises(UserError, match="no job has left a record in "):
        last_job_record()
    state.mkdir()
    job = state / "20260101-000000-x-1"
    job.mkdir()
    with pytest.raises(UserError, match=r"job\.json: No such file"):
        last_job_record()
    (job / "job.json").write_text(json.dumps({"reason": "a", "when": 1, "command": "b", "ranks": 2, "seen": []}))
    assert last_job_record().seen == {}
