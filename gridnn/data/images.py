"""A folder of images with one subfolder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.data.base import Box, Data, Dataset
from gridnn.data.files import reading
from gridnn.data.folders import SUFFIXES, find_classes, find_pictures, find_sets
from gridnn.data.order import split_in_two
from gridnn.data.pictures import decode
from gridnn.data.scaling import Scaling
from gridnn.errors import UserError, cause_of
from gridnn.kernels.random import uniform

RESIZE, CROP = 256, 224  # what is usual with ImageNet (He et al. 2016)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours in [0, 1]
CHANNELS = 3
AUGMENT = 0x1A6E  # names the random numbers of crops and flips


class ImageFiles(Dataset):
    """Images in files of any size with their labels, brought to one size by scaling and cropping.

    The shorter side becomes ``resize`` pixels (Pillow's bilinear filter, which averages where it shrinks), then a
    square of ``crop`` pixels is cut out: a random one for training, the middle one otherwise. With ``flip``, half of
    the images, at random, are mirrored for training. A file can only be decoded as a whole; of what is decoded a rank
    keeps its box. The ``seed`` names the random numbers, together with the step and the index of the image.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[str | Path],
        labels: Sequence[int],
        classes: int,
        *,
        resize: int = RESIZE,
        crop: int = CROP,
        flip: bool = False,
        seed: int = 0,
    ):
        self.name, self.classes, self.sample_shape = name, classes, (crop, crop, CHANNELS)
        self._files, self._labels = list(files), np.asarray(labels, np.int64)
        self._resize, self._flip, self._seed = resize, flip, seed
        self._scaling = Scaling(CHANNELS, 1 / 255, MEAN, STD)

    def __len__(self) -> int:
        return len(self._files)

    def targets(self, indices: np.ndarray, box: Box | None = None) -> np.ndarray:
        return self._labels[indices]

    def read(self, indices: np.ndarray, box: Box, out: np.ndarray, step: int = 0) -> None:
        if out.size:
            for place, (index, draw) in enumerate(zip(indices, self._draws(indices, step), strict=True)):
                out[place] = self._part(int(index), draw, box)
        self._scaling.apply(out, box[-1])

    def _draws(self, indices: np.ndarray, step: int) -> np.ndarray:
        """Three numbers in [0, 1) an image: the place of the square in height and in width, and the flip below 0.5."""
        if not step:
            return np.full((len(indices), 3), 0.5)
        return uniform(np, (self._seed, AUGMENT, step), (indices, (0, 3)), (len(self), 3))

    def _part(self, index: int, draw: np.ndarray, box: Box) -> np.ndarray:
        """The part ``box`` of an image, as bytes."""
        (top, bottom), (left, right), (first, last) = box
        crop = self.sample_shape[0]
        mirrored = self._flip and draw[2] < 0.5
        if mirrored:
            left, right = crop - right, crop - left
        image = self._decoded(index)
        # One of the size - crop + 1 places; 0.5 is the middle one.
        y, x = (int(share * (size - crop + 1)) for share, size in zip(draw, image.size[::-1], strict=False))
        pixels = np.asarray(image.crop((x + left, y + top, x + right, y + bottom)))
        return (pixels[:, ::-1] if mirrored else pixels)[..., first:last]

    def _decoded(self, index: int) -> Any:
        """The image in colour, scaled."""
        path = self._files[index]
        try:
            return decode(path, self._resize)
        except Exception as error:
            error = error.__cause__ or error
            reason = getattr(error, "strerror", None) or cause_of(error)
            text = f"{self.name}: image {index} ({path}) cannot be read ({reason}): mend or remove it"
            raise UserError(text) from None


def open_images(
    path: Path,
    *,
    resize: int | None = None,
    crop: int | None = None,
    flip: bool = False,
    seed: int = 0,
    classes: int | None = None,
) -> Data:
    """The images below a directory: DIR/train/CLASS/... and DIR/val/CLASS/..., or DIR/CLASS/... .

    The classes are the sorted names of the subfolders. ``valid`` and ``test`` are other names for ``val``. Without
    them a fifth of the images, always the same ones, is the test set. Of ``resize`` and ``crop``, the one that is not
    given is as the other one. `UserError` if Pillow is not installed, a class has no images, the test images have
    classes of their own, or folders are there that are neither classes nor sets.
    """
    _check_pillow(path)
    resize, crop = (resize or crop or RESIZE, crop or resize or CROP)
    if crop > resize:
        raise UserError(f"--crop {crop} is larger than images whose shorter side is --resize {resize} pixels")
    sizes = {"resize": resize, "crop": crop}
    random = {"flip": flip, "seed": seed}
    with reading(path, errors=(OSError,)):
        root, test_root, others = find_sets(path)
        names = find_classes(root)
        train = find_pictures(root, names)
        test = find_pictures(test_root, names) if test_root else None
    if classes not in (None, len(names)):
        raise UserError(f"{root} has {len(names)} subfolders, one a class, not {classes}: leave --classes out")
    if missing := sorted(set(names) - {names[label] for _, label in train}):
        raise UserError(f"{root}: there are no images ({', '.join(SUFFIXES)}) of {', '.join(missing[:10])}")
    if test is None:
        train, test = ([train[i] for i in rows] for rows in split_in_two(len(train)))
    if not train or not test:
        raise UserError(f"{path}: {len(train)} images to train with, {len(test)} to test; there must be some of both")
    return Data(
        _made(f"{path} (train)", train, names, **sizes, **random),
        _made(f"{path} (test)", test, names, **sizes),
        str(path),
        tuple(names),
        tuple(f"{other} is not read: {test_root} is what is tested with" for other in others),
    )


def _made(name: str, found: list[tuple[str, int]], classes: list[str], **options: Any) -> ImageFiles:
    return ImageFiles(name, [file for file, _ in found], [label for _, label in found], len(classes), **options)


def _check_pillow(path: Path) -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        text = f"the images in {path} are read with Pillow, which is not installed: pip install 'gridnn[images]'"
        raise UserError(text) from None
