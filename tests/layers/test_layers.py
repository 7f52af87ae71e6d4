"""Every layer on one rank against PyTorch in float64, for y, dx, dW and db."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from serial import Serial
from torches import close, nchw, nhwc

from gridnn import layers as L
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.planning.rules import make_plan
from gridnn.program.build import build
from gridnn.program.program import Program

RNG = np.random.default_rng


# -- linear ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias):
    rng = RNG(0)
    x, w, b, dy = rng.normal(size=(5, 7)), rng.normal(size=(7, 3)), rng.normal(size=3), rng.normal(size=(5, 3))
    run = Serial(L.Linear(3, bias), x.shape, weights={"weight": w, **({"bias": b} if bias else {})})
    y = run.forward(x)
    (dx,) = run.backward(dy)
    tx, tw, tb = (torch.from_numpy(a).requires_grad_() for a in (x, w, b))
    ty = F.linear(tx, tw.T, tb if bias else None)
    ty.backward(torch.from_numpy(dy))
    close(y, ty)
    close(dx, tx.grad)
    close(run.gradient("weight"), tw.grad)
    if bias:
        close(run.gradient("bias"), tb.grad)
    assert run.layer.flops(run.shapes) == 2 * 5 * 7 * 3


# -- activations -----------------------------------------------------------------------------------------------

ACTIVATIONS = [
    (L.ReLU(), torch.relu),
    (L.LeakyReLU(), F.leaky_relu),
    (L.LeakyReLU(0.3), lambda x: F.leaky_relu(x, 0.3)),
    (L.Tanh(), torch.tanh),
    (L.GELU(), F.gelu),
    (L.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")),
]


@pytest.mark.parametrize(("layer", "function"), ACTIVATIONS, ids=lambda v: repr(v)[:20])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5, 4), (2, 3, 2, 3, 4), (0, 3)])
def test_activation(layer, function, shape):
    rng = RNG(6)
    x, dy = 3 * rng.normal(size=shape), rng.normal(size=shape)
    x.reshape(-1)[:1] = 0
    x.reshape(-1)[1:2] = -60
    run = Serial(layer, x.shape)
    y = run.forward(x)
    tx = torch.from_numpy(x).requires_grad_()
    ty = function(tx)
    ty.backward(torch.from_numpy(dy))
    close(y, ty)
    close(run.backward(dy)[0], tx.grad)


# -- dropout ---------------------------------------------------------------------------------------------------


def test_dropout():
    x = RNG(7).normal(size=(50, 40))
    run = Serial(L.Dropout(0.25), x.shape)
    y, y2 = run.forward(x), run.forward(x)
    np.testing.assert_array_equal(y, y2)
    mask = y / x
    assert set(np.round(np.unique(mask), 12)) == {0.0, np.round(1 / 0.75, 12)}
    assert abs((mask == 0).mean() - 0.25) < 0.04
    close(run.backward(np.ones_like(x))[0], mask)
    run.context.key = (1, 2, 4)
    assert (run.forward(x) != y).any()


def test_dropout_of_a_part_is_the_part_of_the_whole():
    x = np.ones((6, 9))
    whole = Serial(L.Dropout(0.5), x.shape).forward(x)
    run = Serial(L.Dropout(0.5), x.shape)
    run.context.output_box = ((2, 5), (3, 9))
    backend = run.context.backend
    close(backend.to_host(run.calls.forward(backend.asarray(x)[2:5, 3:9])), whole[2:5, 3:9], 0)


def test_dropout_outside_training():
    x = np.ones((6, 9))
    assert (Serial(L.Dropout(0.5), x.shape, training=False).forward(x) == x).all()


# -- batch norm ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5), (5, 6, 4), (3, 4, 5, 7), (2, 3, 4, 2, 3), (2, 1)])
@pytest.mark.parametrize("offset", [0, 1e4])
def test_batch_norm(shape, offset):
    rng = RNG(8)
    c = shape[-1]
    x, dy = rng.normal(size=shape) * 3 + offset, rng.normal(size=shape)
    gamma, beta = rng.normal(size=c), rng.normal(size=c)
    run = Serial(L.BatchNorm(momentum=0.2), shape, weights={"gamma": gamma, "beta": beta})
    tx = nchw(x)
    tg, tb = (torch.from_numpy(a).requires_grad_() for a in (gamma, beta))
    mean, var = torch.zeros(c, dtype=torch.float64), torch.ones(c, dtype=torch.float64)
    tolerance = 1e-11 if offset == 0 else 1e-6
    for _ in range(2):
        y = run.forward(x)
        ty = F.batch_norm(tx, mean, var, tg, tb, training=True, momentum=0.2)
        close(y, nhwc(ty), tolerance)
    ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    close(run.backward(dy)[0], nhwc(tx.grad), tolerance)
    close(run.gradient("gamma"), tg.grad, tolerance)
    close(run.gradient("beta"), tb.grad, tolerance)
    close(run.state("running_mean"), mean, tolerance)
    close(run.state("running_var"), var, tolerance)
    run.context.training = False
    close(run.forward(x), nhwc(F.batch_norm(tx, mean, var, tg, tb)), tolerance)


def test_batch_norm_asks_for_what_it_declares():
    run = Serial(L.BatchNorm(), (3, 4, 5, 7))
    x = RNG(9).normal(size=(3, 4, 5, 7))
    run.forward(x)
    run.backward(x)
    declared = run.layer.reductions(run.shapes, run.context.output_box, True)
    assert [("sum", r.axes, r.words) for r in declared] == run.context.reduced
    assert [r.phase for r in declared] == ["forward", "backward"]
    assert run.layer.reductions(run.shapes, run.context.output_box, False) == []


def test_batch_norm_of_one_value():
    with pytest.raises(UserError, match=r"over 1 x 1 = 1 value per channel has no variance"):
        L.BatchNorm().check_training(Serial(L.BatchNorm(), (1, 1, 3)).shapes)
    L.BatchNorm().check_training(Serial(L.BatchNorm(), (1, 2, 3)).shapes)
    network = Network((3,))
    network.add("norm", L.BatchNorm())
    program = Program(network, make_plan("batch", network, GridShape(1, 1), 1), 1)
    with pytest.raises(UserError, match=r"layer 'norm': BatchNorm in training"):
        build(program, 0)
    build(program, 0, kind="prediction")


# -- shape, add, concat ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 4, 2, 5)])
def test_flatten_of_sequences_and_volumes(shape):
    x = RNG(10).normal(size=shape)
    run = Serial(L.Flatten(), shape)
    y = run.forward(x)
    assert (y == x.reshape(2, -1)).all() and (run.backward(y)[0] == x).all()


def test_flatten():
    x = RNG(10).normal(size=(2, 3, 4, 5))
    run = Serial(L.Flatten(), x.shape)
    y = run.forward(x)
    assert y.shape == (2, 60) and y[1, (2 * 4 + 3) * 5 + 4] == x[1, 2, 3, 4]
    assert (run.backward(y)[0] == x).all()
    flat = x.reshape(2, 60)
    assert (Serial(L.Flatten(), flat.shape).forward(flat) == flat).all()


def test_add():
    rng = RNG(11)
    xs = [rng.normal(size=(2, 3, 3, 2)) for _ in range(3)]
    run = Serial(L.Add(), *(x.shape for x in xs))
    close(run.forward(*xs), sum(xs))
    assert all((dx == xs[0]).all() for dx in run.backward(xs[0]))


def test_concat():
    rng = RNG(12)
    xs = [rng.normal(size=(2, 3, 3, c)) for c in (2, 5, 1)]
    run = Serial(L.Concat(), *(x.shape for x in xs))
    y = run.forward(*xs)
    close(y, np.concatenate(xs, axis=-1), 0)
    for dx, x in zip(run.backward(y), xs, strict=True):
        close(dx, x, 0)


# -- losses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_softmax_cross_entropy(dtype):
    rng = RNG(13)
    x, labels = (5 * rng.normal(size=(7, 5))).astype(dtype), rng.integers(0, 5, size=7)
    x[0] += 1000
    run = Serial(L.SoftmaxCrossEntropy(), x.shape, dtype=dtype)
    loss, right = run.forward(x, target=labels)
    tx = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    wanted = F.cross_entropy(tx, torch.from_numpy(labels), reduction="sum")
    (wanted * 0.25).backward()
    tolerance = 1e-12 if dtype == np.float64 else 1e-6
    close(loss, wanted, 1e-12)
    assert right == (x.argmax(axis=1) == labels).sum()
    (dx,) = run.backward(0.25)
    assert dx.dtype == dtype
    close(dx, tx.grad, tolerance)
    assert run.context.reduced == []


@pytest.mark.parametrize("space", [(5,), (3, 4), (2, 3, 4)])
def test_softmax_cross_entropy_of_places(space):
    """Segmentation: the mean over the places of a sample, as many as there are labels."""
    rng = RNG(16)
    x, labels = 3 * rng.normal(size=(3, *space, 5)), rng.integers(0, 5, size=(3, *space))
    run = Serial(L.SoftmaxCrossEntropy(), x.shape)
    loss, right = run.forward(x, target=labels)
    tx = nchw(x)
    wanted = F.cross_entropy(tx, torch.from_numpy(labels))  # the mean over samples and places
    (wanted * 0.25).backward()
    close(loss / 3, wanted)
    close(right / 3, (x.argmax(axis=-1) == labels).mean())
    close(run.backward(0.25 / 3)[0], nhwc(tx.grad))


@pytest.mark.parametrize("logits", [np.zeros((40, 6)), np.random.default_rng(5).integers(0, 2, (40, 6)).astype(float)])
def test_of_several_largest_logits_the_first_one_is_the_answer(logits):
    """A network that has collapsed is right by chance, not always."""
    labels = np.random.default_rng(6).integers(0, 6, size=40)
    _, right = Serial(L.SoftmaxCrossEntropy(), logits.shape).forward(logits, target=labels)
    assert right == (logits.argmax(axis=1) == labels).sum() < 40


def test_labels_of_another_shape():
    with pytest.raises(
        UserError, match=r"shape \(2, 3, 3, 5\) need targets of shape \(2, 3, 3\), these have shape \(2,\)"
    ):
        L.SoftmaxCrossEntropy().check_target((2, 3, 3, 5), (2,))


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5), (4, 3, 2, 5), (4, 3, 2, 2, 5)])
def test_mean_squared_error(shape):
    rng = RNG(14)
    x, target = rng.normal(size=shape), rng.normal(size=shape)
    run = Serial(L.MeanSquaredError(), x.shape)
    loss, right = run.forward(x, target=target)
    tx = torch.from_numpy(x).requires_grad_()
    wanted = F.mse_loss(tx, torch.from_numpy(target)) * 4
    (wanted * 0.5).backward()
    close(loss, wanted)
    assert right == 0
    close(run.backward(0.5)[0], tx.grad)


def test_loss_of_a_copy_does_not_count():
    run = Serial(L.SoftmaxCrossEntropy(), (3, 4))
    run.context.counts = False
    assert (run.forward(np.zeros((3, 4)), target=np.zeros(3, np.int64)) == 0).all()
    assert np.abs(run.backward(1.0)[0]).max() > 0  # its scale is 0 there: see LayerContext.scale


# -- what is common --------------------------------------------------------------------------------------------

EMPTY = [
    (L.Linear(3), (0, 4)),
    (L.Conv2d(3, 3, padding=1), (0, 5, 5, 2)),
    (L.Conv2d(4, 3, stride=2, groups=2), (0, 5, 5, 2)),
    (L.Conv2d(4, 1), (0, 5, 5, 2)),
    (L.Conv1d(3, 3, groups=3), (0, 5, 3)),
    (L.Conv3d(3, 2), (0, 3, 3, 3, 2)),
    (L.ConvTranspose2d(3, 3, 2), (0, 3, 3, 2)),
    (L.MaxPool2d(2), (0, 4, 4, 3)),
    (L.AvgPool2d(2, padding=1, count_padding=False), (0, 4, 4, 3)),
    (L.AdaptiveAvgPool(3), (0, 4, 4, 3)),
    (L.Upsample(2), (0, 4, 4, 3)),
    (L.Upsample(2, "linear"), (0, 4, 4, 3)),
    (L.GroupNorm(3), (0, 4, 4, 3)),
    (L.LocalResponseNorm(3), (0, 4, 4, 3)),
    (L.LeakyReLU(), (0, 4)),
    (L.GlobalAvgPool(), (0, 4, 4, 3)),
    (L.ReLU(), (0, 4)),
    (L.GELU(), (0, 4)),
    (L.Dropout(0.5), (0, 4)),
    (L.Flatten(), (0, 4, 4, 3)),
    (L.Add(), (0, 3)),
    (L.Concat(), (0, 3)),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("layer", "shape"), EMPTY, ids=str)
def test_no_samples(layer, shape):
    run = Serial(layer, shape)
    y = run.forward(np.zeros(shape))
    (dx,) = run.backward(np.zeros(y.shape))
    assert dx.shape == shape
    assert all((run.gradient(name) == 0).all() for name in run.context.gradients)


@pytest.mark.filterwarnings("error")
def test_no_samples_here_but_elsewhere():
    for layer in (L.BatchNorm(), L.SoftmaxCrossEntropy(), L.MeanSquaredError()):
        run = Serial(layer, (4, 3))
        run.context.output_box = run.context.input_boxes[0]
        run.context.output_box = ((2, 2), (0, 3))
        target = np.zeros((0,), np.int64) if isinstance(layer, L.SoftmaxCrossEntropy) else np.zeros((0, 3))
        run.forward(np.zeros((0, 3)), target=target)


def test_first_layer_needs_no_gradient():
    for layer, shape in (
        (L.Linear(3), (2, 4)),
        (L.Conv2d(3, 3), (2, 4, 4, 2)),
        (L.ConvTranspose2d(3, 3), (2, 4, 4, 2)),
        (L.MaxPool2d(2), (2, 4, 4, 2)),
        (L.AvgPool2d(2), (2, 4, 4, 2)),
        (L.BatchNorm(), (3, 2)),
        (L.GroupNorm(2), (3, 2, 2)),
    ):
        run = Serial(layer, shape)
        run.context.needs_gradient = False
        y = run.forward(np.ones(shape))
        assert run.backward(y) == [None]


def test_gradient_may_be_the_inside_of_a_frame():
    rng = RNG(15)
    shape = (2, 5, 6, 4)
    for layer in (
        L.Conv2d(4, 3, padding=1),
        L.Conv2d(4, 3, padding=1, groups=4),
        L.Conv2d(4, 1),
        L.ConvTranspose2d(4, 3, padding=1),
        L.ConvTranspose2d(4, 1),
        L.MaxPool2d(3, 1, 1),
        L.AvgPool2d(3, 1, 1, count_padding=False),
        L.AdaptiveAvgPool((5, 6)),
        L.Upsample(1),
        L.ReLU(),
        L.LeakyReLU(),
        L.GELU(),
        L.BatchNorm(),
        L.GroupNorm(2),
        L.LocalResponseNorm(3),
    ):
        x, frame = rng.normal(size=shape), rng.normal(size=(2, 8, 9, 4))
        run = Serial(layer, shape)
        for value in run.context.parameters.values():
            run.context.backend.from_host(rng.normal(size=value.shape), value)
        run.forward(x)
        inside = run.context.backend.asarray(frame)[:, 1:6, 2:8]
        view = run.backward(inside)[0]
        grads = {name: run.gradient(name).copy() for name in run.context.gradients}
        close(run.backward(inside.copy())[0], view)
        for name, value in grads.items():
            close(run.gradient(name), value)


REFUSED = [
    (L.Conv2d(3, 5), (4, 4, 2), r"Conv2d 5 on h of a 4x4 input with padding 0: \(4 \+ 0 - 5\) / 1 \+ 1 = 0 outputs"),
    (L.Conv2d(3, 3, dilation=2), (4, 9, 2), r"padding 0, dilation 2 \(reach 5\): \(4 \+ 0 - 5\) / 1 \+ 1 = 0"),
    (L.Conv2d(4, 3, groups=2), (4, 4, 3), "3 input channels / 2 groups = 1.5"),
    (L.Conv2d(4, 3), (4, 4), "shape .h, w, channels."),
    (L.MaxPool2d(3), (2, 4, 2), "MaxPool2d 3 on h of a 2x4"),
    (L.Linear(4), (3, 3, 2), "Flatten"),
    (L.Conv1d(4, 3), (4, 4, 2), r"Conv1d needs samples of shape \(w, channels\)"),
    (L.Conv3d(4, 3), (4, 4, 2), r"samples of shape \(d, h, w, channels\)"),
    (L.Conv3d(4, 3), (4, 2, 4, 2), r"Conv3d 3 on h of a 4x2x4 input with padding 0: \(2 \+ 0 - 3\) / 1 \+ 1 = 0"),
    (L.SoftmaxCrossEntropy(), (3, 3, 2, 2, 2), "classes"),
    (L.GlobalAvgPool(), (3,), "channels"),
]


@pytest.mark.parametrize(("layer", "shape", "text"), REFUSED, ids=lambda v: str(v)[:30])
def test_refused_inputs(layer, shape, text):
    with pytest.raises(UserError, match=text):
        layer.infer(shape)


def test_refused_options():
    for make, text in [
        (lambda: L.Conv2d(4, 0), "kernel=0"),
        (lambda: L.Conv2d(4, 3, stride=(1, 2, 3)), "stride"),
        (lambda: L.Conv2d(4, 3, padding=-1), "padding=-1"),
        (lambda: L.Conv2d(4, 3, padding=((1, 2), 3.5)), "padding"),
        (lambda: L.Conv2d(4, 3, groups=3), "4 output channels / 3 groups"),
        (lambda: L.Conv2d(4, 3, groups=0), "groups=0"),
        (lambda: L.Conv1d(4, 3, padding=(1, 2)), r"give an integer, \(w,\), or \(\(before, after\),\)"),
        (lambda: L.Conv3d(4, (3, 3)), r"one integer or \(d, h, w\)"),
        (lambda: L.AvgPool3d(2, padding=(0, 0, 2)), "padding 2 over w > kernel / 2 = 1"),
        (lambda: L.MaxPool2d(2, 0), "stride=0"),
        (lambda: L.LeakyReLU(-0.1), r"slope lies in \[0, 1\]"),
        (lambda: L.MaxPool2d(2, padding=2), "padding 2 over h > kernel / 2 = 1"),
        (lambda: L.Dropout(1.0), "less than 1"),
        (lambda: L.GELU("erf"), "'none' or 'tanh'"),
        (lambda: L.BatchNorm(eps=0.0), "eps is positive"),
        (lambda: L.Linear(0), "at least one"),
        (lambda: L.Add().infer((2, 3), (2, 4)), "one shape"),
        (lambda: L.Concat().infer((2, 3, 1), (2, 4, 1)), "channels only"),
    ]:
        with pytest.raises(UserError, match=text):
            make()


def test_layers_are_values():
    assert L.Conv2d(8, 3, padding=1) == L.Conv2d(8, (3, 3), 1, ((1, 1), (1, 1)))
    assert L.Conv1d(8, 3) == L.Conv1d(8, (3,)) != L.Conv2d(8, 3) and "Conv3d(channels=8" in repr(L.Conv3d(8, 3))
    assert L.MaxPool2d(2) != L.AvgPool2d(2)
    assert len({L.ReLU(), L.ReLU(), L.MaxPool2d(2), L.MaxPool2d((2, 2), 2)}) == 2
