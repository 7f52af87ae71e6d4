"""How one dimension of a tensor is cut into parts: pure integers.

A partition answers one question, ``interval(i)``: which half-open range of the dimension does part ``i``
hold.  Parts come in ascending order, may be uneven, may be empty, and may overlap (a halo).  Nothing here
builds a table of its parts, so a partition into 65,536 parts costs as much as one into two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Interval = tuple[int, int]


def intersect(a: Interval, b: Interval) -> Interval:
    """The common range of two intervals; empty ranges come back as ``(start, start)``."""
    start = max(a[0], b[0])
    return start, max(start, min(a[1], b[1]))


@dataclass(frozen=True)
class Partition:
    """A dimension of ``size`` elements in ``parts`` parts (abstract)."""

    size: int
    parts: int

    def interval(self, part: int) -> Interval:
        """The range ``(start, stop)`` that ``part`` holds, inside ``(0, size)``."""
        raise NotImplementedError

    def coarsen(self, factor: int) -> Partition | None:
        """The partition whose parts are ``factor`` consecutive parts of this one, or None if not known to be one."""
        return self if factor == 1 else None

    def extent(self, part: int) -> int:
        """The number of elements of ``part``."""
        start, stop = self.interval(part)
        return stop - start

    def touching(self, interval: Interval) -> range:
        """The parts that share at least one element with ``interval`` (empty parts between them included)."""
        if interval[0] >= interval[1]:
            return range(0)
        first = self._first(lambda part: self.bounds(part)[1] > interval[0])
        last = self._first(lambda part: self.bounds(part)[0] >= interval[1])
        return range(first, max(first, last))

    def bounds(self, part: int) -> Interval:
        """The interval of ``part``, or for an empty part a range such that both ends ascend from part to part."""
        return self.interval(part)

    def _first(self, holds: Callable[[int], bool]) -> int:
        """The first part for which the monotone predicate ``holds`` (``parts`` if none)."""
        low, high = 0, self.parts
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle + 1, high)
        return low


@dataclass(frozen=True)
class Even(Partition):
    """Parts that differ by one element at the most; part ``i`` starts at ``i * size // parts``.

    With this rule (and unlike "the first ones get one more") a partition into ``p * q`` parts nests in the one into
    ``p``: that is what lets an all-gather over q ranks turn one into the other.
    """

    def interval(self, part: int) -> Interval:
        return part * self.size // self.parts, (part + 1) * self.size // self.parts

    def coarsen(self, factor: int) -> Partition | None:
        return Even(self.size, self.parts // factor) if self.parts % factor == 0 else None


@dataclass(frozen=True)
class Scaled(Partition):
    """Every element of ``base`` stands for ``factor`` consecutive ones (an image flattened row by row)."""

    base: Partition
    factor: int

    @classmethod
    def of(cls, base: Partition, factor: int) -> Partition:
        """``base`` with every element repeated ``factor`` times."""
        if base.parts == 1:
            return Even(base.size * factor, 1)
        return base if factor == 1 else cls(base.size * factor, base.parts, base, factor)

    def interval(self, part: int) -> Interval:
        start, stop = self.base.interval(part)
        return start * self.factor, stop * self.factor

    def coarsen(self, factor: int) -> Partition | None:
        coarse = self.base.coarsen(factor)
        return None if coarse is None else Scaled.of(coarse, self.factor)


@dataclass(frozen=True)
class Clipped(Partition):
    """The section ``(offset, offset + size)`` of ``base``, counted from its own start (an input of a concat)."""

    base: Partition
    offset: int

    @classmethod
    def of(cls, base: Partition, offset: int, size: int) -> Partition:
        """The part of ``base`` that lies in ``(offset, offset + size)``."""
        if base.parts == 1:
            return Even(size, 1)
        return base if (offset, size) == (0, base.size) else cls(size, base.parts, base, offset)

    def interval(self, part: int) -> Interval:
        start, stop = intersect(self.base.interval(part), (self.offset, self.offset + self.size))
        return min(start - self.offset, self.size), min(stop - self.offset, self.size)

    def coarsen(self, factor: int) -> Partition | None:
        coarse = self.base.coarsen(factor)
        return None if coarse is None else Clipped.of(coarse, self.offset, self.size)


@dataclass(frozen=True)
class Window:
    """A sliding window over one spatial dimension.

    Attributes
    ----------
    kernel, stride, dilation : int
        Taps, step between outputs, step between taps.
    before, after : int
        Zero padding in front of the dimension and behind it.

    Examples
    --------
    The rows of an image of 227 that two ranks need for their halves of AlexNet's first layer:

    >>> window = Window(kernel=11, stride=4)
    >>> [window.inputs(Even(window.outputs(227), 2).interval(part)) for part in range(2)]
    [(0, 115), (108, 227)]
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    @property
    def reach(self) -> int:
        """The number of consecutive input elements under one window."""
        return self.dilation * (self.kernel - 1) + 1

    def outputs(self, size: int) -> int:
        """The number of windows that fit on ``size`` elements (may be zero or negative: then none does)."""
        return (size + self.before + self.after - self.reach) // self.stride + 1

    def inputs(self, output: Interval) -> Interval:
        """The input range under the windows of ``output``; reaches below 0 and past the size into the padding."""
        start, stop = output
        first = start * self.stride - self.before
        return (first, first) if start >= stop else (first, (stop - 1) * self.stride - self.before + self.reach)

    def covered(self, held: Interval, size: int, outputs: Interval) -> Interval:
        """Those of ``outputs`` whose windows lie on the range ``held`` of a dimension of ``size``, and on padding."""
        start, stop = outputs
        if held[0] > 0:
            start = max(start, -(-(held[0] + self.before) // self.stride))
        if held[1] < size:
            stop = min(stop, (held[1] + self.before - self.reach) // self.stride + 1)
        return start, max(start, stop)


@dataclass(frozen=True)
class Windowed(Partition):
    """The input that each part of the output partition ``base`` needs under ``window``: overlapping parts."""

    base: Partition
    window: Window

    @classmethod
    def of(cls, base: Partition, window: Window, size: int) -> Partition:
        """The input partition of ``size`` elements for the output partition ``base``.

        An undivided output asks for the whole input, a window of one tap for its own element, and windows that tile
        the input for even parts where whole windows are even parts, so that none looks like a movement.
        """
        if base.parts == 1:
            return Even(size, 1)
        if window == Window(1) and size == base.size:
            return base
        if window == Window(window.stride, window.stride) and _nests(base, size, window.stride):
            return Even(size, base.parts)
        return cls(size, base.parts, base, window)

    def interval(self, part: int) -> Interval:
        start, stop = intersect(self.window.inputs(self.base.interval(part)), (0, self.size))
        return min(start, self.size), min(stop, self.size)

    def bounds(self, part: int) -> Interval:
        start, stop = self.base.interval(part)
        stride, before = self.window.stride, self.window.before
        return start * stride - before, (stop - 1) * stride - before + self.window.reach


def _nests(base: Partition, size: int, factor: int) -> bool:
    """Whether the even parts of ``size`` elements are those of ``base``, each element standing for ``factor``."""
    return isinstance(base, Even) and size == base.size * factor and base.size % base.parts == 0


def window_ghosts(window: Window, output: Interval, held: Interval) -> Interval:
    """The padding before and after the range ``held`` that the windows of ``output`` reach into."""
    start, stop = window.inputs(output)
    before = min(max(0, held[0] - start), stop - start)
    return before, max(0, stop - start - before - (held[1] - held[0]))
