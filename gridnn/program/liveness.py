"""When activations can be dropped: after which layer, in which pass; pure integers."""

from __future__ import annotations

from collections.abc import Iterator

from gridnn.network import INPUT
from gridnn.program.program import Program

GIVEN = -1  # the place of what another program made, before the first segment


class Liveness:
    """The last readers of every output and of every framed input of a program.

    A pass is ``forward`` (of training), ``evaluation``, or ``recompute``, which runs one segment at a time, the last
    but one first. What a segment reads of earlier ones stays from the forward pass on until it is recomputed.

    Parameters
    ----------
    program : Program
        Steps and segments.
    """

    def __init__(self, program: Program) -> None:
        self._segment = {place: s for s, segment in enumerate(program.segments) for place in segment}
        self._segment[GIVEN] = GIVEN
        self._last = len(program.segments) - 1
        self._outputs: dict[tuple[str, int], list[str]] = {}
        self._feeds: dict[tuple[str, int], list[tuple]] = {}
        outputs: dict[str, list[int]] = {}
        feeds: dict[tuple, list[int]] = {}
        for place, step in enumerate(program.steps):
            for i, edge in enumerate(step.edges):
                outputs.setdefault(edge.source, []).append(place)
                feeds.setdefault(step.reading(i), []).append(place)
        places = {step.name: place for place, step in enumerate(program.steps)}
        for name, readers in outputs.items():
            for when in self._ends(places.get(name, GIVEN), readers) if name != INPUT else ():
                self._outputs.setdefault(when, []).append(name)
        for key, readers in feeds.items():
            for when in self._feed_ends(readers):
                self._feeds.setdefault(when, []).append(key)

    def outputs(self, phase: str, place: int) -> list[str]:
        """The layers whose outputs nobody reads after step ``place`` of this pass."""
        return self._outputs.get((phase, place), [])

    def feeds(self, phase: str, place: int) -> list[tuple]:
        """The framed inputs (`Step.reading`) that nobody reads after step ``place`` of this pass."""
        return self._feeds.get((phase, place), [])

    def _ends(self, made: int, readers: list[int]) -> Iterator[tuple[str, int]]:
        """When the output of step ``made`` is dropped. One that nobody reads is the result."""
        yield "evaluation", max(readers)
        home, reading = self._segment[made], sorted({self._segment[place] for place in readers})
        again = [s for s in reading if home < s < self._last]  # these read it once more when they are recomputed
        if not again:
            yield "forward", max(readers)
        if home < self._last:
            yield "recompute", max([made, *(place for place in readers if self._segment[place] == home)])
        if again:
            yield "recompute", max(place for place in readers if self._segment[place] == again[0])

    def _feed_ends(self, readers: list[int]) -> Iterator[tuple[str, int]]:
        yield "evaluation", max(readers)
        yield "forward", max(readers)
        for segment in {self._segment[place] for place in readers} - {self._last}:
            yield "recompute", max(place for place in readers if self._segment[place] == segment)
