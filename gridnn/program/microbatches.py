"""Microbatches: the fully connected layers run K times a pass, each time on a K-th of every rank's samples.

Lai, Kadav, Kruus 2021 (arXiv 2112.15317), SplitBrain. The ranks that divide the samples of the layers before the
*stack* (the fully connected layers, up to the loss) each contribute the j-th of K even parts of theirs to microbatch j.
A group of K ranks so runs its stack on one batch of a rank at a time, not on K of them. Pure integers, without tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from gridnn.errors import UserError
from gridnn.layout.layout import Dim, Layout
from gridnn.layout.partition import Even, Interval, Partition


@dataclass(frozen=True)
class Microbatch(Partition):
    """The samples of one microbatch, in parts; their order is that of the ranks that have them.

    Attributes
    ----------
    whole : Even
        The batch, as it was divided before; ``parts`` divides their number.
    count, number : int
        K, and which of the microbatches this is, from 0 on.
    """

    whole: Even
    count: int
    number: int

    @classmethod
    def of(cls, whole: Even, count: int, number: int) -> Microbatch:
        """What the parts of ``whole`` give to the one of this ``number``, in as many parts."""
        made = cls(0, whole.parts, whole, count, number)
        return replace(made, size=made._before(whole.parts))

    def given(self, source_part: int) -> Interval:
        """Which of its own samples, from its first one on, part ``source_part`` of ``whole`` gives to this one."""
        return Even(self.whole.extent(source_part), self.count).interval(self.number)

    def over(self, parts: int) -> Partition:
        """The same samples in fewer parts, which are neighbouring parts of this one.

        Raises
        ------
        UserError
            If there are no such parts.
        """
        if parts == 1:
            return Even(self.size, 1)
        if self.whole.parts % parts:
            raise UserError(
                f"{self.count} microbatches: n is divided into {parts} parts, but into {self.whole.parts} where the "
                f"samples come from, and {parts} does not divide {self.whole.parts}: use fewer parts of n here, or one "
                "microbatch"
            )
        return replace(self, parts=parts)

    def interval(self, part: int) -> Interval:
        each = self.whole.parts // self.parts
        return self._before(part * each), self._before((part + 1) * each)

    def coarsen(self, factor: int) -> Partition | None:
        return None if self.parts % factor else self.over(self.parts // factor)

    def block(self, parts: int, part: int) -> Interval:
        """The places in the whole batch of what ``part`` of ``parts`` has in all microbatches together."""
        return Even(self.whole.size, parts).interval(part)

    def samples(self, parts: int, part: int) -> Iterator[Interval]:
        """The places in the whole batch of what ``part`` of ``parts`` has of this one."""
        each = self.whole.parts // parts
        for source_part in range(part * each, (part + 1) * each):
            first = self.whole.interval(source_part)[0]
            start, stop = self.given(source_part)
            if start < stop:
                yield first + start, first + stop

    def _before(self, source_part: int) -> int:
        """What the parts before ``source_part`` contribute: each has q or q + 1 samples, so two numbers tell it."""
        samples = self.whole.size // self.whole.parts
        longer = source_part * self.whole.size // self.whole.parts - source_part * samples
        few, many = (Even(count, self.count).extent(self.number) for count in (samples, samples + 1))
        return (source_part - longer) * few + longer * many


@dataclass(frozen=True)
class ConnectedLayers:
    """The layers that run in microbatches: the fully connected ones at the end.

    Attributes
    ----------
    start : int
        The place of the first one.
    source, layout, needs_gradient : str, Layout, bool
        The layer whose output they read, how that is divided, and whether it wants a gradient.
    count : int
        K.
    """

    start: int
    source: str
    layout: Layout
    needs_gradient: bool
    count: int

    @cached_property
    def microbatches(self) -> tuple[Microbatch, ...]:
        """The samples of every microbatch; those without samples are left out."""
        samples = self.layout.dims[0].partition
        whole = Even(samples.size, samples.parts)  # as samples are always divided
        microbatches = (Microbatch.of(whole, self.count, number) for number in range(self.count))
        return tuple(microbatch for microbatch in microbatches if microbatch.size)

    def read_layout(self, microbatch: Microbatch) -> Layout:
        """The layout of what the stack reads in one microbatch: every rank has what it contributes."""
        samples, *others = self.layout.dims
        return replace(self.layout, dims=(Dim(microbatch.over(microbatch.parts), samples.mesh_axes), *others))
