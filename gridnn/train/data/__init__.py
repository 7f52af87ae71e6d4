"""The data sets by name."""

from __future__ import annotations

from pathlib import Path

from gridnn.errors import UserError, unknown
from gridnn.train.data.arrays import open_arrays
from gridnn.train.data.base import Data, Dataset
from gridnn.train.data.cifar10 import open_cifar10
from gridnn.train.data.digits import open_digits
from gridnn.train.data.mnist import open_mnist
from gridnn.train.data.synthetic import open_synthetic

__all__ = ["DATASETS", "Data", "Dataset", "open_dataset"]

DATASETS = ("digits", "cifar10", "mnist", "synthetic")


def open_dataset(
    name: str,
    *,
    data_dir: str | Path = ".",
    shape: tuple[int, ...] = (32, 32, 3),
    classes: int | None = None,
    samples: int = 2048,
    seed: int = 0,
) -> Data:
    """A data set, opened but not read.

    Parameters
    ----------
    name : str
        One of `DATASETS`, or the path of a .npz file or of a directory of .npy files.
    data_dir : path
        Where the files of cifar10 and mnist are.
    shape, samples, seed
        Of the synthetic set.
    classes : int, optional
        Of the synthetic set (10 if not given) or of a path (as many as there are labels if not given).

    Raises
    ------
    UserError
        If there is no such set, or its files are missing or damaged.
    """
    path = Path(name).expanduser()
    if name == "synthetic":
        return open_synthetic(shape, classes or 10, samples, seed)
    if name not in DATASETS:
        if path.exists():
            return open_arrays(path, classes)
        raise _unknown(name, path)
    if classes not in (None, 10):
        raise UserError(f"dataset {name} has 10 classes, not {classes}: leave --classes out")
    if name == "digits":
        return open_digits()
    return {"cifar10": open_cifar10, "mnist": open_mnist}[name](Path(data_dir).expanduser())


def _unknown(name: str, path: Path) -> UserError:
    if path.suffix in (".npz", ".npy") or len(path.parts) > 1:
        return UserError(f"dataset {name}: there is no such file or directory")
    return unknown("dataset", name, (*DATASETS, "or the path of a .npz file or of a directory of .npy files"))
