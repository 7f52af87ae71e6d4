"""float16 and bfloat16: every layer beside float64, training beside float32, loss scaling, and what is kept."""

from __future__ import annotations

import sys
from inspect import signature

import numpy as np
import pytest
from running import Told, folder, job_of, trained, trained_on
from serial import Serial

from gridnn import layers as L
from gridnn.errors import UserError
from gridnn.kernels import NumpyBackend
from gridnn.kernels.cpu.widened import ARITHMETIC
from gridnn.kernels.table import TABLE
from gridnn.train.config import RunConfig
from gridnn.train.loss_scale import PATIENCE, START, LossScale
from gridnn.train.session import Session
from gridnn.train.trainer import Trainer

HALVES = ["float16", "bfloat16"]
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2}  # docs/precision.md: of the largest number of an array
CURVE = {"float16": (1e-3, 3e-2), "bfloat16": (5e-3, 5e-2)}  # of the losses of LeNet on digits, first and all steps
DIGITS = RunConfig.of(model="lenet", dataset="digits", epochs=1, batch=64, lr=0.02, kernels="reference", grid="1x-1")
SHORT = DIGITS.replaced(dataset="synthetic", shape="20x12x2", samples=96, batch=16)  # six steps
LINE, IMAGE, VOLUME = (3, 11, 4), (3, 8, 7, 4), (2, 5, 4, 5, 4)

LAYERS = [
    (L.Linear(6), (5, 9)),
    (L.Conv1d(5, 3, padding=1, dilation=2), LINE),
    (L.Conv2d(6, 3, stride=2, padding=1), IMAGE),
    (L.Conv2d(6, 1), IMAGE),
    (L.Conv2d(6, 3, groups=2), IMAGE),
    (L.Conv2d(4, 3, padding=1, groups=4), IMAGE),
    (L.Conv3d(3, 3, padding=1), VOLUME),
    (L.ConvTranspose2d(5, 3, stride=2, padding=1, output_padding=1), IMAGE),
    (L.MaxPool2d(3, 2, 1), IMAGE),
    (L.AvgPool2d(3, 2, 1), IMAGE),
    (L.AvgPool2d(3, 2, 1, count_padding=False), IMAGE),
    (L.GlobalAvgPool(), (3, 40, 30, 4)),
    (L.BatchNorm(), IMAGE),
    (L.GroupNorm(2), IMAGE),
    (L.LocalResponseNorm(3), IMAGE),
    (L.ReLU(), IMAGE),
    (L.LeakyReLU(0.1), IMAGE),
    (L.Tanh(), IMAGE),
    (L.GELU(), IMAGE),
    (L.GELU("tanh"), IMAGE),
    (L.Dropout(0.3), IMAGE),
    (L.Upsample(2), IMAGE),
    (L.Upsample(2, mode="linear"), IMAGE),
    (L.AdaptiveAvgPool((3, 5)), IMAGE),
    (L.Flatten(), IMAGE),
]


def near(value, wanted, dtype, message=""):
    """Whether an array is as near to that of float64 as ``dtype`` promises."""
    scale = np.abs(wanted).max(initial=1e-3)
    np.testing.assert_allclose(value.astype(np.float64), wanted, rtol=0, atol=TOLERANCE[dtype] * scale, err_msg=message)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: repr(value)[:40])
def test_every_layer_is_near_float64(layer, shape, dtype):
    half, rng = NumpyBackend(dtype=dtype).dtype(dtype), np.random.default_rng(3)
    x = rng.normal(size=shape).astype(half)
    run, exact = Serial(layer, shape, dtype=dtype), Serial(layer, shape)
    for name, parameter in exact.context.parameters.items():
        values = rng.normal(size=parameter.shape).astype(half)
        parameter[...], run.context.parameters[name][...] = values, values
    y, wanted = run.forward(x), exact.forward(x.astype(np.float64))
    assert y.dtype == half
    near(y, wanted, dtype, "y")
    dy = rng.normal(size=y.shape).astype(half)
    (dx,), (wanted,) = run.backward(dy), exact.backward(dy.astype(np.float64))
    assert dx.dtype == half
    near(dx, wanted, dtype, "dx")
    for name, gradient in run.context.gradients.items():
        assert gradient.dtype == np.float32
        near(gradient, exact.gradient(name), dtype, name)
    for name, state in run.context.state.items():
        assert state.dtype == np.float32
        near(state, exact.state(name), dtype, name)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("loss", [L.SoftmaxCrossEntropy(), L.MeanSquaredError()], ids=lambda loss: type(loss).__name__)
