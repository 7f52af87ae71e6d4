"""Parameters that layers share, with their axes reversed or not, and frozen ones: on any grid, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from embedding import Embedding
from running import job_of

import gridnn as gn
from gridnn.cost.count import predict
from gridnn.cost.memory import peak
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import Split
from gridnn.planning.propagate import propagate
from gridnn.program.program import Program

WORDS, LENGTH, WIDTH = 9, 5, 6
RNG = np.random.default_rng(2)
IDS, Y = RNG.integers(0, WORDS, (12, LENGTH)), RNG.integers(0, WORDS, 12)
L = gn.layers


def network(shared: bool = True, frozen: tuple[str, ...] = ()) -> gn.Network:
    """A tied embedding: the table is also the head's, reversed; two layers in between have one matrix."""
    net = gn.Network({"ids": gn.network.Input((LENGTH,), "int64")})
    net.add("embed", Embedding(WORDS, WIDTH))
    net.add("mean", L.GlobalAvgPool())
    net.add("one", L.Linear(WIDTH))
    net.add("tanh", L.Tanh())
    net.add("two", L.Linear(WIDTH, bias=False), share={"weight": "one.weight"} if shared else None)
    net.add("head", L.Linear(WORDS), share={"weight": "embed.weight.T"} if shared else None)
    net.add("loss", L.SoftmaxCrossEntropy())
    net.freeze(*frozen)
    return net


def plans(net, ranks: int) -> list[gn.Plan]:
    """Samples divided, and the width of everything that has it: the table by ``co``, the head by ``ci``."""
    made = [gn.plan(net, 6, ranks, strategy="batch", replicas=True)]
    if ranks in (2, 3):
        cut = {"embed": Split.of(co=ranks), "one": Split.of(replicas=ranks), "two": Split.of(replicas=ranks)}
        splits = propagate(net, {**cut, "head": Split.of(ci=ranks)}, ranks, 6, replicas=True)
        made.append(gn.Plan("own", GridShape(ranks, 1), splits))
    return made


def outcome(comm, net, plan, optimizer, accumulate=1):
    made = gn.compile(net, plan, job_of(comm), dtype="float64", seed=4, accumulate=accumulate)
    first = {name: made.parameters[name] for name in made.parameters}
    losses = [made.step((IDS[part], Y[part]), optimizer).loss for part in (slice(0, 6), slice(6, 12)) * 3]
    return first, losses, {name: made.parameters[name] for name in made.parameters}, made


def by_torch(first, frozen, batches):
    torch = pytest.importorskip("torch")
    values = {name: torch.tensor(value, requires_grad=name not in frozen) for name, value in first.items()}
    sgd = torch.optim.SGD([value for value in values.values() if value.requires_grad], lr=0.3, momentum=0.9)
    losses = []
    for part in batches:
        x = values["embed.weight"][torch.tensor(IDS[part])].mean(1)
        x = torch.tanh(x @ values["one.weight"] + values["one.bias"]) @ values["one.weight"]
        loss = torch.nn.functional.cross_entropy(
            x @ values["embed.weight"].T + values["head.bias"], torch.tensor(Y[part])
        )
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    return losses, {name: value.detach().numpy() for name, value in values.items()}


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("frozen", "accumulate"),
    [((), 1), ((), 3), (("one.bias",), 1), (("one",), 1), (("embed.weight",), 3)],
    ids=str,
)
def test_shared_and_frozen_parameters_are_those_of_pytorch(comm, frozen, accumulate):
    net = network(frozen=frozen)
    keys = {"one.weight", "one.bias"} if frozen == ("one",) else set(frozen)
    for plan in plans(net, comm.size):
        first, losses, last, made = outcome(comm, net, plan, gn.optim.SGD(lr=0.3, momentum=0.9), accumulate)
        assert set(first) == {"embed.weight", "one.weight", "one.bias", "head.bias"}
        expected, values = by_torch(first, keys, [slice(0, 6), slice(6, 12)] * 3)
        np.testing.assert_allclose(losses, expected, rtol=1e-10, err_msg=str(plan))
        for name, value in values.items():
            np.testing.assert_allclose(last[name], value, rtol=1e-10, atol=1e-13, err_msg=f"{name} of {plan}")
            assert name not in keys or np.array_equal(last[name], first[name])
        if accumulate == 1:
            program = Program(net, plan, 6)
            counted = predict(program, made.grid.index).integers()
            made.ledger.clear()
            made.step((IDS[:6], Y[:6]), gn.optim.SGD())
            assert made.ledger.integers() == counted
            told, parameters = peak(program, made.grid.index, itemsize=8, slots=1), made._runner.parameters
            assert told.weights == parameters.all_values.nbytes
            assert told.gradients == told.optimizer == parameters.gradients.nbytes


