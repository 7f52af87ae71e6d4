"""Activations: dropped after their last reader, recomputed where asked for, and computed while halos are in flight."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from divided import Divided

from gridnn import layers as L
from gridnn.arrays import get_backend
from gridnn.comm import mover
from gridnn.comm.grid import Grid
from gridnn.comm.packing import Scratch
from gridnn.execute import Executable
from gridnn.layers.conv import Conv
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.plan.plan import Plan
from gridnn.plan.rules import make_plan
from gridnn.program.liveness import Liveness
from gridnn.program.program import Program
from gridnn.program.step import around
from gridnn.runtime.parameters import Parameters

SEED = 3


def chain(depth: int) -> Network:
    """Convolutions with batch norm and dropout, and skips of several lengths."""
    net = Network((18, 11, 3))
    net.add("stem", L.Conv2d(8, 3, padding=1))
    for i in range(depth):
        before = net.output
        net.add(f"conv{i}", L.Conv2d(8, 3, padding=1))
        net.add(f"norm{i}", L.BatchNorm())
        net.add(f"relu{i}", L.ReLU())
        net.add(f"drop{i}", L.Dropout(0.1))
        net.add(f"add{i}", L.Add(), before if i % 3 else "stem", f"drop{i}")
    net.add("far", L.Concat(), net.output, "relu0")
    net.add("global", L.GlobalAvgPool())
    net.add("fc", L.Linear(5))
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


class Runs:
    """A network on the ranks with one fixed batch."""

    def __init__(self, comm, network, batch=6, strategy="domain", **running):
        rows = GridShape.square(comm.size).rows
        self.grid = Grid(comm, rows, comm.size // rows, backend=get_backend("numpy"))
        plan = make_plan(strategy, network, self.grid.shape, batch, **running)
        self.program = Program(network, plan, batch)
        self.parameters = Parameters(self.program, self.grid, "float64", SEED)
        self.run = Executable(self.program, self.grid, self.parameters, SEED, Scratch(self.grid.backend, "float64"))
        rng = np.random.default_rng(1)
        x, self.labels = rng.normal(size=(batch, *network.shapes["input"])), rng.integers(0, 5, batch)
        for feed in self.run.input_feeds:
            feed.load(x[tuple(slice(*interval) for interval in feed.box)])

    def step(self, number: int) -> np.ndarray:
        """One forward and backward; this rank's share of the loss."""
        self.grid.ledger.clear()
        target = self.labels[slice(*self.run.loss.input_boxes[0][0])]
        loss = self.run.forward(training=True, step=number, target=target)
        for pending in self.run.backward(1.0):
            pending.wait()
        return loss

    @property
    def pool(self):
        return self.grid.backend.pool


@pytest.mark.mpi
def test_recomputed_activations_give_the_same_gradients_in_less_memory(comm):
    """Bit for bit: dropout, batch norm and its running statistics included; words of the second pass as predicted."""
    kept, again = (Runs(comm, chain(12), recompute=recompute) for recompute in (False, True))
    assert len(kept.program.segments) == 1 and len(again.program.segments) > 4
    for number in range(3):
        losses = [runs.step(number) for runs in (kept, again)]
        np.testing.assert_array_equal(*losses)
        np.testing.assert_array_equal(kept.parameters.gradients, again.parameters.gradients)
        for layer, states in kept.parameters.states.items():
            for name, value in states.items():
                np.testing.assert_array_equal(value, again.parameters.states[layer][name], err_msg=f"{layer}.{name}")
    assert again.pool.peak < 0.62 * kept.pool.peak
    for runs in (kept, again):
        ledgers = (runs.grid.ledger, runs.program.predict(runs.grid.index))
        measured, predicted = ({k: v for k, v in one.integers().items() if k.layer != "loss"} for one in ledgers)
        assert measured == predicted  # the losses of all ranks are summed by the session
    moved = {
        phase: sum(t.words for key, t in again.grid.ledger.steps() if key.phase == phase)
        for phase in ("forward", "recompute")
    }
    assert (moved["recompute"] > 0) == (again.grid.shape.rows > 1)


@pytest.mark.mpi
@pytest.mark.parametrize("recompute", [False, True])
def test_memory_comes_back_and_nothing_new_is_taken(comm, recompute):
    runs = Runs(comm, chain(5), recompute=recompute)
    before = runs.pool.used
    for number in range(3):
        runs.step(number)
        runs.run._outputs.clear()
        assert runs.pool.used == before
        if number == 1:
            taken = runs.pool.taken
    assert runs.pool.taken == taken