def test_losses_are_near_float64(loss, dtype):
    half, rng = NumpyBackend(dtype=dtype).dtype(dtype), np.random.default_rng(4)
    x = (300 * rng.normal(size=(6, 5))).astype(half)  # the squares are beyond float16
    targets = rng.integers(0, 5, 6) if isinstance(loss, L.SoftmaxCrossEntropy) else rng.normal(size=x.shape)
    run, exact = Serial(loss, x.shape, dtype=dtype), Serial(loss, x.shape)
    share, wanted = run.forward(x, target=targets), exact.forward(x.astype(np.float64), target=targets)
    assert share.dtype == np.float64
    np.testing.assert_allclose(share, wanted, rtol=1e-6)  # float64 from the logits on
    near(run.backward(4.0)[0], exact.backward(4.0)[0], dtype)


def test_sums_are_float32_sums():
    x = np.ones((5000, 3), np.float16)  # in float16 they end at 2048
    kernels, out = NumpyBackend(dtype="float16").kernels, np.empty(3, np.float32)
    kernels.sum_rows(x, out)
    np.testing.assert_array_equal(out, 5000)
    total = np.empty((3, 3), np.float32)
    kernels.matmul(x.T, x, total)
    np.testing.assert_array_equal(total, 5000)


def test_every_kernel_computes_in_float32_or_moves():
    moves = {"pack", "unpack", "add", "fill", "convert", "repeat"}
    updates = {"sgd", "adamw", "unscale"}  # of float32 arrays
    others = {"im2col", "uniform", "dropout"}  # the latter draw float32 numbers
    assert set(TABLE) - moves - updates - others == ARITHMETIC
    kernels = NumpyBackend("reference").kernels
    for name in ARITHMETIC:
        assert "out" in signature(getattr(kernels, name)).parameters, name


@pytest.mark.parametrize("dtype", HALVES)
def test_masks_and_first_weights_are_those_of_float32(dtype):
    x = np.ones((40, 50))
    masks = [Serial(L.Dropout(0.4), x.shape, dtype=t).forward(x.astype("float32")) != 0 for t in (dtype, "float32")]
    np.testing.assert_array_equal(*masks)


# -- training --------------------------------------------------------------------------------------------------


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", HALVES)
def test_training_is_near_float32(comm, dtype):
    config = DIGITS if comm.size in (1, 2, 4) else SHORT
    reference = trained_on(1, config, comm)
    rows = comm.size if dtype == "bfloat16" else 2 if comm.size % 2 == 0 and comm.size > 2 else 1
    run = trained(config.replaced(dtype=dtype, grid=f"{rows}x{comm.size // rows}", replicas=True), comm)
    if reference:
        first, all_steps = CURVE[dtype]
        np.testing.assert_allclose(run.curve[:6], reference.curve[:6], rtol=first)
        np.testing.assert_allclose(run.curve, reference.curve, rtol=all_steps)


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", HALVES)
def test_first_weights_are_those_of_float32_on_every_grid(comm, dtype):
    one, other = (
        Session(SHORT.replaced(dtype=t, grid=f"{comm.size}x1", replicas=True), job_of(comm)) for t in (dtype, "float32")
    )
    np.testing.assert_array_equal(one.parameters.values, other.parameters.values)
    np.testing.assert_array_equal(one.parameters.rounded, other.parameters.values.astype(one.parameters.dtype))
    assert one.parameters.values.dtype == np.float32


# -- loss scaling ----------------------------------------------------------------------------------------------


def test_the_scale_follows_the_steps():
    scale = LossScale()
    assert scale.value == START == 65536
    scale.adjust(False)
    assert (scale.value, scale.good, scale.skipped) == (32768, 0, 1)
    for _ in range(PATIENCE):
        scale.adjust(True)
    assert (scale.value, scale.good, scale.skipped) == (65536, 0, 1)
    scale.value = 1.0
    assert scale.least
    scale.adjust(False)
    assert scale.value == 1


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_unscale_tells_of_what_is_not_finite(factor):
    kernels = NumpyBackend().kernels
    for bad in (None, np.inf, -np.inf, np.nan):
        g, flag = np.arange(70000, dtype=np.float32), np.zeros(1, np.int32)
        if bad is not None:
            g[50000] = bad
        with np.errstate(invalid="ignore"):
            kernels.unscale(g, factor, flag)
        assert flag[0] == (bad is not None) and g[3] == 3 * factor


