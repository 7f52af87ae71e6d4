"""Parts of a layer's output, and what of its ghosted input they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gridnn.layout.partition import Window

Region = tuple[slice, ...]


def around(region: Region, shape: tuple[int, ...]) -> Iterator[Region]:
    """What of an array of ``shape`` lies outside ``region``, in slabs that do not overlap."""
    slab = [slice(0, size) for size in shape]
    for axis, (part, size) in enumerate(zip(region, shape, strict=True)):
        for side in (slice(0, part.start), slice(part.stop, size)):
            if side.start < side.stop:
                yield (*slab[:axis], side, *slab[axis + 1 :])
        slab[axis] = part


def under(region: Region, shape: tuple[int, ...], over: Mapping[str, Window]) -> Region:
    """Where a ghosted input lies under the windows of ``region`` of an output of local ``shape``.

    ``over`` has the window over each axis of space, in order; samples are those of ``region``, channels all.
    """
    views = [region[0]]
    for part, size, window in zip(region[1:-1], shape[1:-1], over.values(), strict=True):
        start, stop, _ = part.indices(size)
        first, last = window.inputs((start, max(start, stop)))
        views.append(slice(first + window.before, last + window.before))
    return (*views, slice(None))
