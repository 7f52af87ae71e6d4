"""CUDA graphs of what a pass does on this rank alone: recorded once, asked for as one thing from then on.

A pass falls into *pieces* (what one layer computes, or one input with its frame) and what lies between them: messages,
sums over ranks, random numbers, the gradient of the loss with its scale. Pieces that follow each other are a *part*. A
piece makes the same calls in every pass of its kind, on the same addresses (see `gridnn.kernels.device.Recorder`); so a
part is one graph.

The first pass of a kind runs as if there were no graphs: it compiles kernels, and takes what is kept for good. In the
second one the parts are recorded. From the third one on they are launched, and what lies between runs as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gridnn.kernels.device import Graph, Recorder

Array = Any
Work = Callable[[], Any]
LEAST = 2  # kernels of a part: to launch a graph costs as much as to launch a kernel


class Plain:
    """The pieces of a pass, each when its turn comes."""

    def run(self, kind: Hashable, work: Callable[..., Any], *arrays: Array) -> Any:
        """What ``work(*arrays)`` gives, a pass like others of this ``kind``; the arrays come from outside of it."""
        return work(*arrays)

    def piece(self, layer: str, work: Work, *notes: dict[str, Any], kernels: int = 1) -> Any:
        """What ``work`` gives.

        Parameters
        ----------
        layer : str
            Whose piece it is.
        work : callable
            Makes the same calls in every pass of a kind; gives an array, None, or a tuple of these.
        notes : dict
            Where it leaves arrays for later pieces.
        kernels : int
            About as many it launches; with 0 no part begins.
        """
        return work()

    def between(self) -> None:
        """What follows is no piece."""

    def news(self) -> list[Part]:
        """The parts that have graphs in the passes that were recorded first; only once."""
        return []


PLAIN = Plain()


@dataclass(eq=False)
class Part:
    """Pieces that follow each other: about how many kernels they launch, and whose they are.

    ``graph`` is there once it is recorded; a part of fewer than `LEAST` kernels has none.
    """

    kernels: int = 0
    layers: set[str] = field(default_factory=set)
    graph: Graph | None = None


class Piece(NamedTuple):
    """What a piece of a graph left, as aliases: what it gave, and its notes. The first of its part ``begins``."""

    part: Part
    begins: bool
    given: Any
    notes: tuple[Mapping[str, Any], ...]


@dataclass(eq=False)
class Recording:
    """What is known of the passes of one kind.

    Attributes
    ----------
    parts : list of Part
        In order.
    pieces : list of Piece or None
        In order; None where there is no graph.
    places : list
        Where the arrays of these passes lie.
    """

    parts: list[Part] = field(default_factory=list)
    pieces: list[Piece | None] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)


class FirstPass(Plain):
    """Runs everything, and finds out what the parts are."""

    def __init__(self, recorder: Recorder, recording: Recording) -> None:
        self.recorder, self.recording = recorder, recording
        self.part: Part | None = None

    def memory(self) -> AbstractContextManager:
        """Where arrays are taken from."""
        return nullcontext()

    def inside(self, array: Array) -> Array:
        """An array from outside as the pass sees it."""
        return array

    def piece(self, layer: str, work: Work, *notes: dict[str, Any], kernels: int = 1) -> Any:
        if self.part is None:
            if not kernels:
                return work()
            self.part = Part()
            self.recording.parts.append(self.part)
        self.part.kernels += kernels
        self.part.layers.add(layer)
        return work()

    def between(self) -> None:
        self.part = None


class RecordingPass(FirstPass):
    """Records the graph of every part, and launches it at its end."""

    def __init__(self, recorder: Recorder, recording: Recording) -> None:
        super().__init__(recorder, recording)
        self._parts = iter(recording.parts)

    def memory(self) -> AbstractContextManager:
        return self.recorder.keeping(self.recording.places)

    def inside(self, array: Array) -> Array:
        return array.copy()  # to where the graphs find it

    def piece(self, layer: str, work: Work, *notes: dict[str, Any], kernels: int = 1) -> Any:
        begins = self.part is None and kernels > 0
        if begins:
            self.part = next(self._parts)
        if self.part is None or self.part.kernels < LEAST:
            self.recording.pieces.append(None)
            return work()
        if begins:
            self.recorder.begin()
        with self.recorder.unlisted():
            given = work()
        alias = self.recorder.alias
        self.recording.pieces.append(Piece(self.part, begins, alias(given), tuple(map(alias, notes))))
        return given

    def between(self) -> None:
        if self.part is not None and self.part.kernels >= LEAST:
            self.part.graph = self.recorder.end()
            self.part.graph()
        self.part = None


class LaterPass(FirstPass):
    """Launches the graph of a part where its first piece is due."""

    def __init__(self, recorder: Recorder, recording: Recording) -> None:
        super().__init__(recorder, recording)
        self._pieces = iter(recording.pieces)

    def memory(self) -> AbstractContextManager:
        return self.recorder.kept(self.recording.places)

    def inside(self, array: Array) -> Array:
        return array.copy()

    def piece(self, layer: str, work: Work, *notes: dict[str, Any], kernels: int = 1) -> Any:
        piece = next(self._pieces)
        if piece is None:
            return work()
        if piece.begins:
            piece.part.graph()
        for note, left in zip(notes, piece.notes, strict=True):
            note.update(left)
        return piece.given

    def between(self) -> None:
        """There is nothing to be ended."""


class Graphs(Plain):
    """The graphs of all passes of a session.

    They share their memory, since passes run one after the other: what one gives must be used before the next begins.

    Parameters
    ----------
    recorder : Recorder
        Of the device.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._known: dict[Hashable, tuple[type[FirstPass], Recording]] = {}
        self._now: Plain = PLAIN
        self._news: list[Part] | None = None  # until something is recorded

    def run(self, kind: Hashable, work: Callable[..., Any], *arrays: Array) -> Any:
        if self._now is not PLAIN:  # a pass within a pass
            return work(*arrays)
        how, recording = self._known.pop(kind, (FirstPass, Recording()))  # known again if nothing goes wrong
        self._now = now = how(self._recorder, recording)
        try:
            with now.memory():
                result = work(*map(now.inside, arrays))
                now.between()
        finally:
            self._recorder.abandon()
            self._now = PLAIN
        self._known[kind] = (RecordingPass if how is FirstPass else LaterPass), recording
        if how is RecordingPass and self._news is None:
            self._news = [part for part in recording.parts if part.graph]
        return result

    def piece(self, layer: str, work: Work, *notes: dict[str, Any], kernels: int = 1) -> Any:
        return self._now.piece(layer, work, *notes, kernels=kernels)

    def between(self) -> None:
        self._now.between()

    def news(self) -> list[Part]:
        told = self._news
        if told:
            self._news = []
        return told or []
