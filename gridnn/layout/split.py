"""Into how many parts each loop of a layer is divided, and which rank has which parts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from gridnn.errors import UserError

AXES = ("n", "d", "h", "w", "co", "ci")  # those of images and volumes; a layer may have others, by names of its own
REPLICAS = "replicas"
FORMER = {"copies": REPLICAS}  # as plans and checkpoints of before name it
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Split:
    """The division of one layer's loops over P ranks.

    A split is a mixed-radix number: rank ``index`` (counted down the columns of the grid, column after column) is
    written with one coordinate per factor, the slowest first, which is the part that it has of that axis.  So
    ``n=4,co=2`` gives ranks 0 and 1 the first quarter of the batch and divides the model between them.

    Attributes
    ----------
    factors : tuple of (axis, parts)
        The axes are ``n`` sample, ``d h w`` space, ``co`` out-channel, ``ci`` in-channel, those that a layer names for
        itself, and ``replicas``, the ranks that repeat the same work.  Their product is P.

    Examples
    --------
    >>> split = Split.parse("n=4,co=2")
    >>> split.ranks, split.parts("n"), split.parts("ci")
    (8, 4, 1)
    >>> coordinates_of(5, split.mesh)  # rank 5 has the third quarter of the batch, and the second half of the model
    (2, 1)
    """

    factors: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        for axis, parts in self.factors:
            if not NAME.fullmatch(axis):
                known = ", ".join(AXES)
                raise UserError(f"split {self}: {axis!r} is no name of an axis, such as {known} or {REPLICAS}")
            if parts < 1:
                raise UserError(f"split {self}: {axis}={parts}, but an axis has at least one part")

    @classmethod
    def of(cls, **parts: int) -> Split:
        """A split from keywords, the slowest axis first: ``Split.of(n=4, co=2)``."""
        return cls(tuple((axis, count) for axis, count in parts.items() if count != 1))

    @classmethod
    def parse(cls, text: str) -> Split:
        """A split from its text, ``n=4,co=2``; ``1`` or nothing is the undivided one.

        Raises
        ------
        UserError
            If a term is not of the form ``axis=parts``.
        """
        factors = []
        for term in filter(None, (part.strip() for part in text.split(","))):
            if term == "1":
                continue
            axis, equals, count = term.partition("=")
            if not equals or not count.strip().isdecimal():
                raise UserError(f"split {text!r}: cannot read {term!r}; write axis=parts, e.g. n=4,co=2")
            factors.append((FORMER.get(axis.strip(), axis.strip()), int(count)))
        return cls(tuple(factor for factor in factors if factor[1] != 1))

    def __str__(self) -> str:
        return ",".join(f"{axis}={parts}" for axis, parts in self.factors) or "1"

    @property
    def mesh(self) -> tuple[int, ...]:
        """The size of every mesh axis, the slowest first."""
        return tuple(parts for _, parts in self.factors)

    @property
    def ranks(self) -> int:
        """P, the product of all factors."""
        return math.prod(self.mesh)

    def parts(self, axis: str) -> int:
        """Into how many parts ``axis`` is divided."""
        return math.prod(parts for name, parts in self.factors if name == axis)

    def mesh_axes(self, *axes: str) -> tuple[int, ...]:
        """The mesh axes, by number, along which the parts of ``axes`` lie."""
        return tuple(i for i, (name, _) in enumerate(self.factors) if name in axes)

    def over(self, ranks: int) -> Split:
        """This split on ``ranks`` ranks: what its factors leave over are replicas, on neighbouring ranks.

        Raises
        ------
        UserError
            If the product of the factors does not divide ``ranks``.
        """
        if ranks % self.ranks:
            product = " x ".join(map(str, self.mesh)) + " = " if len(self.mesh) > 1 else ""
            raise UserError(
                f"split {self} has {product}{self.ranks} parts, which do not divide {ranks} ranks: "
                f"use parts whose product divides {ranks}"
            )
        left = ranks // self.ranks
        return self if left == 1 else Split((*self.factors, (REPLICAS, left)))

    def renamed(self, old: str, new: str) -> Split:
        """The same factors with ``old`` called ``new``."""
        return Split(tuple((new if axis == old else axis, parts) for axis, parts in self.factors))


def coordinates_of(index: int, mesh: tuple[int, ...]) -> tuple[int, ...]:
    """Where ``index`` lies on the axes of ``mesh``, the slowest first: its mixed-radix digits."""
    out = []
    for radix in reversed(mesh):
        index, coordinate = divmod(index, radix)
        out.append(coordinate)
    return tuple(reversed(out))


def index_at(coordinates: tuple[int, ...], mesh: tuple[int, ...]) -> int:
    """The number that lies at ``coordinates`` on the axes of ``mesh``."""
    index = 0
    for coordinate, radix in zip(coordinates, mesh, strict=True):
        index = index * radix + coordinate
    return index


def ordered_axes(axes: Iterable[str]) -> tuple[str, ...]:
    """Axes in the order in which splits are listed: the usual ones first, then a layer's own, replicas last."""
    known = dict.fromkeys(axes)
    usual = [axis for axis in AXES if axis in known]
    own = [axis for axis in known if axis not in AXES and axis != REPLICAS]
    return (*usual, *own, *((REPLICAS,) if REPLICAS in known else ()))
