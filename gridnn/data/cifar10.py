"""CIFAR-10 (Krizhevsky 2009) from the files that its site distributes: the binary version or the Python version."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from gridnn.data.base import Data
from gridnn.data.files import Stretch, find, missing, open_regular, reading
from gridnn.data.pickles import Call, load_plain
from gridnn.data.sources import Held, Mapped, Source
from gridnn.data.stored import Stored
from gridnn.errors import UserError

CLASSES = 10
PLANES = (3, 32, 32)  # how an image is stored
PIXELS = 3 * 32 * 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
BINARY_FOLDERS = (".", "cifar-10-batches-bin")
PYTHON_FOLDERS = (".", "cifar-10-batches-py")
MOST_BYTES = 2**26  # of a file of the Python version; those distributed have 31 MB
CALLS = {
    *("numpy.ndarray", "numpy.dtype"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
}
SOURCE = (
    "unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz from the CIFAR-10 page of the University of Toronto "
    "(www.cs.toronto.edu/~kriz/cifar.html)"
)


def open_cifar10(directory: Path) -> Data:
    """50,000 images of 32 x 32 x 3 to train and 10,000 to test. The binary version is mapped, the Python one loaded.

    `UserError` if files are missing, damaged or cannot be read.
    """
    with reading(directory, errors=(OSError,)):
        return _open(directory)


def _open(directory: Path) -> Data:
    binary = tuple(f"{name}.bin" for name in (*BATCHES, "test_batch"))
    if paths := find(directory, BINARY_FOLDERS, binary):
        parts = [_map_records(path) for path in paths]
    elif paths := find(directory, PYTHON_FOLDERS, (*BATCHES, "test_batch")):
        parts = [_unpickle(path) for path in paths]
    else:
        folders = tuple(dict.fromkeys((*BINARY_FOLDERS, *PYTHON_FOLDERS)))
        raise missing("cifar10", directory, folders, (*binary, *BATCHES, "test_batch"), SOURCE)
    return Data(_stored("train", parts[:-1]), _stored("test", parts[-1:]), "cifar10")


def _stored(part: str, parts: list[tuple[Source, Source]]) -> Stored:
    images, labels = ([pair[which] for pair in parts] for which in range(2))
    return Stored(f"cifar10 ({part})", images, labels, CLASSES, scale=1 / 255, mean=MEAN, std=STD)


def _images(pixels: np.ndarray) -> np.ndarray:
    """A view of the images."""
    return pixels.reshape(-1, *PLANES).transpose(0, 2, 3, 1)


def _map_records(path: Path) -> tuple[Source, Source]:
    """Pixels and labels of a binary file: records of one byte label and 3,072 bytes, channel by channel."""
    size, each = path.stat().st_size, 1 + PIXELS
    if size == 0 or size % each:
        raise UserError(
            f"{path} has {size} bytes, but a CIFAR-10 file is n records x {each} bytes "
            f"({size} / {each} = {size / each:.2f}): it is damaged or not the right one; fetch it again"
        )
    records = Stretch((size // each, each), np.dtype(np.uint8))
    labels = Mapped(path, records, lambda array: array[:, 0]).all()
    return Mapped(path, records, lambda array: _images(array[:, 1:])), Held(labels)


def _unpickle(path: Path) -> tuple[Source, Source]:
    """Pixels and labels of a file of the Python version."""
    with open_regular(path, MOST_BYTES) as file:
        content = file.read(MOST_BYTES)
    try:
        batch = load_plain(content, CALLS)
        if type(batch) is not dict or not {b"data", b"labels"} <= set(batch):
            raise pickle.UnpicklingError("it is no dictionary with data and labels")
        labels = _labels(batch[b"labels"])
        return Held(_images(_pixels(batch[b"data"], len(labels)))), Held(labels)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is no CIFAR-10 batch of the Python version ({error}): fetch it again") from None


def _labels(values: object) -> np.ndarray:
    if type(values) is not list:
        raise pickle.UnpicklingError(f"its labels are a {type(values).__name__}, not a list")
    for index, label in enumerate(values):
        if type(label) is not int or not 0 <= label < CLASSES:
            raise pickle.UnpicklingError(f"label {index} is no whole number from 0 to {CLASSES - 1}")
    return np.array(values, np.uint8)


def _pixels(array: object, count: int) -> np.ndarray:
    """The ``count`` rows of bytes that a pickle describes, from the arguments of NumPy's functions alone."""
    match array:
        case Call(name, _, (_, shape, dtype, column_major, content)) if name.endswith("._reconstruct"):
            order = "F" if column_major is True else "C"
        case Call(name, (content, dtype, shape, order)) if name.endswith("._frombuffer"):
            pass
        case _:
            raise pickle.UnpicklingError("its data are no array")
    match dtype:
        case Call("numpy.dtype", (("u1" | b"u1"), *_)) if shape == (count, PIXELS):
            pass
        case _:
            text = f"it holds {count} labels, and its data should be uint8 of shape ({count}, {PIXELS})"
            raise pickle.UnpicklingError(text)
    if type(content) not in (bytes, bytearray) or len(content) != count * PIXELS or order not in ("C", "F"):
        raise pickle.UnpicklingError(f"its data are not {count} x {PIXELS} bytes")
    return np.frombuffer(content, np.uint8).reshape((count, PIXELS), order=order)
