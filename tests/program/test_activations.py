"""Activations: dropped after their last reader, recomputed where asked for, and computed while halos are in flight."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from divided import Divided
from passes import Passes

from gridnn import layers as L
from gridnn.comm.grid import Grid
from gridnn.comm.requests import Messages
from gridnn.cost.count import predict
from gridnn.kernels import get_backend
from gridnn.layers.conv import Conv
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.planning.rules import make_plan
from gridnn.program.arena import plan_arena
from gridnn.program.build import build
from gridnn.program.program import Program
from gridnn.program.regions import around
from gridnn.program.schedule import StageMovement, cpu_policy, gpu_policy
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


class Runs(Passes):
    """A network on the ranks with one fixed batch."""

    def __init__(self, comm, network, batch=6, strategy="domain", **running):
        rows = GridShape.square(comm.size).rows
        grid = Grid(comm, rows, comm.size // rows, backend=get_backend("numpy"))
        plan = make_plan(strategy, network, grid.shape, batch, **running)
        super().__init__(Program(network, plan, batch), grid, "float64", SEED)
        rng = np.random.default_rng(1)
        self.x, self.labels = rng.normal(size=(batch, *network.shapes["input"])), rng.integers(0, 5, batch)

    def again(self, number: int) -> np.ndarray:
        """One forward and backward; the loss of all ranks."""
        self.grid.ledger.clear()
        return self.step(self.x, self.labels, step=number)


@pytest.mark.mpi
def test_recomputed_activations_give_the_same_gradients_in_less_memory(comm):
    """Bit for bit: dropout, batch norm and its running statistics included; words of the second pass as predicted."""
    kept, again = (Runs(comm, chain(12), recompute=recompute) for recompute in (False, True))
    assert len(kept.program.segments) == 1 and len(again.program.segments) > 4
    for number in range(3):
        losses = [runs.again(number) for runs in (kept, again)]
        np.testing.assert_array_equal(*losses)
        np.testing.assert_array_equal(kept.parameters.gradients, again.parameters.gradients)
        for layer, states in kept.parameters.states.items():
            for name, value in states.items():
                np.testing.assert_array_equal(value, again.parameters.states[layer][name], err_msg=f"{layer}.{name}")
    assert again.arena.peak < 0.62 * kept.arena.peak and again.memory.size < 0.62 * kept.memory.size
    for runs in (kept, again):
        assert runs.grid.ledger.integers() == predict(runs.program, runs.grid.index).integers()
    moved = {
        phase: sum(t.words for key, t in again.grid.ledger.steps() if key.phase == phase)
        for phase in ("forward", "recompute")
    }
    assert (moved["recompute"] > 0) == (again.grid.shape.rows > 1)


@pytest.mark.mpi
@pytest.mark.parametrize("recompute", [False, True])
def test_memory_is_taken_once(comm, recompute):
    """One block for all steps, in which every array keeps its place."""
    runs = Runs(comm, chain(5), recompute=recompute)
    assert (runs.memory.size, runs.memory.generation) == (runs.arena.size, 1)
    arrays = dict(runs.run._arrays)
    for number in range(3):
        runs.again(number)
    assert (runs.memory.size, runs.memory.generation) == (runs.arena.size, 1)
    assert all(runs.run.array(name) is array for name, array in arrays.items())


def test_a_forward_pass_outside_training_keeps_what_is_read_later_only(comm):
    """A chain of equal layers: two activations at a time, however deep."""
    if comm.size > 1:
        pytest.skip("on one rank")
    peaks = []
    for depth in (4, 16):
        net = Network((32, 32, 8))
        for i in range(depth):
            net.add(f"conv{i}", L.Conv2d(8, 3, padding=1))
        program = Program(net, make_plan("batch", net, GridShape(1, 1), 4), 4)
        grid = Grid(comm, 1, 1, backend=get_backend("numpy"))
        passes = Passes(program, grid, "float32", kind="prediction")
        passes.step(np.zeros((4, 32, 32, 8)))
        assert passes.memory.size == passes.arena.size <= 1.05 * passes.arena.peak
        peaks.append(passes.arena.peak)
    activation = 4 * 32 * 32 * 8 * 4
    assert peaks[0] == peaks[1] < 4 * activation  # input, its ghosted copy, output


SCHEDULES = [
    ("domain", GridShape(1, 1), {}),
    ("domain", GridShape(2, 1), {}),
    ("domain", GridShape(2, 2), {"recompute": True}),
    ("batch", GridShape(1, 2), {"recompute": True}),
    ("integrated", GridShape(2, 2), {"gather_backward": "all-reduce"}),
    ("splitbrain", GridShape(2, 2), {}),
]


@pytest.mark.parametrize("kind", ["training", "evaluation", "prediction"])
@pytest.mark.parametrize("policy", [cpu_policy, gpu_policy])
@pytest.mark.parametrize(("strategy", "grid", "running"), SCHEDULES)
def test_everything_lies_by_itself_until_it_has_been_read(strategy, grid, running, policy, kind):
    """The arena of a network with long skips, run symbolically; of a first pass of a batch, and of a later one."""
    net = chain(7)
    program = Program(net, make_plan(strategy, net, grid, 4, **running), 4)
    for rank in (0, grid.size - 1):
        for itemsize in (2, 4):
            for first in (True, False):
                schedule = build(program, rank, policy(itemsize), kind=kind, first=first, last=not first)
                check_arena(plan_arena(schedule))


def test_nothing_takes_the_memory_of_an_operand_that_is_read_twice():
    """x + x in the memory of x would be overwritten by the first copy."""
    net = Network((5,))
    net.add("hidden", L.Linear(5))
    net.add("twice", L.Add(), "hidden", "hidden", "hidden")
    net.add("loss", L.MeanSquaredError(), "twice")
    plan = make_plan("batch", net, GridShape(1, 1), 4)
    for kind in ("training", "prediction"):
        arena = plan_arena(build(Program(net, plan, 4), 0, cpu_policy(4), kind=kind))
        assert "twice.y" not in arena.aliases
        check_arena(arena)


def check_arena(arena) -> None:
    """No two buffers share memory while both live, all is read before it is overwritten, and nothing before it is."""
    schedule = arena.schedule
    root, sizes, alias = schedule.root, arena.sizes, arena.aliases
    assert arena.peak <= arena.size
    placed = sorted(arena.ranges, key=lambda name: arena.offsets[name])
    for one, other in itertools.combinations([name for name in placed if sizes[name]], 2):
        apart = arena.offsets[one] + sizes[one] <= arena.offsets[other]
        lives, its = arena.ranges[one], arena.ranges[other]
        assert apart or lives.stop < its.start or its.stop < lives.start, (one, other)
    assert all(arena.offsets[name] % schedule.policy.alignment == 0 for name in placed)
    assert all(arena.offsets[name] + sizes[name] <= arena.size for name in placed)

    def place(name):
        start = arena.address(name)
        return start, start + schedule.buffers[name].bytes(schedule.policy.itemsize)

    holding: dict[str, tuple[int, int]] = {}  # what was written, and where
    for number, operation in enumerate(schedule.operations):
        for name in operation.reads:
            assert root(name).name in holding, (number, operation, name)
        for name in operation.writes:
            mine = root(name).name
            start, stop = place(mine)
            for other in [o for o, (low, high) in holding.items() if o != mine and low < stop and start < high]:
                del holding[other]
            holding[mine] = (start, stop)
        written = [root(name).name for name in operation.writes]
        lost = [name for name in written if name not in holding and schedule.buffers[name].elements]
        assert not lost, (number, operation, lost)
        in_place = {alias[name] for name in written if name in alias}
        for name in operation.reads:  # what an operation reads is there until it ends, but for what it may overwrite
            assert root(name).name in holding or alias.get(root(name).name, root(name).name) in in_place
        owners = [alias.get(root(name).name, root(name).name) for name in operation.reads]
        assert all(owners.count(owner) == 1 for owner in in_place)  # a second operand would be overwritten
    for name in (*schedule.outputs.values(), schedule.seed):
        assert name is None or root(name).name in holding


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

    def seen(kind, method, name):
        function = getattr(kind, method)

        def call(self, *arguments):
            events.append(name if kind is Conv else name.format("halo sum" if self.adjoint else "halo"))
            return function(self, *arguments)

        monkeypatch.setattr(kind, method, call)

    height = 8 * comm.size
    net = Network((height, 12, 3))
    net.add("first", L.Conv2d(6, 1))
    net.add("second", L.Conv2d(7, 5, padding=2))
    rows = comm.size
    grid = Grid(comm, rows, 1, backend=get_backend("numpy"))
    splits = make_plan("domain", net, GridShape(rows, 1), 2).splits
    x = np.random.default_rng(0).normal(size=(2, height, 12, 3))
    dy = np.ones((2, height, 12, 7))
    replicas = {name: split.__class__.of(replicas=rows) for name, split in splits.items()}
    expected = Divided(comm, grid, net, replicas, 2).step(x, dy)
    for policy in (cpu_policy(8), gpu_policy(8)):
        with monkeypatch.context() as monkeypatch:
            seen(Messages, "begin", "{}")
            seen(Messages, "end", "end {}")
            seen(Conv, "forward", "compute")
            seen(Conv, "backward_weights", "weights")
            y, gradients = Divided(comm, grid, net, splits, 2, policy=policy).step(x, dy)
        np.testing.assert_allclose(y, expected[0], rtol=1e-12, atol=1e-12)
        for name, value in gradients.items():
            np.testing.assert_allclose(value, expected[1][name], rtol=1e-12, atol=1e-12, err_msg=name)
        assert events[:4] == ["compute", "halo", "compute", "end halo"]
        border = events.index("halo sum")
        assert border > 4 and set(events[4:border]) == {"compute"}
        assert events[border:] == ["halo sum", "weights", "end halo sum", "weights"]
        events.clear()


@pytest.mark.mpi
def test_sums_over_all_ranks_run_behind_products_where_the_device_has_a_place_for_them(comm):
    """On a GPU the sum of a layer's input gradient; on cores it would need one of them."""
    net = Network((16,))
    for i in range(3):
        net.add(f"fc{i}", L.Linear(16))
    net.add("loss", L.MeanSquaredError())
    grid = Grid(comm, comm.size, 1, backend=get_backend("numpy"))
    program = Program(net, make_plan("model", net, grid.shape, 4), 4)
    found, parameters = [], Parameters(program, grid, "float64", SEED)
    x, target = np.random.default_rng(0).normal(size=(2, 4, 16))
    for policy in (cpu_policy(8), gpu_policy(8)):
        passes = Passes(program, grid, "float64", SEED, policy=policy, parameters=parameters)
        loss = passes.step(x, target)
        found.append((loss, passes.gradients, _behind(passes.schedule)))
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)  # MPI may sum in another order
    assert not found[0][2] and (comm.size == 1 or found[1][2] == {"fc1", "fc2"})


def _behind(schedule) -> set[str]:
    """The layers between the start and the end of whose transfers in the backward pass something is computed."""
    found, under_way = set(), {}
    for operation in schedule.operations:
        kind = type(operation).__name__
        if kind == "Begin" and isinstance(operation.movement, StageMovement) and operation.phase == "backward":
            under_way[operation.number] = operation.layer
        elif kind == "End":
            under_way.pop(operation.number, None)
        elif kind == "Compute":
            found.update(under_way.values())
    return found
