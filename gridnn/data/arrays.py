"""Data sets that are arrays with names: FILE.npz, FILE.h5, or a directory of .npy files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gridnn.data.base import Data, Subset, check_labels, format_shape, whole
from gridnn.data.files import reading
from gridnn.data.hdf5 import Hyperslabs, is_hdf5
from gridnn.data.hdf5_files import locate, names
from gridnn.data.labels import LOOKED_AT, count_classes, label_advice
from gridnn.data.npz import Npz
from gridnn.data.order import split_in_two
from gridnn.data.sources import Held, Mapped, OneMore, Source
from gridnn.data.stored import SHAPES, Stored
from gridnn.errors import UserError

Names = tuple[str, str]


def open_arrays(path: Path, classes: int | None, called: Names = ("x", "y")) -> Data:
    """A data set from FILE.npz (loaded whole by every rank), FILE.h5 or DIRECTORY/x_train.npy ... (read in part).

    The arrays are called x_train, y_train, x_test, y_test; or there are x and y alone, and a fifth of the samples,
    always the same ones, is the test set. They may be ``called`` otherwise than x and y. Bytes (uint8) are scaled to
    [0, 1], all else is taken as it is; bytes of shape (samples, h, w) are grey images. Integer targets are labels, one
    a sample, of shape (samples,) or (samples, 1), or one for every place in its space; floating-point targets are
    numbers to be predicted. Without ``classes`` there is one more than the largest label, of which half must occur.
    `UserError` if arrays are missing or damaged, or do not fit each other.
    """
    there, (x, y) = _contents(path), called
    has, get = there.has, there.get
    four = [f"{name}_{part}" for part in ("train", "test") for name in called]
    if has(x) and has(y) and not (has(four[0]) and has(four[1])):
        (stored,) = _all_stored(path, classes, {str(path): (get(x), get(y))})
        if len(stored) < 2:
            shape = (len(stored), *stored.sample_shape)
            raise UserError(f"{path}: {x} has the shape {shape}; at least 2 samples are needed, to train and test")
        return Data(*(Subset(stored, rows) for rows in split_in_two(len(stored))), name=str(path))
    missing = [name for name in four if not has(name)]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(there.names()[:20]) or 'no arrays'}, but should "
            f"hold {', '.join(four)}, or {x} and {y} (--names says what they are called); samples are {SHAPES}; "
            "targets are labels as integers, or numbers"
        )
    x_train, y_train, x_test, y_test = map(get, four)
    parts = {f"{path} (train)": (x_train, y_train), f"{path} (test)": (x_test, y_test)}
    train, test = _all_stored(path, classes, parts)
    _check_alike(path, train, test)
    return Data(train, test, str(path))


def _all_stored(path: Path, classes: int | None, parts: dict[str, tuple[Source, Source]]) -> list[Stored]:
    """The parts of a data set by name, with as many classes as their labels have together."""
    prepared = {name: (x, _targets(name, x, y)) for name, (x, y) in parts.items()}
    labels = [y.all() for _, y in prepared.values() if y.dtype.kind != "f" and len(y.shape) == 1]
    if classes is None and labels:
        classes = count_classes(str(path), *labels)
    return [_stored(name, x, y, classes) for name, (x, y) in prepared.items()]


def _targets(name: str, x: Source, y: Source) -> Source:
    """The targets with a dimension for numbers, and without one for labels, which are held."""
    for what, source in (("samples", x), ("targets", y)):
        if source.dtype.kind not in "fiub":
            raise UserError(f"{name}: the {what} are of type {source.dtype}; give integers or floating-point numbers")
    if y.dtype.kind == "f":
        return OneMore(y) if len(y.shape) == 1 else y
    if len(y.shape) == 2 and y.shape[1] == 1 and y.shape != x.shape[:-1]:
        return Held(y.all()[:, 0])
    return Held(y.all()) if len(y.shape) == 1 else y


def _check_alike(path: Path, train: Stored, test: Stored) -> None:
    if (train.classes is None) != (test.classes is None):
        kinds = ["numbers" if s.classes is None else "labels" for s in (train, test)]
        raise UserError(f"{path}: the targets to train with are {kinds[0]}, those to test {kinds[1]}; make them alike")
    pairs = [f"{format_shape(s.sample_shape)} -> {format_shape(s.target_shape)}" for s in (train, test)]
    if pairs[0] != pairs[1]:
        raise UserError(f"{path}: samples and targets to train with are {pairs[0]}, those to test {pairs[1]}")


def _stored(name: str, x: Source, y: Source, classes: int | None) -> Stored:
    if len(x.shape) == 3 and x.dtype == np.uint8:
        x = OneMore(x)  # grey images
    scale = 1 / 255 if x.dtype == np.uint8 else 1.0
    if y.dtype.kind == "f":
        return Stored(name, [x], [y], None, scale=scale)
    if len(y.shape) == 1:
        labels = y.all()
        check_labels(labels, np.arange(len(labels)), classes, name)
    elif y.shape != x.shape[:-1]:
        raise UserError(
            f"{name}: labels must be integers in one dimension, or one for every place in the space of a sample, but "
            f"are {y.dtype} of shape {y.shape} for samples of shape {x.shape}{_advice(y)}"
        )
    elif classes is None:
        raise UserError(f"{name}: there is a label for every place of {y.shape}; say with --classes how many there are")
    return Stored(name, [x], [y], classes, scale=scale)


def _advice(y: Source) -> str:
    if len(y.shape) < 2 or not y.shape[0]:
        return ""
    rows = np.arange(min(y.shape[0], LOOKED_AT))
    some = np.empty((len(rows), *y.shape[1:]), y.dtype)
    y.read(rows, whole(y.shape[1:]), some, rows)
    advice = label_advice(some)
    return advice and f": {advice}"


@dataclass(frozen=True)
class Contents:
    """Arrays by name: whether there is one, what the message calls those that are there, and how to get one."""

    has: Callable[[str], bool]
    names: Callable[[], list[str]]
    get: Callable[[str], Source]


def _contents(path: Path) -> Contents:
    with reading(path):
        is_directory = path.is_dir()
    if is_directory:
        return Contents(
            lambda name: os.path.lexists(path / f"{name}.npy"),
            lambda: _npy_names(path),
            lambda name: Mapped(path / f"{name}.npy"),
        )
    if is_hdf5(path):
        return Contents(
            lambda name: locate(path, name) is not None, lambda: names(path), lambda name: Hyperslabs(path, name)
        )
    npz = Npz(path)
    return Contents(npz.names.__contains__, lambda: npz.names, lambda name: Held(npz.load(name)))


def _npy_names(path: Path) -> list[str]:
    with reading(path):
        return sorted(name.removesuffix(".npy") for name in os.listdir(path) if name.endswith(".npy"))