@pytest.mark.mpi
def test_an_overflow_on_one_rank_skips_the_update_on_all(comm):
    config = SHORT.replaced(dtype="float16", grid=f"{comm.size}x1", replicas=True, clip=1.0)
    session = Session(config, job_of(comm))
    indices = np.arange(16)
    session.step(indices, 1)
    assert session.finite and session.loss_scale == LossScale(START, 1, 0)
    before, optimizer = session.parameters.values.copy(), Steps()
    unscale = session._unscale

    def overflowing():
        flag = unscale()
        return flag + 1 if comm.rank == comm.size - 1 else flag

    session._unscale = overflowing
    session.asking = lambda: comm.rank == 0
    session.step(indices, 2)
    session.update(optimizer, 0.1)
    assert not session.finite and session.asked and session.loss_scale == LossScale(START / 2, 0, 1)
    assert optimizer.updates == 0
    np.testing.assert_array_equal(session.parameters.values, before)
    session._unscale, session.asking = unscale, lambda: False
    session.step(indices, 3)
    session.update(optimizer, 0.1)
    assert session.finite and not session.asked and optimizer.updates == 1


class Steps:
    """An optimizer that counts."""

    def __init__(self):
        self.updates = 0

    def update(self, values, gradients, lr):
        self.updates += 1


@pytest.mark.mpi
def test_a_scale_too_large_is_found_out_and_told(comm):
    config = SHORT.replaced(dtype="float16")
    trainer = Trainer(config, job_of(comm), told := Told())
    trainer.session.loss_scale.value = 2.0**40
    trainer.train()
    scale = trainer.session.loss_scale
    skipped = [note for note in told.notes if "left out" in note]
    assert len(skipped) == scale.skipped > 0 and scale.value == 2.0 ** (40 - scale.skipped)
    assert trainer.done == 6 and trainer.optimizer.step == 6 - scale.skipped


@pytest.mark.mpi
def test_an_overflow_at_the_smallest_scale_names_step_and_layer(comm):
    session = Session(SHORT.replaced(dtype="float16", grid=f"1x{comm.size}"), job_of(comm))
    session.loss_scale.value = 1.0
    unscale = session._unscale

    def overflowing():
        session.parameters.of("fc2", session.parameters.gradients)["weight"][...] = np.inf
        return unscale()

    session._unscale = overflowing
    with pytest.raises(UserError, match=r"gradient of layer 'fc2' is not finite at step 7, and the loss scale is 1"):
        session.step(np.arange(16), 7)


@pytest.mark.mpi
def test_a_run_goes_on_from_its_checkpoint_with_its_scale(comm):
    with folder(comm) as directory:
        config = SHORT.replaced(dtype="float16", optimizer="adamw", lr=1e-3)
        whole = trained(config, comm)
        halves = config.replaced(checkpoint=str(directory / "half"), save_every=2)
        first = trained(halves.replaced(steps=3), comm)
        trainer = Trainer(halves.replaced(resume=True), job_of(comm), second := Told())
        assert trainer.session.loss_scale.good == 3
        trainer.train()
        np.testing.assert_array_equal([*first.curve, *second.curve], whole.curve)
        with pytest.raises(UserError, match="--dtype float16 -> float32"):
            trained(halves.replaced(resume=True, dtype="float32"), comm)


# -- options ---------------------------------------------------------------------------------------------------


def test_bfloat16_without_its_package_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(UserError, match="bfloat16 needs the package ml_dtypes: pip install"):
        NumpyBackend(dtype="bfloat16")


def test_tf32_belongs_to_float32_on_a_gpu():
    with pytest.raises(UserError, match="--tf32 has no effect with --backend numpy"):
        DIGITS.replaced(tf32=True).validate()
    with pytest.raises(UserError, match="--tf32 has no effect with --dtype float16"):
        DIGITS.replaced(tf32=True, backend="cupy", kernels="auto", dtype="float16").validate()
    DIGITS.replaced(tf32=True, backend="cupy", kernels="auto").validate()
