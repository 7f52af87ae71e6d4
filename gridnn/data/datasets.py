"""The data sets by name."""

from __future__ import annotations

from pathlib import Path

from gridnn.data.arrays import open_arrays
from gridnn.data.base import Data
from gridnn.data.cifar10 import open_cifar10
from gridnn.data.digits import open_digits
from gridnn.data.images import SUFFIXES, open_images
from gridnn.data.mnist import open_mnist
from gridnn.data.names import DATASETS
from gridnn.data.resized import resize_all
from gridnn.data.synthetic import open_synthetic
from gridnn.data.volumes import open_volumes
from gridnn.errors import UserError, unknown


def open_dataset(
    name: str,
    *,
    data_dir: str | Path = ".",
    shape: tuple[int, ...] = (32, 32, 3),
    classes: int | None = None,
    samples: int = 2048,
    seed: int = 0,
    targets: int = 4,
    called: tuple[str, str] = ("x", "y"),
    resize: int | None = None,
    crop: int | None = None,
    flip: bool = False,
) -> Data:
    """A data set, opened but not read.

    Parameters
    ----------
    name : str
        One of `DATASETS`, or the path of a .npz or HDF5 file, of a directory of .npy files or of a folder of images.
    data_dir : path
        Where the files of cifar10 and mnist are.
    shape, samples, seed
        Of the synthetic set and of volumes; the seed also names the random numbers of crops and flips.
    classes : int, optional
        Of the synthetic set (10 if not given) or of a path (as many as there are labels if not given).
    targets : int
        Of volumes.
    called : tuple of str
        What samples and targets are called in a file.
    resize : int, optional
        The shorter side of images, in pixels.
    crop, flip
        Of a folder of images, see `open_images`.

    Raises
    ------
    UserError
        If there is no such set, or its files are missing or damaged.
    """
    path = Path(name)
    if name == "synthetic":
        return open_synthetic(shape, classes or 10, samples, seed)
    if name == "volumes":
        return open_volumes(shape, targets, samples, seed)
    if name in DATASETS:
        if classes not in (None, 10):
            raise UserError(f"dataset {name} has 10 classes, not {classes}: leave --classes out")
        open_named = {"cifar10": open_cifar10, "mnist": open_mnist}
        data = open_digits() if name == "digits" else open_named[name](Path(data_dir))
        return resize_all(data, resize)
    if not path.exists():
        raise _unknown(name, path)
    if path.is_dir() and not any(path.glob("*.npy")):
        if called != ("x", "y"):
            raise UserError(f"--names {','.join(called)}: {name} has no .npy files, so it is taken for images by class")
        return open_images(path, resize=resize, crop=crop, flip=flip, seed=seed, classes=classes)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        raise UserError(f"dataset {name} is one picture: give the folder whose subfolders are the classes")
    if crop or flip:
        option = f"--crop {crop}" if crop else "--flip"
        raise UserError(f"{option} has no effect on arrays, and {name} holds arrays: leave it out")
    return resize_all(open_arrays(path, classes, called), resize)


def _unknown(name: str, path: Path) -> UserError:
    if path.suffix or len(path.parts) > 1:
        return UserError(f"dataset {name}: there is no such file or directory")
    return unknown("dataset", name, (*DATASETS, "or the path of a .npz or .h5 file, of .npy files or of images"))
