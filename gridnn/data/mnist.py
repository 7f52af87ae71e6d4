"""MNIST (LeCun et al. 1998) from the idx files that its sites distribute, packed (.gz) or not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from gridnn.data.base import Data, check_labels, check_size
from gridnn.data.files import find, map_bytes, missing, unpack
from gridnn.data.stored import Stored
from gridnn.errors import UserError

CLASSES = 10
MEAN, STD = (0.1307,), (0.3081,)
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FOLDERS = (".", "mnist", "MNIST/raw")
UNSIGNED_BYTE = 8  # the type code of the format
SOURCE = "they are distributed by yann.lecun.com/exdb/mnist and its mirrors (packed as .gz or not)"


def open_mnist(directory: Path) -> Data:
    """60,000 images of 28 x 28 x 1 to train and 10,000 to test. Plain files are mapped, packed ones are loaded whole.

    `UserError` if files are missing or damaged.
    """
    packed = tuple(f"{name}.gz" for name in NAMES)
    paths = find(directory, FOLDERS, NAMES) or find(directory, FOLDERS, packed)
    if not paths:
        raise missing("mnist", directory, FOLDERS, (*NAMES, *packed), SOURCE)
    return Data(_stored("train", *paths[:2]), _stored("test", *paths[2:]), "mnist")


def _stored(part: str, images_path: Path, labels_path: Path) -> Stored:
    name, labels = f"mnist ({part})", read_idx(labels_path, 1)
    check_labels(labels, np.arange(len(labels)), CLASSES, str(labels_path))
    images = read_idx(images_path, 3)[..., None]
    return Stored(name, [images], [labels], CLASSES, scale=1 / 255, mean=MEAN, std=STD)


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The bytes of an idx file with ``ndim`` dimensions; `UserError` if it is none or incomplete."""
    content = unpack(path) if path.suffix == ".gz" else None
    size, before = path.stat().st_size if content is None else len(content), 4 + 4 * ndim
    if size < before:
        raise UserError(f"{path} has {size} bytes, but the header of an idx file has {before}; fetch it again")
    header = bytes(map_bytes(path, 0, (before,)) if content is None else content[:before])
    magic = bytes((0, 0, UNSIGNED_BYTE, ndim))
    if header[:4] != magic:
        raise UserError(f"{path} starts with {header[:4].hex(' ')}, but an idx file of bytes in {ndim} dimensions with "
                        f"{magic.hex(' ')}: it is not the right one")  # fmt: skip
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, before, 4))
    check_size(path, size, shape[0], math.prod(shape[1:]), "items", before)
    if not shape[0]:
        raise UserError(f"{path} holds no items (shape {shape})")
    return map_bytes(path, before, shape) if content is None else content[before:].reshape(shape)
