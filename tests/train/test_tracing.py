"""Traces and profiles: every operation of every rank once, in order, and what is late is waited for."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict

import pytest
from backends import backend_name, transport_name
from running import job_of

from gridnn.comm.clock import clock_offset, collect
from gridnn.cost.machines import load_machine
from gridnn.layers.activation import Pointwise
from gridnn.records import OutputFile
from gridnn.train.config import RunConfig
from gridnn.train.profile import OUTSIDE, profile
from gridnn.train.session import Session
from gridnn.train.tracing import STEPS, price_runner
from gridnn.train.trainer import Trainer

OPTIONS = {"model": "lenet", "dataset": "synthetic", "shape": "16x16x1", "samples": 48, "batch": 12, "strategy": "grid"}
DEVICE = {"backend": backend_name(), "transport": transport_name()}
SLEEP = 0.2  # seconds


def config(**options) -> RunConfig:
    made = RunConfig.of(**{**OPTIONS, **DEVICE, **options})
    made.validate()
    return made


@pytest.mark.mpi
@pytest.mark.parametrize(("accumulate", "steps", "traced"), [(1, 12, range(3, 8)), (2, 4, range(1, 5))])
def test_a_trace_has_every_operation_of_every_rank(comm, tmp_path_factory, accumulate, steps, traced):
    job = job_of(comm)
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    trainer = Trainer(config(grid="-1x1", epochs=3, steps=steps, accumulate=accumulate), job)
    trainer.trace(OutputFile("--trace", path) if comm.rank == 0 else None, load_machine("generic-cpu"))
    trainer.train()
    schedules = trainer.session.schedules(range(12))
    counts = comm.gather(sum(len(schedule.operations) for schedule in schedules))
    predicted = comm.gather(price_runner(trainer.session, load_machine("generic-cpu"), 12, 1).compute)
    trainer.session.grid.free()
    if comm.rank:
        return
    events = json.loads(path.read_text())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    assert set(tracks) == set(names) and {rank for rank, _ in tracks} == set(range(comm.size))
    for (rank, track), made in tracks.items():
        made.sort(key=lambda event: event["ts"])
        for before, after in itertools.pairwise(made):
            assert before["ts"] + before["dur"] <= after["ts"] + 0.01, names[rank, track]
        if track == 0:
            training = [event for event in made if event["args"]["kind"] == "training"]
            assert {event["args"]["step"] for event in training} == set(traced)
            assert len(training) == counts[rank] * len(traced)
        if track == 1:
            seconds = sum(event["dur"] for event in made if not event["name"].startswith("wait")) / 1e6
            assert seconds == pytest.approx(predicted[rank] * len(traced), rel=1e-3)
    assert len(traced) <= STEPS


@pytest.mark.mpi
def test_a_profile_adds_up_and_knows_who_is_late(comm, monkeypatch):
    """The last rank sleeps in its activations: the others wait for it in what they move."""
    job = job_of(comm)
    forward = Pointwise.forward

    def late(self, context, x, y):
        if comm.rank == comm.size - 1 and context.shapes.output[-1] == 120:
            time.sleep(SLEEP)
        forward(self, context, x, y)

    monkeypatch.setattr(Pointwise, "forward", late)
    found = profile(config(grid="-1x1", steps=2, backend="numpy", transport="auto"), job)  # a GPU fuses activations
    step = found.step
    layers = [sum(row[i] for row in found.layers) for i in (1, 2, 3)]
    assert layers == pytest.approx([step.predicted, step.measured, step.waiting])
    kinds = {row.name: row for row in found.kinds}
    assert kinds["forward"].measured >= SLEEP / comm.size
    assert {"weight gradient", "input gradient", "update", "load", OUTSIDE} <= set(kinds)
    if comm.size > 1:
        assert step.waiting >= 0.9 * SLEEP * (comm.size - 1) / comm.size
        assert all(row.waiting == 0 for row in found.kinds if row.name in ("forward", "update", OUTSIDE))
    else:
        assert step.waiting == 0


@pytest.mark.mpi
def test_the_predicted_seconds_of_a_profile_are_the_price(comm):
    options = config(grid="1x-1", accumulate=2, steps=1)
    found = profile(options, job_of(comm), "cori-knl")
    session = Session(options, job_of(comm))
    mine = price_runner(session, load_machine("cori-knl"), session.batch, 1).seconds
    session.grid.free()
    assert found.machine == "cori-knl"
    assert found.step.predicted == pytest.approx(sum(comm.allgather(mine)) / comm.size)


@pytest.mark.mpi
def test_clocks_are_brought_together(comm, monkeypatch):
    """Every rank's clock is put forward by its own hours."""
    from gridnn.comm.grid import Grid

    grid, clock = Grid(comm, comm.size, 1), time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600.0 * comm.rank)
    offset = clock_offset(grid.all)
    values = list(collect(grid.all, comm.rank))
    grid.free()
    assert abs(offset + 3600.0 * comm.rank) < 5
    assert values == (list(range(comm.size)) if comm.rank == 0 else [])
