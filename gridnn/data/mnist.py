"""MNIST (LeCun et al. 1998) from the idx files that its sites distribute, packed (.gz) or not."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from gridnn.data.base import Data, check_labels, check_size
from gridnn.data.files import Stretch, find, missing, open_regular, reading
from gridnn.data.sources import Held, Mapped, OneMore, Source
from gridnn.data.stored import Stored
from gridnn.errors import UserError

CLASSES = 10
MEAN, STD = (0.1307,), (0.3081,)
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FOLDERS = (".", "mnist", "MNIST/raw")
UNSIGNED_BYTE = 8  # the type code of the format
MOST_UNPACKED = 2**30
CHUNK = 2**24
SOURCE = "they are distributed by yann.lecun.com/exdb/mnist and its mirrors (packed as .gz or not)"


def open_mnist(directory: Path) -> Data:
    """60,000 images of 28 x 28 x 1 to train and 10,000 to test. Plain files are mapped, packed ones are loaded whole.

    `UserError` if files are missing, damaged or cannot be read.
    """
    with reading(directory, errors=(OSError,)):
        return _open(directory)


def _open(directory: Path) -> Data:
    packed = tuple(f"{name}.gz" for name in NAMES)
    paths = find(directory, FOLDERS, NAMES) or find(directory, FOLDERS, packed)
    if not paths:
        raise missing("mnist", directory, FOLDERS, (*NAMES, *packed), SOURCE)
    return Data(_stored("train", *paths[:2]), _stored("test", *paths[2:]), "mnist")


def _stored(part: str, images_path: Path, labels_path: Path) -> Stored:
    name, labels = f"mnist ({part})", read_idx(labels_path, 1).all()
    check_labels(labels, np.arange(len(labels)), CLASSES, str(labels_path))
    images = OneMore(read_idx(images_path, 3))
    if images.shape[0] != len(labels):
        raise UserError(f"{images_path} has {images.shape[0]} images, but {labels_path.name} {len(labels)} labels")
    return Stored(name, [images], [labels], CLASSES, scale=1 / 255, mean=MEAN, std=STD)


def read_idx(path: Path, ndim: int) -> Source:
    """The bytes of an idx file with ``ndim`` dimensions; `UserError` if it is none or incomplete.

    Of a packed one no more is unpacked than its header says, and at most `MOST_UNPACKED` bytes.
    """
    if path.suffix != ".gz":
        with open_regular(path) as file:
            shape, start = _header(path, file, ndim)
            check_size(path, os.fstat(file.fileno()).st_size, shape[0], math.prod(shape[1:]), "items", start)
        return Mapped(path, Stretch(shape, np.dtype(np.uint8), start=start))
    try:
        with open_regular(path) as packed, gzip.open(packed) as file:
            return Held(_unpacked(path, file, *_header(path, file, ndim)))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is no complete gzip file ({error}): fetch it again") from None


def _header(path: Path, file: IO[bytes], ndim: int) -> tuple[tuple[int, ...], int]:
    """The sizes that the header says, and where the bytes begin."""
    start = 4 + 4 * ndim
    header = file.read(start)
    if len(header) < start:
        raise UserError(f"{path} has {len(header)} bytes, but the header of an idx file has {start}; fetch it again")
    magic = bytes((0, 0, UNSIGNED_BYTE, ndim))
    if header[:4] != magic:
        raise UserError(f"{path} starts with {header[:4].hex(' ')}, but an idx file of bytes in {ndim} dimensions with "
                        f"{magic.hex(' ')}: it is not the right one")  # fmt: skip
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, start, 4))
    if 0 in shape:
        raise UserError(f"{path} holds no items (shape {shape})")
    return shape, start


def _unpacked(path: Path, file: IO[bytes], shape: tuple[int, ...], start: int) -> np.ndarray:
    size = math.prod(shape)
    if size > MOST_UNPACKED:
        raise UserError(f"{path} holds {size} bytes (shape {shape}), and a packed file is loaded whole: unpack it")
    content = bytearray()
    while part := file.read(min(CHUNK, size + 1 - len(content))):
        content += part
    check_size(path, start + len(content), shape[0], size // shape[0], "items", start)
    return np.frombuffer(content, np.uint8).reshape(shape)
