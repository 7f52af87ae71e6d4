"""Which kernels run: the choice, what is said of it, and that oneDNN is used as it is meant to be."""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import signature

import numpy as np
import pytest
from launch import ROOT, clean_environment, run
from threadpoolctl import threadpool_info, threadpool_limits

from gridnn.errors import UserError
from gridnn.kernels import NumpyBackend, get_backend
from gridnn.kernels.cpu import choice
from gridnn.kernels.reference import elementwise
from gridnn.kernels.table import TABLE
from gridnn.train.config import RUN_OPTIONS


def installed(name):
    try:
        return NumpyBackend(name).kernels
    except UserError as error:
        pytest.skip(str(error))


def missing(*names):
    """A `choice._make` where the kernels ``names`` are not installed."""
    make = choice._make

    def refuse(name, xp, half):
        if name in names:
            raise ImportError(f"No module named {name!r}")
        return make(name, xp, half)

    return refuse


def test_auto_is_the_fastest_that_is_installed(monkeypatch):
    installed("onednn")
    assert get_backend("numpy", "auto").kernels.name == "onednn"
    monkeypatch.setattr(choice, "_make", missing("onednn"))
    assert get_backend("numpy", "auto").kernels.name == "numba"
    monkeypatch.setattr(choice, "_make", missing("onednn", "numba"))
    assert get_backend("numpy", "auto").kernels.name == "reference"


def test_kernels_asked_for_by_name_are_never_replaced(monkeypatch):
    monkeypatch.setattr(choice, "_make", missing("onednn"))
    with pytest.raises(UserError, match=r"--kernels onednn: No module .*; pip install 'gridnn\[fast\]'"):
        get_backend("numpy", "onednn")
    with pytest.raises(UserError, match="unknown kernels 'fastest': the kernels are auto, reference, numba, onednn"):
        get_backend("numpy", "fastest")


def test_the_option_knows_them_all():
    assert RUN_OPTIONS["kernels"].choices == choice.KERNELS  # written out there: the command line starts without NumPy


def test_a_missing_library_is_named(monkeypatch):
    onednn = pytest.importorskip("gridnn.kernels.cpu.onednn")
    monkeypatch.setattr(onednn, "PACKAGE", "no-such-package")
    with pytest.raises(ImportError, match="no-such-package is not installed"):
        onednn.library_path()


def test_without_a_place_for_the_cache_loops_are_compiled_all_the_same():
    pytest.importorskip("numba")
    from gridnn.kernels.cpu.compiled import compiled

    space = {}
    exec("def double(x):\n    return 2 * x", space)  # of no file: numba finds no place beside it
    assert compiled(space["double"])(21) == 42


def test_the_header_says_what_computes():
    assert NumpyBackend("reference").kernels.described("float32") == f"NumPy {np.__version__}"
    kernels = installed("onednn")
    assert kernels.described("float32").startswith("oneDNN 3.") and "numba" in kernels.described("float32")
    assert "oneDNN" not in kernels.described("float64") and "numba" in kernels.described("float64")


def test_onednn_computes_dense_arrays_and_parts_by_its_fast_implementations():
    kernels = installed("onednn")
    one, workspace = (1, 1), np.empty(1 << 18, np.float32)
    whole = [np.ones(shape, np.float32) for shape in ((2, 20, 20, 32), (3, 3, 32, 32), (2, 18, 18, 32))]
    parts = [whole[0][:, 1:-1, 1:-1], whole[1], whole[2][:, 1:-1, 1:-1]]
    for x, w, y in (whole, parts):
        made = len(kernels.onednn.convolutions)
        kernels.conv(x, w, one, one, y, workspace)
        kernels.conv_grad_weight(x, y, one, one, w.copy(), workspace)
        kernels.conv_grad_input(y, w, one, one, x, workspace)
        assert len(kernels.onednn.convolutions) >= made + 3
    names = {convolution.name for convolution in kernels.onednn.convolutions.values()}
    assert not any(name.startswith("ref") for name in names), names
    made = len(kernels.onednn.convolutions)
    kernels.conv(*whole[:2], one, one, whole[2], workspace)
    assert len(kernels.onednn.convolutions) == made  # compiled once


def test_the_two_pools_have_as_many_threads():
    onednn = pytest.importorskip("gridnn.kernels.cpu.onednn")
    installed("onednn")
    with threadpool_limits(limits=1, user_api="blas"), threadpool_limits(limits=2, user_api="openmp"):
        onednn.share_threads()
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"} == {1}


# -- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_all_implementations_of_an_operation_have_the_parameters_of_the_reference(name):
    pytest.importorskip("numba")
    functions = [getattr(import_module(f"gridnn.kernels.{module}"), name) for module in TABLE[name]]
    assert TABLE[name][-1].startswith("reference.") and not hasattr(functions[-1], "may_decline")
    wanted = [(p.name, p.default) for p in signature(functions[-1]).parameters.values()]
    for function in functions[:-1]:
        assert [(p.name, p.default) for p in signature(function).parameters.values()] == wanted, function


def test_the_first_implementation_that_takes_the_arguments_computes():
    kernels, asked = installed("numba"), []
    x, single = np.array([-1.0, 2.0]), np.array([-1, 2], np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "relu", lambda kernels, x, out: asked.append(x))
        traced = installed("numba")
        traced.relu(x, x)
        assert not asked and list(x) == [0, 2]
        traced.relu(single, single)
        assert len(asked) == 1
    kernels.relu(single, single)  # no kind of numbers that numba has a loop for
    assert list(single) == [0, 2]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x05"])
def test_a_damaged_compile_cache_ends_nothing(tmp_path, content):
    pytest.importorskip("numba")
    (tmp_path / "doubled.py").write_text(
        "from gridnn.kernels.cpu.compiled import compiled\n\n\n@compiled\ndef doubled(x):\n    return 2 * x\n\n\n"
        "print(doubled(21), len(doubled.stats.cache_hits))\n"
    )
    env = clean_environment(NUMBA_CACHE_DIR=str(tmp_path / "cache"), PYTHONPATH=str(ROOT))

    def told():
        done = run([sys.executable, str(tmp_path / "doubled.py")], 60, env)
        return done.returncode, done.stdout, done.stderr

    assert told() == (0, "42 0\n", "")
    assert told() == (0, "42 1\n", "")
    (index,) = (tmp_path / "cache").rglob("*.nbi")
    index.write_bytes(content)
    assert told() == (0, "42 0\n", "")  # compiled anew
    assert told() == (0, "42 1\n", "")  # and mended
