"""What the parts of a dimension need of another that it was up- or down-sampled from: pure integers."""

from __future__ import annotations

from dataclasses import dataclass

from gridnn.layout.partition import Even, Interval, Partition, Window


@dataclass(frozen=True)
class Transposed(Partition):
    """The input that each part of the output partition ``base`` of a transposed convolution needs.

    Input element i gives to the outputs i * stride - before + k * dilation: ``window`` is the one that a convolution
    in the other direction has, so its outputs are this one's inputs.
    """

    base: Partition
    window: Window

    @classmethod
    def of(cls, base: Partition, window: Window, size: int) -> Partition:
        """The input partition of ``size`` elements; an even one where that is the same (see `Windowed.of`)."""
        if base.parts == 1:
            return Even(size, 1)
        if window == Window(1) and size == base.size:
            return base
        tiling = window == Window(window.stride, window.stride)
        if tiling and base == Even(size * window.stride, base.parts) and size % base.parts == 0:
            return Even(size, base.parts)
        return cls(size, base.parts, base, window)

    def interval(self, part: int) -> Interval:
        first, last = self.bounds(part)
        if self.base.extent(part) == 0:
            last = first
        start = min(max(first, 0), self.size)
        return start, max(start, min(last, self.size))

    def bounds(self, part: int) -> Interval:
        start, stop = self.base.interval(part)
        stride, before = self.window.stride, self.window.before
        return -(-(start + before - self.window.reach + 1) // stride), (stop - 1 + before) // stride + 1


@dataclass(frozen=True)
class Resampled(Partition):
    """The input that each part of the output partition ``base`` needs when a dimension is resampled by ``rule``."""

    base: Partition
    rule: str

    @classmethod
    def of(cls, base: Partition, rule: str, size: int) -> Partition:
        """The input partition of ``size`` elements; an even one where that is the same (see `Windowed.of`)."""
        if base.parts == 1:
            return Even(size, 1)
        if size == base.size:
            return base
        finer, coarser = max(size, base.size), min(size, base.size)
        even = base == Even(base.size, base.parts) and coarser % base.parts == 0
        if even and finer % coarser == 0 and rule == ("area" if size == finer else "nearest"):
            return Even(size, base.parts)
        return cls(size, base.parts, base, rule)

    def interval(self, part: int) -> Interval:
        start, stop = self.bounds(part)
        return (start, stop) if self.base.extent(part) else (min(start, self.size), min(start, self.size))

    def bounds(self, part: int) -> Interval:
        start, stop = self.base.interval(part)
        first, _ = resampled_from(self.rule, start, self.size, self.base.size)
        _, last = resampled_from(self.rule, stop - 1, self.size, self.base.size)
        return first, last + 1


def resampled_from(rule: str, output: int, size: int, outputs: int) -> Interval:
    """The first and the last of ``size`` inputs that ``output``, one of ``outputs``, is made of.

    ``rule`` is "nearest" (the element whose range holds the output's start), "linear" (between the two elements whose
    centres are around the output's centre, nothing beyond the first and the last) or "area" (all that it touches).
    """
    if rule == "nearest":
        first = last = output * size // outputs
    elif rule == "linear":
        doubled = max(0, (2 * output + 1) * size - outputs)  # the centre's place, times 2 * outputs
        first = doubled // (2 * outputs)
        last = min(size - 1, -(-doubled // (2 * outputs)))
    else:
        first, last = output * size // outputs, -(-(output + 1) * size // outputs) - 1
    return first, last
