"""Which kernels run: the choice, what is said of it, and that oneDNN is used as it is meant to be."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from gridnn.arrays import NumpyBackend, choice, get_backend
from gridnn.errors import UserError
from gridnn.train.config import OPTIONS


def installed(name):
    try:
        return NumpyBackend(name).kernels
    except UserError as error:
        pytest.skip(str(error))


def missing(*names):
    """A `choice._make` where the kernels ``names`` are not installed."""
    make = choice._make

    def refuse(name, xp):
        if name in names:
            raise ImportError(f"No module named {name!r}")
        return make(name, xp)

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
    assert OPTIONS["kernels"].choices == choice.KERNELS  # written out there: the command line starts without NumPy


def test_a_missing_library_is_named(monkeypatch):
    onednn = pytest.importorskip("gridnn.arrays.onednn")
    monkeypatch.setattr(onednn, "PACKAGE", "no-such-package")
    with pytest.raises(ImportError, match="no-such-package is not installed"):
        onednn.library_path()


def test_without_a_place_for_the_cache_loops_are_compiled_all_the_same():
    pytest.importorskip("numba")
    from gridnn.arrays.compiled import compiled

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
        made = len(kernels._convolutions)
        kernels.conv(x, w, one, one, y, workspace)
        kernels.conv_grad_weight(x, y, one, one, w.copy(), workspace)
        kernels.conv_grad_input(y, w, one, one, x, workspace)
        assert len(kernels._convolutions) >= made + 3
    names = {convolution.name for convolution in kernels._convolutions.values()}
    assert not any(name.startswith("ref") for name in names), names
    made = len(kernels._convolutions)
    kernels.conv(*whole[:2], one, one, whole[2], workspace)
    assert len(kernels._convolutions) == made  # compiled once


def test_the_two_pools_have_as_many_threads():
    onednn = pytest.importorskip("gridnn.arrays.onednn")
    installed("onednn")
    with threadpool_limits(limits=1, user_api="blas"), threadpool_limits(limits=2, user_api="openmp"):
        onednn.share_threads()
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"} == {1}