def test_a_forward_pass_outside_training_keeps_what_is_read_later_only(comm):
    """A chain of equal layers: two activations at a time, however deep."""
    peaks = []
    for depth in (4, 16):
        net = Network((32, 32, 8))
        for i in range(depth):
            net.add(f"conv{i}", L.Conv2d(8, 3, padding=1))
        program = Program(
            net,
            Plan(
                "test",
                GridShape(1, 1),
                {n.name: make_plan("batch", net, GridShape(1, 1), 4).splits[n.name] for n in net.nodes},
            ),
            4,
        )
        grid = Grid(comm, 1, 1, backend=get_backend("numpy"))
        run = Executable(program, grid, Parameters(program, grid, "float32", 0), 0, Scratch(grid.backend, "float32"))
        run.forward(training=False)
        peaks.append(grid.backend.pool.peak)
    activation = 4 * 32 * 32 * 8 * 4
    assert peaks[0] == peaks[1] < 4 * activation  # input, its frame, output


@pytest.mark.parametrize("recompute", [False, True])
def test_everything_is_dropped_once_and_never_before_it_is_read(recompute):
    """The liveness of a graph with long skips, run symbolically."""
    net = chain(7)
    program = Program(net, make_plan("batch", net, GridShape(1, 2), 4, recompute=recompute), 4)
    live = Liveness(program)

    def run(places, phase, outputs, feeds):
        for place in places:
            step = program.steps[place]
            for i, edge in enumerate(step.edges):
                if step.reading(i) not in feeds and edge.source != "input":
                    assert edge.source in outputs, (phase, step.name, edge.source)
                    feeds.add(step.reading(i))
            outputs.add(step.name)
            feeds.difference_update(live.feeds(phase, place))
            for name in live.outputs(phase, place):
                outputs.remove(name)

    for phase in ("evaluation", "forward"):
        outputs, feeds = set(), set()
        for segment in program.segments:
            run(segment, phase, outputs, feeds)
        assert not feeds
        if phase == "evaluation":
            assert outputs == {"loss"}
    for segment in reversed(program.segments[:-1]):
        run(segment, "recompute", outputs, feeds)
    assert not feeds and outputs == {"loss"}


@pytest.mark.parametrize("shape", [(5,), (4, 7), (3, 4, 5), (2, 3, 4, 3)])
def test_the_border_is_what_the_interior_leaves(shape):
    for ends in itertools.product(*([(0, size), (1, size), (0, size - 1), (1, 2)] for size in shape)):
        count = np.zeros(shape, int)
        region = tuple(slice(*end) for end in ends)
        count[region] += 1
        for slab in around(region, shape):
            assert count[slab].size
            count[slab] += 1
        assert (count == 1).all()


@pytest.mark.mpi
def test_the_interior_is_computed_while_the_halo_is_in_flight(comm, monkeypatch):
    """The order of events on every rank, and that the pieces give what the whole gives."""
    if comm.size < 2:
        pytest.skip("one rank has no neighbour")
    events = []
    start, compute, weights = mover.Mover.start, Conv.compute, Conv.backward_weights
    adjoint = mover.Mover.start_adjoint

    def seen(name, function):
        def call(self, *args, **kwargs):
            if not (isinstance(self, Conv) or self.flies):
                return function(self, *args, **kwargs)
            events.append(name)
            finish = function(self, *args, **kwargs)
            if finish is None:
                return None

            def end():
                events.append(f"end {name}")
                return finish()

            return end

        return call

    height = 8 * comm.size
    net = Network((height, 12, 3))
    net.add("first", L.Conv2d(6, 1))
    net.add("second", L.Conv2d(7, 5, padding=2))
    rows = comm.size
    grid = Grid(comm, rows, 1, backend=get_backend("numpy"))
    splits = make_plan("domain", net, GridShape(rows, 1), 2).splits
    divided = Divided(comm, grid, net, splits, 2)
    x = np.random.default_rng(0).normal(size=(2, height, 12, 3))
    expected = Divided(
        comm, grid, net, {name: split.__class__.of(copies=rows) for name, split in splits.items()}, 2
    ).forward(x)
    monkeypatch.setattr(mover.Mover, "start", seen("halo", start))
    monkeypatch.setattr(Conv, "compute", seen("compute", compute))
    monkeypatch.setattr(mover.Mover, "start_adjoint", seen("halo sum", adjoint))
    monkeypatch.setattr(Conv, "backward_weights", seen("weights", weights))
    y = divided.forward(x)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    assert events[:4] == ["compute", "halo", "compute", "end halo"]
    assert set(events[4:]) == {"compute"}  # the border
    events.clear()
    divided.backward(np.ones_like(y))
    assert events[:3] == ["halo sum", "weights", "end halo sum"]
