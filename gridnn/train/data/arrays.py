"""Data sets in NumPy's files: FILE.npz, or a directory of .npy files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from gridnn.errors import UserError
from gridnn.train.data.base import Data, check_labels, format_shape
from gridnn.train.data.files import load_npy
from gridnn.train.data.order import split_in_two
from gridnn.train.data.stored import Stored

NAMES = ("x_train", "y_train", "x_test", "y_test")
WHOLE = ("x", "y")
WHAT = (
    f"it should hold {', '.join(NAMES)} (samples x height x width x channels, or samples x features; labels as "
    "integers, or numbers)"
)


def open_arrays(path: Path, classes: int | None) -> Data:
    """A data set from FILE.npz (loaded whole by every rank) or DIRECTORY/x_train.npy ... (mapped, only read in part).

    Bytes (uint8) are scaled to [0, 1], all else is taken as it is. Integer targets are labels; floating-point targets
    are numbers to be predicted. FILE.npz may hold ``x`` and ``y`` instead of the four arrays: a fifth of the samples,
    always the same ones, is the test set then.

    Parameters
    ----------
    path : Path
        The file or directory.
    classes : int, optional
        The number of classes; one more than the largest label if not given.

    Raises
    ------
    UserError
        If arrays are missing or damaged, or do not fit each other.
    """
    arrays = _from_directory(path) if path.is_dir() else _from_file(path)
    x_train, y_train, x_test, y_test = (arrays[name] for name in NAMES)
    if y_train.dtype.kind in "iub":
        labels = [y_train, y_test]
        classes = classes or 1 + max(int(y.max(initial=0)) for y in labels)
    else:
        classes = None
    train = _stored(f"{path} (train)", x_train, y_train, classes)
    test = _stored(f"{path} (test)", x_test, y_test, classes)
    if (train.sample_shape, train.target_shape) != (test.sample_shape, test.target_shape):
        pairs = [f"{format_shape(s.sample_shape)} -> {format_shape(s.target_shape)}" for s in (train, test)]
        raise UserError(f"{path}: samples and targets to train with are {pairs[0]}, those to test {pairs[1]}")
    return Data(train, test, str(path))


def _stored(name: str, x: np.ndarray, y: np.ndarray, classes: int | None) -> Stored:
    for what, array in (("samples", x), ("targets", y)):
        if array.dtype.kind not in "fiub":
            raise UserError(f"{name}: the {what} are of type {array.dtype}; give integers or floating-point numbers")
    if classes is None:
        y = y[:, None] if y.ndim == 1 else y
        if y.dtype.kind != "f":
            raise UserError(f"{name}: the targets are {y.dtype}, but floating-point numbers elsewhere; make them alike")
    elif y.ndim != 1 or y.dtype.kind == "f":
        raise UserError(f"{name}: labels must be integers in one dimension, but are {y.dtype} of shape {y.shape}")
    else:
        check_labels(y, np.arange(len(y)), classes, name)
    x = x[..., None] if x.ndim == 3 else x  # gray images
    return Stored(name, [x], [y], classes, scale=1 / 255 if x.dtype == np.uint8 else 1.0)


def _from_directory(path: Path) -> dict[str, np.ndarray]:
    missing = [f"{name}.npy" for name in NAMES if not (path / f"{name}.npy").is_file()]
    if missing:
        raise UserError(f"directory {path} lacks {', '.join(missing)}; {WHAT}, each as NAME.npy")
    return {name: load_npy(path / f"{name}.npy") for name in NAMES}


def _from_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {name: loaded[name] for name in (*NAMES, *WHOLE) if name in loaded} if _is_npz(loaded) else None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no complete .npz file of numbers ({error}): write it again") from None
    if arrays is None:
        raise UserError(f"{path} holds one array, but a data set needs more: give FILE.npz; {WHAT}")
    if set(WHOLE) <= set(arrays) and "x_train" not in arrays:
        arrays = _divide(path, arrays)
    missing = [name for name in NAMES if name not in arrays]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {WHAT}")
    return arrays


def _is_npz(loaded: object) -> bool:
    return isinstance(loaded, np.lib.npyio.NpzFile)


def _divide(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    x, y = arrays["x"], arrays["y"]
    if not x.ndim or not y.ndim or len(x) != len(y) or len(x) < 2:
        raise UserError(f"{path}: x has the shape {x.shape} and y {y.shape}; give as many of both, and at least 2")
    train, test = split_in_two(len(x))
    return dict(zip(NAMES, (x[train], y[train], x[test], y[test]), strict=True))
