"""Networks of several inputs, integers among them, and several outputs; axes of a layer's own."""

from __future__ import annotations

import numpy as np
import pytest
from embedding import Embedding
from running import job_of

import gridnn as gn
from gridnn.cost.count import predict
from gridnn.layout.split import Split
from gridnn.planning.propagate import propagate

WORDS, LENGTH = 11, 6
RNG = np.random.default_rng(1)
X = {"ids": RNG.integers(0, WORDS, (20, LENGTH)), "numbers": RNG.normal(size=(20, 5))}
Y = RNG.integers(0, 3, 20)
SGD = gn.optim.SGD(lr=0.2, momentum=0.9)


def network() -> gn.Network:
    L, net = gn.layers, gn.Network({"ids": gn.network.Input((LENGTH,), "int64"), "numbers": (5,)})
    net.add("embed", Embedding(WORDS, 4), "ids")
    net.add("mean", L.GlobalAvgPool())
    net.add("side", L.Linear(4), "numbers")
    net.add("both", L.Concat(), "mean", "side")
    net.add("relu", L.ReLU())
    net.add("aux", L.Linear(2), "relu")
    net.add("logits", L.Linear(3), "relu")
    net.add("loss", L.SoftmaxCrossEntropy())
    net.give("logits", "aux")
    return net


def plans(ranks: int) -> list[gn.Plan]:
    net, made = network(), []
    for strategy in ("batch", "grid", "optimal"):
        made.append(gn.plan(net, 10, ranks, strategy=strategy, replicas=True))
    divided = {"embed": Split.of(v=ranks), "side": Split.of(ci=ranks), "logits": Split.of(co=ranks)}
    if ranks < 4:
        splits = propagate(net, divided, ranks, 10, replicas=True)
        made.append(gn.Plan("own", gn.layout.gridshape.GridShape(ranks, 1), splits))
    return made


def outcome(comm, plan):
    made = gn.compile(network(), plan, job_of(comm), dtype="float64", seed=5)
    batches = [slice(0, 10), slice(10, 20)]
    made.ledger.clear()
    part = {name: value[:10] for name, value in X.items()}
    losses = [made.step((part, Y[:10]), SGD).loss]
    measured = made.ledger.integers()
    losses += [
        made.step(({name: value[b] for name, value in X.items()}, Y[b]), SGD).loss for _ in range(3) for b in batches
    ]
    found = losses, made.evaluate((X, Y)).loss, made.predict(X, batch=8), made.parameters["embed.weight"]
    program = gn.program.program.Program(network(), plan, 10)
    return found, measured, predict(program, made.grid.index).integers()


@pytest.mark.mpi
def test_every_plan_has_the_serial_numbers(comm):
    from mpi4py import MPI

    serial, *_ = outcome(MPI.COMM_SELF, plans(1)[0])
    assert serial[0][-1] < serial[0][0]
    for plan in plans(comm.size):
        found, measured, predicted = outcome(comm, plan)
        assert measured == predicted, plan
        np.testing.assert_allclose(found[0], serial[0], rtol=1e-10, err_msg=str(plan))
        np.testing.assert_allclose(found[1], serial[1], rtol=1e-10)
        np.testing.assert_allclose(found[3], serial[3], rtol=1e-10)
        assert list(found[2]) == ["logits", "aux"]
        for name, value in serial[2].items():
            np.testing.assert_allclose(found[2][name], value, rtol=1e-10)


def test_what_training_does_not_need_is_not_run():
    net = network()
    plan = gn.plan(net, 10, 1, strategy="batch")
    build, Program = gn.program.build.build, gn.program.program.Program
    for kind, layers in (("training", {"aux"}), ("evaluation", {"aux"}), ("prediction", {"loss"})):
        run = {operation.layer for operation in build(Program(net, plan, 10), 0, kind=kind).operations}
        assert {node.name for node in net.nodes} - run == layers


def test_wrong_inputs_are_refused():
    net = network()
    with pytest.raises(gn.errors.UserError, match="Linear reads numbers, but input 'ids' has integers"):
        net.add("wrong", gn.layers.Linear(3), "ids")
    with pytest.raises(gn.errors.UserError, match="unknown layer 'logit': did you mean logits"):
        net.give("logit")
    with pytest.raises(gn.errors.UserError, match="unknown type of input 'int8'"):
        gn.Network({"ids": gn.network.Input((3,), "int8")})
    with pytest.raises(gn.errors.UserError, match="'a' of a sample has the shape"):
        gn.Network({"a": (0,)})
    with pytest.raises(gn.errors.UserError, match="arrays: b: 2 samples, but 3 targets"):
        gn.data.from_arrays({"a": np.zeros((3, 2)), "b": np.zeros((2, 2))}, np.zeros(3, int))
    with pytest.raises(gn.errors.UserError, match="a Linear layer has no axis v"):
        gn.plan(net, 10, 1)
        gn.program.program.Program(
            net, gn.Plan("x", gn.layout.gridshape.GridShape(1, 2), propagate(net, {"logits": Split.of(v=2)}, 2, 10)), 10
        )
