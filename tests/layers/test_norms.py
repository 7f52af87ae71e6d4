"""Group norm and local response norm on one rank against PyTorch; what norms do when forward runs again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from serial import Serial
from torches import check_against, close, nchw, nhwc

from gridnn import layers as L
from gridnn.errors import UserError

RNG = np.random.default_rng
SHAPES = [(3, 6), (3, 5, 6), (3, 4, 5, 6), (2, 3, 2, 4, 6)]


@pytest.mark.parametrize(("shape", "groups"), [*itertools.product(SHAPES[1:], (1, 2, 3, 6)), (SHAPES[0], 2)])
def test_group_norm(shape, groups):
    rng = RNG(0)
    x, dy, gamma, beta = rng.normal(size=shape) + 2, rng.normal(size=shape), rng.normal(size=6), rng.normal(size=6)
    run = Serial(L.GroupNorm(groups, 1e-4), shape, weights={"gamma": gamma, "beta": beta})
    y = run.forward(x)
    (dx,) = run.backward(dy)
    tx, tg, tb = nchw(x), *(torch.from_numpy(a).requires_grad_() for a in (gamma, beta))
    ty = F.group_norm(tx, groups, tg, tb, 1e-4)
    ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    close(y, nhwc(ty), 1e-11)
    close(dx, nhwc(tx.grad), 1e-10)
    close(run.gradient("gamma"), tg.grad, 1e-11)
    close(run.gradient("beta"), tb.grad, 1e-11)
    run.context.training = False
    close(run.forward(x), y, 0)


@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize(
    "options", [(5,), (5, 1e-2, 0.75, 2.0), (4, 0.5, 1.5, 0.5), (1, 1.0), (2, 1.0), (13, 3.0, 0.5)]
)
def test_local_response_norm(shape, options):
    run = Serial(L.LocalResponseNorm(*options), shape)
    check_against(run, lambda t: F.local_response_norm(t, *options), RNG(1).normal(size=shape))


@pytest.mark.parametrize("layer", [L.BatchNorm(), L.GroupNorm(2)], ids=str)
def test_forward_again_changes_nothing(layer):
    """With recomputation: no sums, no running statistics, the same output and gradients."""
    rng = RNG(3)
    x, dy = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 4, 5, 6))
    once, twice = Serial(layer, x.shape), Serial(layer, x.shape)
    y = once.forward(x)
    twice.forward(x)
    states = {name: twice.state(name).copy() for name in twice.context.state}
    np.testing.assert_array_equal(twice.forward(x, recomputing=True), y)
    assert [r[0] for r in twice.context.reduced] == ["sum"]
    assert all((twice.state(name) == value).all() for name, value in states.items())
    np.testing.assert_array_equal(twice.backward(dy)[0], once.backward(dy)[0])
    np.testing.assert_array_equal(twice.gradient("gamma"), once.gradient("gamma"))


def test_group_norm_asks_for_what_it_declares():
    x = RNG(4).normal(size=(3, 4, 5, 6))
    for training in (True, False):
        run = Serial(L.GroupNorm(3), x.shape, training=training)
        run.forward(x)
        if training:
            run.backward(x)
        declared = run.layer.reductions(run.shapes, run.context.output_box, training)
        assert [("sum", r.axes, r.words) for r in declared] == run.context.reduced
        assert [r.phase for r in declared] == ["forward", "backward"][: 1 + training]


def test_refused():
    for make, text in [
        (lambda: L.GroupNorm(4).infer((3, 3, 6)), "6 channels / 4 groups = 1.5"),
        (lambda: L.GroupNorm(6).infer((6,)), "6 values a sample / 6 groups = 1 value a group has no variance"),
        (lambda: L.GroupNorm(0), "at least one group"),
        (lambda: L.LocalResponseNorm(0), "size is at least 1"),
        (lambda: L.LocalResponseNorm(5, k=0.0), "k positive"),
    ]:
        with pytest.raises(UserError, match=text):
            make()
