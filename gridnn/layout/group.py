"""A regular set of ranks, as few integers: the ranks that differ along some axes of a mesh only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import overload

Strides = tuple[tuple[int, int], ...]


class Group(Sequence[int]):
    """``first`` + every sum of multiples of strides, the slowest first; a sequence of ranks without a table of them.

    Parameters
    ----------
    first : int
        The smallest rank.
    strides : tuple of (size, stride)
        ``size`` ranks, ``stride`` apart, along every axis of a mesh; a later one varies faster.

    Examples
    --------
    >>> list(Group(1, ((2, 12), (3, 2))))
    [1, 3, 5, 13, 15, 17]
    """

    __slots__ = ("first", "strides")

    def __init__(self, first: int, strides: Strides) -> None:
        self.first = first
        self.strides = tuple((size, stride) for size, stride in strides if size > 1)

    def __len__(self) -> int:
        return math.prod(size for size, _ in self.strides)

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[int, ...]: ...

    def __getitem__(self, place: int | slice) -> int | tuple[int, ...]:
        if isinstance(place, slice):
            return tuple(self[i] for i in range(*place.indices(len(self))))
        if not 0 <= place < len(self):
            raise IndexError(place)
        rank = self.first
        for size, stride in reversed(self.strides):
            place, coordinate = divmod(place, size)
            rank += coordinate * stride
        return rank

    def __iter__(self) -> Iterator[int]:
        ranks = [self.first]
        for size, stride in self.strides:
            ranks = [rank + value * stride for rank in ranks for value in range(size)]
        return iter(ranks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and (self.first, self.strides) == (other.first, other.strides)

    def __hash__(self) -> int:
        return hash((self.first, self.strides))

    def __repr__(self) -> str:
        return f"Group({self.first}, {self.strides})"

    def index(self, rank: int, *_: int) -> int:
        """The place of ``rank``, one of the group."""
        place, offset = 0, rank - self.first
        for size, stride in self.strides:
            place = place * size + offset // stride % size
        return place

    @property
    def last(self) -> int:
        """The largest rank."""
        return self.first + sum((size - 1) * stride for size, stride in self.strides)