@pytest.mark.mpi
def test_they_are_saved_and_moved_to_other_plans(comm, tmp_path_factory):
    net = network(frozen=("one.bias",))
    path = str(comm.bcast(tmp_path_factory.mktemp("shared") if comm.rank == 0 else None) / "model.safetensors")
    optimizer = gn.optim.AdamW(lr=0.05)
    *_, last, made = outcome(comm, net, plans(net, comm.size)[0], optimizer)
    made.save(path)
    expected = made.step((IDS[:6], Y[:6]), optimizer).loss
    for plan in plans(net, comm.size):
        again = gn.compile(net, plan, job_of(comm), dtype="float64", seed=99)
        again.load(path, optimizer)
        for name, value in last.items():
            np.testing.assert_array_equal(again.parameters[name], value)
        again.reshard(plans(net, comm.size)[-1])
        assert again.step((IDS[:6], Y[:6]), optimizer).loss == pytest.approx(expected, rel=1e-10)


def test_what_cannot_be_shared_is_refused():
    net = network(shared=False)
    for share, told in (
        ({"weight": "embed.weight"}, r"weight has the shape \(6, 9\), but embed.weight has \(9, 6\); embed.weight.T"),
        ({"weights": "embed.weight"}, "unknown parameter 'weights': did you mean weight"),
        ({"weight": "embd.weight"}, "unknown parameter 'embd.weight': did you mean embed.weight"),
    ):
        with pytest.raises(UserError, match=told):
            net.add("more", L.Linear(WORDS), "two", share=share)
    assert "more" not in net.shapes
    with pytest.raises(UserError, match="unknown parameter 'on'"):
        net.freeze("on")
    assert network().parameter_count == WORDS * WIDTH + WIDTH * WIDTH + WIDTH + WORDS
    assert network(frozen=("one",)).parameter_count == WORDS * WIDTH + WORDS


def test_splits_that_cut_a_shared_parameter_in_different_ways_are_refused():
    net = network()
    splits = propagate(net, {"embed": Split.of(co=2), "head": Split.of(co=2)}, 2, 6, replicas=True)
    with pytest.raises(UserError, match=r"layer 'head': its weight is embed.weight.T, but its split co=2 and co=2"):
        Program(net, gn.Plan("own", GridShape(2, 1), splits), 6)


@pytest.mark.mpi
def test_a_frozen_norm_lets_gradients_through(comm):
    """And keeps its statistics: the other layers are after a step what they are where it is trained."""
    found = []
    for frozen in (False, True):
        net = gn.Sequential(
            (7, 7, 2), L.Conv2d(4, 3), L.BatchNorm(), L.GroupNorm(2), L.ReLU(), L.Flatten(), L.Linear(3)
        )
        net.add("loss", L.SoftmaxCrossEntropy())
        if frozen:
            net.freeze("layer1", "layer2.gamma")
        plan = gn.plan(net, 8, comm.size, strategy="batch", replicas=True)
        made = gn.compile(net, plan, job_of(comm), dtype="float64")
        start = {name: made.parameters[name] for name in made.parameters}
        rng = np.random.default_rng(0)
        made.step((rng.normal(size=(8, 7, 7, 2)), rng.integers(0, 3, 8)), gn.optim.SGD(lr=0.5))
        found.append({name: (start[name], made.parameters[name]) for name in start})
    for name, (before, after) in found[1].items():
        if name in ("layer1.gamma", "layer1.beta", "layer2.gamma"):
            np.testing.assert_array_equal(before, after)
            assert not np.array_equal(*found[0][name])
        else:
            np.testing.assert_allclose(after, found[0][name][1], rtol=1e-12)
            assert not np.array_equal(before, after)
