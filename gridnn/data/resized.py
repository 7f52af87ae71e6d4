"""Images of another size than they are stored in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gridnn.data.base import Box, Data, Dataset, format_shape
from gridnn.errors import UserError
from gridnn.layout.layout import box_shape


class Resized(Dataset):
    """The images of another data set, their shorter side ``size`` pixels; the proportion stays.

    They are interpolated linearly from the two nearest rows and columns, as in PyTorch's
    ``interpolate(mode="bilinear", align_corners=False)``: pixels are areas, the outer ones go on outwards, and nothing
    is averaged where an image shrinks. `UserError` if the samples are no images.
    """

    def __init__(self, images: Dataset, size: int):
        if len(images.sample_shape) != 3:
            shape = format_shape(images.sample_shape)
            raise UserError(f"--resize {size}: needs images of height x width x channels; {images.name} has {shape}")
        height, width, channels = images.sample_shape
        self._images = images
        self.name, self.classes, self.target_shape = images.name, images.classes, images.target_shape
        self.sample_shape = (*scaled_size(height, width, size), channels)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: np.ndarray, box: Box, out: np.ndarray, step: int = 0) -> None:
        taps = [self._taps(axis, box[axis]) for axis in (0, 1)]
        needed = (*(interval for interval, _, _ in taps), box[2])
        image = np.empty((len(indices), *box_shape(needed)), out.dtype)
        self._images.read(indices, needed, image, step)
        for axis, (_, near, share) in enumerate(taps, 1):
            weights = share.astype(out.dtype).reshape((-1,) + (1,) * (3 - axis))
            image = np.take(image, near[0], axis) * (1 - weights) + np.take(image, near[1], axis) * weights
        out[...] = image

    def _taps(self, axis: int, interval: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
        """For rows (axis 0) or columns (1): which are needed, the two for each one wanted, the second's share."""
        have, want = self._images.sample_shape[axis], self.sample_shape[axis]
        position = np.clip((np.arange(*interval) + 0.5) * (have / want) - 0.5, 0, have - 1)
        low = np.floor(position).astype(np.int64)
        near = np.stack([low, np.minimum(low + 1, have - 1)])
        if not near.size:
            return (0, 0), near, position
        start, stop = int(near.min()), int(near.max()) + 1
        return (start, stop), near - start, position - low

    def targets(self, indices: np.ndarray, box: Box | None = None) -> np.ndarray:
        return self._images.targets(indices, box)


def scaled_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width when the shorter of them is made ``size``."""
    short = min(height, width)
    return size * height // short, size * width // short


def resize_all(data: Data, size: int | None) -> Data:
    """``data`` with images of another size; unchanged if ``size`` is None."""
    return data if size is None else replace(data, train=Resized(data.train, size), test=Resized(data.test, size))
