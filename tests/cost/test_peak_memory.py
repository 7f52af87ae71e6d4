"""The predicted memory of a rank is what a run takes, to the byte."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest
from exact_pool import Exact
from splits import admitted_splits

from gridnn import layers as L
from gridnn.arrays import NumpyBackend
from gridnn.arrays.pool import Pool
from gridnn.comm.grid import Grid
from gridnn.comm.packing import Scratch
from gridnn.cost.memory import peak
from gridnn.execute_rounds import make_executable
from gridnn.layout.gridshape import GridShape
from gridnn.layout.halo import HALOS
from gridnn.layout.layout import box_shape
from gridnn.models import get_model
from gridnn.network import Network
from gridnn.plan.plan import BACKWARD, Plan
from gridnn.plan.rules import make_plan
from gridnn.program.program import Program
from gridnn.runtime.parameters import Parameters
from gridnn.units import ITEMSIZES

STEPS = 3
MODELS = {  # sample, outputs, batch
    "mlp": ((5, 5, 3), 10, 24),
    "lenet": ((28, 28, 1), 10, 6),
    "alexnet-cifar": ((32, 32, 3), 10, 6),
    "vgg11-cifar": ((32, 32, 3), 10, 6),
    "resnet18-cifar": ((16, 16, 3), 10, 6),
    "inception-v3": ((75, 75, 3), 10, 2),
    "unet3d": ((16, 16, 16, 1), 3, 2),
    "cosmoflow": ((16, 16, 16, 1), 4, 2),
}
RECOMPUTE = {"recompute": True}
CASES = [
    ("mlp", "model", {}),
    ("lenet", "batch", {}),
    ("lenet", "integrated", RECOMPUTE),
    ("lenet", "splitbrain", {}),
    ("vgg11-cifar", "splitbrain", RECOMPUTE),
    ("alexnet-cifar", "grid", {"gather_backward": "all-reduce"}),
    ("vgg11-cifar", "domain", {}),
    ("resnet18-cifar", "integrated", {}),
    ("resnet18-cifar", "channel", RECOMPUTE),
    ("inception-v3", "domain", {"halo": "stepwise"}),
    ("unet3d", "domain", RECOMPUTE),
    ("cosmoflow", "grid", {}),
]


class Idle:
    """Kernels that do nothing: what is taken does not depend on the numbers."""

    fuses = False

    def __getattr__(self, name):
        return lambda *arrays, **options: None


def closed(network: Network, loss: L.SoftmaxCrossEntropy | L.MeanSquaredError | None = None) -> Network:
    network.add("loss", loss or L.SoftmaxCrossEntropy())
    return network


def shipped(name: str) -> tuple[Network, int]:
    shape, outputs, batch = MODELS[name]
    network = get_model(name, shape, outputs, widths=(600, 301))
    return closed(network, L.MeanSquaredError() if name == "cosmoflow" else None), batch


def everything() -> Network:
    """Every layer that the shipped networks do without, and tensors that several layers read alike."""
    net = Network((13, 11, 4))
    net.add("conv", L.Conv2d(6, 3, padding=1))
    net.add("leaky", L.LeakyReLU(0.1))
    net.add("left", L.Conv2d(6, 3, padding=1), "leaky")
    net.add("right", L.Conv2d(6, 3, padding=1, groups=2), "leaky")
    net.add("norm", L.GroupNorm(3), "right")
    net.add("add", L.Add(), "left", "norm", "leaky")
    net.add("gelu", L.GELU())
    net.add("local", L.LocalResponseNorm(3))
    net.add("pool", L.AvgPool2d(3, 2, 1, count_padding=False))
    net.add("nearest", L.Upsample(2))
    net.add("linear", L.Upsample(2, mode="linear"), "pool")
    net.add("up", L.ConvTranspose2d(5, 3, stride=2, padding=1, output_padding=1), "pool")
    net.add("concat", L.Concat(), "nearest", "linear", "up")
    net.add("fitted", L.AdaptiveAvgPool((5, 9)))
    net.add("same", L.AdaptiveAvgPool((5, 9)))
    net.add("drop", L.Dropout(0.3))
    net.add("tanh", L.Tanh())
    net.add("flatten", L.Flatten())
    net.add("fc", L.Linear(7))
    return closed(net)


class Run:
    """Passes of a program on all ranks of ``comm``; its pool is left. Where the kernels are idle, numbers are any."""

    @np.errstate(all="ignore")
    def __init__(
        self, program: Program, comm, pool: Pool, passes: int, idle: bool, accumulate: bool = False, dtype="float32"
    ):
        backend = NumpyBackend("reference", dtype)
        backend.pool = self.pool = pool
        if idle:
            backend.kernels = Idle()
        shape = program.plan.grid
        self.grid = Grid(comm, shape.rows, shape.cols, backend=backend)
        self.parameters = Parameters(program, self.grid, dtype, 0)
        self.scratch = Scratch(backend, self.parameters.dtype)
        executable = make_executable(program, self.grid, self.parameters, 0, self.scratch)
        self.inputs = executable.input_feeds
        rng = np.random.default_rng(self.grid.index)
        for feed in self.inputs:
            feed.load(rng.random(box_shape(feed.box), "float32"))
        logits = box_shape(executable.target_box)
        if isinstance(program.loss.node.layer, L.MeanSquaredError):
            self.target = rng.random(logits, "float32")
        else:
            self.target = rng.integers(0, program.loss.shapes.output[-1], logits[:-1])
        for number in range(passes):
            first = number == 0 or not accumulate
            _, sums = executable.train(self.target, 1.0, step=number, first=first, last=True)
            for pending in sums:
                pending.wait()
        self.grid.free()


def check(
    program: Program, comm, message: str, *, idle: bool = True, accumulate: bool = False, dtype: str = "float32"
) -> None:
    """Every term of the prediction beside the run that has it, on every rank."""
    exact = Run(program, comm, Exact(), 1 + accumulate, idle, accumulate, dtype)
    itemsize = ITEMSIZES[dtype]
    told = peak(program, exact.grid.index, itemsize=itemsize, accumulate=accumulate)
    assert told.activations == exact.pool.peak, f"{message}: {told}"
    assert exact.pool.used == 0 and sum(told.layers.values()) == told.activations
    values, rounded = exact.parameters.values, exact.parameters.rounded
    assert told.gradients == values.nbytes
    assert told.weights == values.nbytes + (rounded.nbytes if rounded is not values else 0)
    assert told.states == sum(a.nbytes for layer in exact.parameters.states.values() for a in layer.values())
    workspaces = exact.grid.backend._workspaces.values()
    assert told.buffers == itemsize * exact.scratch.size + sum(array.nbytes for array in workspaces), message
    frames = sum(feed.array.nbytes + 4 * math.prod(box_shape(feed.box)) for feed in exact.inputs)
    assert told.inputs == frames + 2 * exact.target.nbytes


def check_pool(program: Program, comm, message: str, *, accumulate: bool = False, dtype: str = "float32") -> None:
    """What the pool takes from the system, after some steps."""
    run = Run(program, comm, Pool(), STEPS, True, accumulate, dtype)
    told = peak(program, run.grid.index, itemsize=ITEMSIZES[dtype], accumulate=accumulate)
    assert max(run.pool.taken, told.activations) == told.pool, f"{message}: {run.pool.taken} {told}"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_activations_of_one_rank(name, recompute):
    from mpi4py import MPI

    network, batch = shipped(name)
    plan = make_plan("batch", network, GridShape(1, 1), batch, recompute=recompute)
    check(Program(network, plan, batch), MPI.COMM_SELF, name)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("name", ["lenet", "alexnet-cifar", "resnet18-cifar"])
def test_what_the_pool_takes_from_the_system(name, accumulate):
    from mpi4py import MPI

    network, batch = shipped(name)
    program = Program(network, make_plan("batch", network, GridShape(1, 1), batch), batch)
    check(program, MPI.COMM_SELF, name, accumulate=accumulate)
    check_pool(program, MPI.COMM_SELF, name, accumulate=accumulate)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_every_layer(recompute, dtype):
    from mpi4py import MPI

    network = everything()
    plan = make_plan("batch", network, GridShape(1, 1), 5, recompute=recompute)
    check(Program(network, plan, 5), MPI.COMM_SELF, "every layer", idle=False, dtype=dtype)


@pytest.mark.parametrize("accumulate", [False, True])
def test_sixteen_bits_take_half_of_the_activations(accumulate):
    from mpi4py import MPI

    network, batch = shipped("resnet18-cifar")
    program = Program(network, make_plan("batch", network, GridShape(1, 1), batch), batch)
    check(program, MPI.COMM_SELF, "float16", accumulate=accumulate, dtype="float16")
    check_pool(program, MPI.COMM_SELF, "float16", accumulate=accumulate, dtype="float16")
    half, whole = peak(program, 0, itemsize=2), peak(program, 0, itemsize=4)
    assert half.activations < 0.51 * whole.activations and half.weights == 1.5 * whole.weights


@pytest.mark.mpi
@pytest.mark.parametrize(("name", "strategy", "running"), CASES)
def test_activations_of_many_ranks(comm, name, strategy, running):
    network, batch = shipped(name)
    rows = next(rows for rows in (3, 2, 1) if comm.size % rows == 0 and rows * rows <= 2 * comm.size)
    plan = make_plan(strategy, network, GridShape(rows, comm.size // rows), batch, copies=True, **running)
    check(Program(network, plan, batch), comm, f"{name} {strategy} {plan.grid} {running}", accumulate=name == "lenet")


@pytest.mark.mpi
@pytest.mark.parametrize("number", range(6))
def test_every_layer_under_random_plans(comm, number):
    network, rng = everything(), random.Random(f"{comm.size} {number}")
    running = {"gather_backward": rng.choice(BACKWARD), "halo": rng.choice(HALOS), "recompute": rng.random() < 0.5}
    splits = {
        node.name: rng.choice(list(admitted_splits(node.layer, network.sizes(node, 5), comm.size)))
        for node in network.nodes
    }
    program = Program(network, Plan("random", GridShape(1, comm.size), splits, **running), 5)
    check(program, comm, f"number {number}: {splits} {running}", idle=False)
    check_pool(program, comm, f"number {number}: {splits} {running}")
    check(program, comm, f"number {number} in 16 bits: {splits} {running}", dtype="float16")


def test_a_large_network_on_many_ranks_is_a_matter_of_milliseconds():
    network = closed(get_model("resnet50", (224, 224, 3), 1000))
    plan = make_plan("grid", network, GridShape(16, 4096), 2**15, copies=True)
    program = Program(network, plan, 2**15)
    start = time.perf_counter()
    told = peak(program, 12345, slots=2)
    assert time.perf_counter() - start < 1.0  # 0.13 s on an idle core
    assert told.optimizer == 2 * told.weights == 2 * told.gradients
    assert told.total > told.pool > told.activations > max(told.layers.values()) > 0
    assert told.at[0] in program.plan.splits and told.at[1] == "backward"
    assert peak(program, 12345, slots=2, accumulate=True).activations > told.activations
