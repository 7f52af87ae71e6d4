"""CIFAR-10 (Krizhevsky 2009) from the files that its site distributes: the binary version or the Python version."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.data.base import Data
from gridnn.data.files import find, map_bytes, missing
from gridnn.data.stored import Stored
from gridnn.errors import UserError

CLASSES = 10
PLANES = (3, 32, 32)  # how an image is stored
PIXELS = 3 * 32 * 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
BINARY_FOLDERS = (".", "cifar-10-batches-bin")
PYTHON_FOLDERS = (".", "cifar-10-batches-py")
SOURCE = (
    "unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz from the CIFAR-10 page of the University of Toronto "
    "(www.cs.toronto.edu/~kriz/cifar.html)"
)


def open_cifar10(directory: Path) -> Data:
    """50,000 images of 32 x 32 x 3 to train and 10,000 to test. The binary version is mapped, the Python one loaded.

    `UserError` if files are missing or damaged.
    """
    binary = tuple(f"{name}.bin" for name in (*BATCHES, "test_batch"))
    if paths := find(directory, BINARY_FOLDERS, binary):
        parts = [_map_records(path) for path in paths]
    elif paths := find(directory, PYTHON_FOLDERS, (*BATCHES, "test_batch")):
        parts = [_unpickle(path) for path in paths]
    else:
        folders = tuple(dict.fromkeys((*BINARY_FOLDERS, *PYTHON_FOLDERS)))
        raise missing("cifar10", directory, folders, (*binary, *BATCHES, "test_batch"), SOURCE)
    return Data(_stored("train", parts[:-1]), _stored("test", parts[-1:]), "cifar10")


def _stored(part: str, parts: list[tuple[np.ndarray, np.ndarray]]) -> Stored:
    images = [pixels.reshape(-1, *PLANES).transpose(0, 2, 3, 1) for pixels, _ in parts]  # views
    labels = [labels for _, labels in parts]
    return Stored(f"cifar10 ({part})", images, labels, CLASSES, scale=1 / 255, mean=MEAN, std=STD)


def _map_records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of a binary file: records of one byte label and 3,072 bytes, channel by channel."""
    size, each = path.stat().st_size, 1 + PIXELS
    if size == 0 or size % each:
        raise UserError(
            f"{path} has {size} bytes, but a CIFAR-10 file is n records x {each} bytes "
            f"({size} / {each} = {size / each:.2f}): it is damaged or not the right one; fetch it again"
        )
    records = map_bytes(path, 0, (size // each, each))
    return records[:, 1:], records[:, 0]


def _unpickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of a file of the Python version."""
    try:
        with path.open("rb") as file:
            batch = ArrayUnpickler(file, encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is no CIFAR-10 batch of the Python version ({reason}): fetch it again") from None
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), PIXELS):
        raise UserError(
            f"{path} holds {len(labels)} labels and {pixels.dtype} data of shape {pixels.shape}, "
            f"but it should be uint8 of shape ({len(labels)}, {PIXELS}): fetch it again"
        )
    return pixels, labels


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain values and NumPy arrays, and refuses all other classes: a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in protocol 2
            return _latin1
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")
