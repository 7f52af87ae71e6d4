"""CUDA graphs of the parts of a step, on the stand-in for CuPy: the same bits as without, and fewer calls."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import fake_nvmath
import numpy as np
import pytest
from backends import import_standin
from running import BRANCHED, LENET, MLP, job_of, trained

from gridnn.errors import UserError
from gridnn.layers.activation import ReLU
from gridnn.layers.computation import Task
from gridnn.program.schedule import Begin, End, Load, Update
from gridnn.train.audit import audit
from gridnn.train.session import Session
from gridnn.train.setup import make_optimizer

# Two steps an epoch and two batches to evaluate: all is recorded in the second epoch, and launched in the third.
LENET = LENET.replaced(backend="numpy", transport="auto", samples=26, epochs=3, shape="15x12x2")
MLP = MLP.replaced(backend="numpy", transport="auto", samples=26, epochs=3)
MIXED = LENET.replaced(model=BRANCHED, shape="12x9x3", dtype="float32")
RUNS = {
    "lenet": LENET,
    "mixed": MIXED.replaced(optimizer="adamw", nesterov=False, clip=0.5, accumulate=3),
    "recomputed": MIXED.replaced(recompute=True),
    "float16": MIXED.replaced(dtype="float16"),
    "rounds": LENET.replaced(strategy="splitbrain", grid="auto"),
}
DIVIDED = {
    1: [("lenet", {"grid": "1x1"}), ("mixed", {"grid": "1x1"}), ("recomputed", {"grid": "1x1"}), ("float16", {})],
    2: [("lenet", {"grid": "2x1"}), ("mixed", {"grid": "1x2"}), ("rounds", {"group": 2})],
    4: [("recomputed", {"grid": "2x2"}), ("lenet", {"grid": "4x1", "strategy": "domain", "domain": "2x2"})],
}

OTHER = Task("", ())


@pytest.fixture(autouse=True)
def _cupy():
    import_standin()


def both(config, comm):
    """The run without graphs and with them."""
    config = config.replaced(backend="cupy")
    return trained(config, comm), trained(config.replaced(graphs=True), comm)


@pytest.mark.mpi
def test_the_bits_are_those_of_a_run_without(comm):
    if comm.size not in DIVIDED:
        pytest.skip("on 1, 2 and 4 ranks")
    for name, changes in DIVIDED[comm.size]:
        plain, graphs = both(RUNS[name].replaced(**changes), comm)
        assert graphs.curve == plain.curve, name
        assert graphs.epochs == plain.epochs, name
        assert [note for note in graphs.notes if "CUDA graphs" in note], name


@pytest.mark.mpi
def test_what_moves_is_what_is_predicted(comm):
    if comm.size != 4:
        pytest.skip("on 4 ranks")
    config = RUNS["lenet"].replaced(backend="cupy", graphs=True, grid="2x2", steps=3)
    assert audit(config, job_of(comm)).equal


def test_epilogues_of_products(standin, monkeypatch, comm):
    if comm.size > 1:
        pytest.skip("on one rank")
    log = fake_nvmath.install(monkeypatch)
    plain, graphs = both(MLP.replaced(dtype="float32", dropout=0.0, widths="24,16,9"), comm)
    assert graphs.curve == plain.curve
    assert {"RELU_AUX_BIAS", "DRELU"} <= set(log)


def session_of(comm, **changes):
    config = RUNS["mixed"].replaced(backend="cupy", grid="1x1", accumulate=1, clip=None, **changes)
    return Session(config, job_of(comm))


def step(session, number):
    indices = np.arange(13)
    loss = session.step(indices, number)
    session.update(make_optimizer(session.config.train).start(session.parameters), 0.01)
    return loss


def test_the_loss_may_be_scaled_otherwise_in_every_step(comm):
    losses = []
    for graphs in (False, True):
        session = session_of(comm, dtype="float16", graphs=graphs)
        losses.append([])
        for number in range(1, 7):
            session.loss_scale.value = 2.0**number
            losses[-1].append(step(session, number))
    assert losses[0] == losses[1]


def test_a_part_is_one_call(comm, standin):
    """Kernels are asked for one by one twice, then at once; those that differ from step to step still one by one."""
    session, asked = session_of(comm, graphs=True), []
    for number in range(1, 5):
        with standin.standin.record() as told:
            step(session, number)
        asked.append(Counter(entry.operation for entry in told))
    launched = [count["graphLaunch"] for count in asked]
    assert launched == [0, 3, 3, 3]  # forward to the dropout, on to the loss, and backward from the loss
    assert sum(asked[2].values()) == sum(asked[3].values()) < sum(asked[0].values()) / 2


def test_nothing_is_allocated_from_the_third_step_on(comm):
    session, counts = session_of(comm, graphs=True), []
    for number in range(1, 6):
        step(session, number)
        counts.append(session.grid.backend.device.pool.allocations)
    assert len(set(counts[2:])) == 1, counts


def test_passes_share_their_memory(comm):
    """Those of training, and those of evaluation, whose graphs are recorded later: one block, and one pool."""
    session = session_of(comm, graphs=True)
    for number in range(1, 4):
        step(session, number)
    taken = session.captures[0]._recorder.taken
    for _ in range(3):
        session.evaluate(session.data.train)
    assert all(capture.regions and all(region.graph for region in capture.regions) for capture in session.captures)
    recorders = {id(capture._recorder): capture._recorder for capture in session.captures}
    assert len(session.captures) > 1 and sum(recorder.taken for recorder in recorders.values()) == taken > 0


def test_graphs_are_of_what_repeats_itself_between_two_movements(comm):
    session = session_of(comm, graphs=True)
    for number in range(1, 3):
        step(session, number)
    (capture,) = session.captures
    operations = session.executable(13).schedule.operations
    assert all(region.graph and region.stop - region.start > 1 for region in capture.regions)
    inside = {n for region in capture.regions for n in range(region.start, region.stop)}
    for number, operation in enumerate(operations):
        if isinstance(operation, Begin | End | Load | Update) or getattr(operation, "task", OTHER).stochastic:
            assert number not in inside, operation
    assert [sorted(region.layers & {"conv1", "drop", "fc2", "loss"}) for region in capture.regions] == [
        ["conv1"],
        ["fc2", "loss"],
        ["conv1", "drop", "fc2"],
    ]


def test_a_mistake_while_a_part_is_recorded_leaves_the_device_usable(comm, monkeypatch):
    forward, broken = ReLU.forward, []

    def perhaps_broken(self, context, x, y):
        if broken:
            raise ValueError("broken")
        forward(self, context, x, y)

    with monkeypatch.context() as patched:
        patched.setattr(ReLU, "forward", perhaps_broken)
        session = session_of(comm, graphs=True)
        step(session, 1)
        broken.append(True)
        with pytest.raises(ValueError, match="broken"):
            step(session, 2)
    sessions = [session_of(comm, graphs=graphs) for graphs in (True, False)]
    assert [step(sessions[0], number) for number in range(1, 5)] == [
        step(sessions[1], number) for number in range(1, 5)
    ]


def test_what_cannot_be_captured_is_refused(comm, monkeypatch):
    """A capture that the device says is invalid: nothing goes on without graphs in silence."""
    forward = ReLU.forward

    def waiting(self, context, x, y):
        with suppress(context.backend.xp.cuda.runtime.CUDARuntimeError):
            context.backend.synchronize()
        forward(self, context, x, y)

    monkeypatch.setattr(ReLU, "forward", waiting)
    session = session_of(comm, graphs=True)
    step(session, 1)
    with pytest.raises(UserError, match=r"--graphs: the device does not capture these layers \(.*\): leave it out"):
        step(session, 2)


def test_a_mistake_that_ends_a_capture_is_told(comm, monkeypatch):
    """CuPy's own complaint, that the capture is invalid, must not hide what made it so."""
    forward = ReLU.forward

    def waiting(self, context, x, y):
        context.backend.synchronize()
        forward(self, context, x, y)

    monkeypatch.setattr(ReLU, "forward", waiting)
    session = session_of(comm, graphs=True)
    step(session, 1)
    with pytest.raises(session.grid.backend.xp.cuda.runtime.CUDARuntimeError, match="captur"):
        step(session, 2)
    monkeypatch.setattr(ReLU, "forward", forward)
    session.grid.backend.synchronize()  # the stream is as it was


def test_a_first_layer_that_is_not_finite_is_found(comm):
    session = session_of(comm, graphs=True)
    for number in range(1, 4):
        step(session, number)
    session.parameters.value(session.parameters.entries[0])[...] = np.inf
    with pytest.raises(UserError, match="the first output that is not finite is that of layer 'fc2'"):
        step(session, 4)


def test_graphs_belong_to_gpus():
    with pytest.raises(UserError, match="--graphs has no effect with --backend numpy"):
        LENET.replaced(graphs=True).validate()
