"""Every layer and kernel on arrays that refuse to be read by the host."""

from __future__ import annotations

import numpy as np
import pytest
from serial import Serial
from strict import StrictBackend

from gridnn import layers as L
from gridnn.kernels import random

IMAGES = (2, 6, 7, 4)
LAYERS = [
    (L.Linear(3), [(5, 4)]),
    (L.Conv2d(6, 3, padding=1), [IMAGES]),
    (L.Conv2d(6, (2, 3), stride=2, dilation=2, groups=2), [IMAGES]),
    (L.Conv2d(3, 1), [IMAGES]),
    (L.Conv2d(4, 3, groups=4), [IMAGES]),
    (L.Conv1d(3, 3, 2, 1), [(2, 7, 4)]),
    (L.Conv3d(3, 2), [(2, 3, 4, 5, 2)]),
    (L.ConvTranspose2d(6, 3, 2, 1, groups=2), [IMAGES]),
    (L.ConvTranspose3d(2, 2, 2), [(2, 2, 3, 2, 4)]),
    (L.MaxPool2d(3, 2, 1), [IMAGES]),
    (L.AvgPool2d(2), [IMAGES]),
    (L.AvgPool2d(3, 2, 1, count_padding=False), [IMAGES]),
    (L.AdaptiveAvgPool((4, 2)), [IMAGES]),
    (L.Upsample(2), [IMAGES]),
    (L.Upsample(2, "linear"), [IMAGES]),
    (L.GroupNorm(2), [IMAGES]),
    (L.LocalResponseNorm(3), [IMAGES]),
    (L.LeakyReLU(), [IMAGES]),
    (L.GlobalAvgPool(), [IMAGES]),
    (L.ReLU(), [IMAGES]),
    (L.Tanh(), [IMAGES]),
    (L.GELU(), [IMAGES]),
    (L.GELU("tanh"), [IMAGES]),
    (L.Dropout(0.3), [IMAGES]),
    (L.BatchNorm(), [IMAGES]),
    (L.Flatten(), [IMAGES]),
    (L.Add(), [IMAGES, IMAGES]),
    (L.Concat(), [IMAGES, (2, 6, 7, 3)]),
    (L.SoftmaxCrossEntropy(), [(5, 4)]),
    (L.MeanSquaredError(), [(5, 4)]),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("layer", "shapes"), LAYERS, ids=str)
def test_layers(layer, shapes, training, dtype):
    results = []
    for backend in (None, StrictBackend()):
        rng = np.random.default_rng(0)
        run = Serial(layer, *shapes, dtype=dtype, backend=backend, training=training)
        inputs = [rng.normal(size=shape).astype(dtype) for shape in shapes]
        softmax = isinstance(layer, L.SoftmaxCrossEntropy)
        y = run.forward(*inputs, target=rng.integers(0, 4, size=5) if softmax else inputs[0][::-1].copy())
        results.append([y])
        if training:
            gradient = 0.5 if isinstance(layer, (L.SoftmaxCrossEntropy, L.MeanSquaredError)) else y
            results[-1] += run.backward(gradient) + [run.gradient(name) for name in run.context.gradients]
    for got, wanted in zip(*results, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def test_updates_and_random_numbers():
    backend = StrictBackend()
    p, g, m, v = (backend.full((50,), value, "float32") for value in (1, 0.1, 0, 0))
    scratch = backend.workspace("float32")
    backend.kernels.sgd(p, g, m, 0.1, 0.9, True, 1e-4, scratch)
    backend.kernels.adamw(p, g, m, v, 1, 0.1, 0.9, 0.999, 1e-8, 0.01, scratch)
    assert np.isfinite(backend.to_host(p)).all()
    part = backend.uniform((1, 2), ((1, 3), (0, 4)), (5, 4), "float64")
    np.testing.assert_array_equal(backend.to_host(part), random.uniform(np, (1, 2), ((1, 3), (0, 4)), (5, 4)))


def test_strict_arrays_refuse():
    a = StrictBackend().zeros((2,), "float64")
    host = np.zeros(2)
    for use in (
        lambda: np.asarray(a),
        lambda: np.add(a, 1),
        lambda: memoryview(a),
        lambda: float(a[0]),
        lambda: int(a[0]),
        lambda: bool(a[0]),
        lambda: [0, 1][a[0]],
        lambda: list(a),
        lambda: a[0].item(),
        lambda: a.tolist(),
        lambda: a + host,
        lambda: host + a,
        lambda: a.__setitem__(0, host),
        lambda: host.__setitem__(slice(None), a),
        lambda: StrictBackend().xp.add(a, host),
    ):
        with pytest.raises((TypeError, ValueError)):
            use()
