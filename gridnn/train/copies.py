"""A second copy of a run in the memory of its ranks: what is needed to go on when one of them has died."""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Where
from gridnn.comm.reshard import Parts, reshard
from gridnn.layout.counts import Count, messages
from gridnn.layout.layout import Box, Layout, box_shape, box_size
from gridnn.train.checkpoint import Tensor
from gridnn.train.config import RunConfig
from gridnn.train.loss_scale import LossScale
from gridnn.train.resume import Progress

Array = Any
WHERE = Where("(copies)", "copy")
SHARE = 0.02  # of the time of a run that copies may take
MEASURED, LEARNT = 2, 2  # steps between the first copies, and which of them, from 0, tells what one takes


@dataclass(frozen=True)
class Moment:
    """What a copy is of, the same on all ranks.

    Attributes
    ----------
    config : RunConfig
        Of the run then.
    progress, scale : Progress, LossScale or None
        Where it was.
    layouts : dict of str to Layout
        Of its tensors, over the places of its grid.
    sent : frozenset of str
        Those of which another rank has every rank's part.
    shift : int
        How many places on that rank is.
    places : int
        Of its grid.
    """

    config: RunConfig
    progress: Progress
    scale: LossScale | None
    layouts: Mapping[str, Layout]
    sent: frozenset[str]
    shift: int
    places: int


@dataclass(frozen=True)
class Copy:
    """One rank's share of a copy: its own part, and that of the rank ``shift`` places before it, by tensor."""

    moment: Moment
    place: int
    own: Mapping[str, Array]
    held: Mapping[str, Array]


class Copies:
    """Takes copies of a run every few steps, such that one whole copy always stands; all ranks use it together.

    Every rank keeps its own part, and sends it to a rank on another node where there is one. Tensors of which another
    rank has a replica anyway are not sent.

    Parameters
    ----------
    agree : callable
        Returns when all ranks live and are here; raises on all ranks otherwise.
    every : int, optional
        Steps between two copies; None: as many as make them cost `SHARE` of the time.

    Attributes
    ----------
    last : Copy or None
        The newest copy that is whole.
    """

    def __init__(self, agree: Callable[[], None], every: int | None = None) -> None:
        self.agree, self._asked = agree, every
        self.last: Copy | None = None

    def attach(self, config: RunConfig, tensors: Mapping[str, Tensor], grid: Grid, nodes: Sequence[str]) -> None:
        """Copy these tensors from now on; ``nodes`` are the names of the nodes by place."""
        self._config, self._tensors, self._grid = config, tensors, grid
        self._layouts = {name: tensor.layout for name, tensor in tensors.items()}
        self._shift, self._sent = choose_shift(grid.shape.rows, nodes), tensors_to_send(self._layouts, nodes)
        self._spare: dict[str, Array] = {}
        self.every, self._taken, self._count = self._asked, 0, 0
        self._news = "as asked for" if self._asked else None

    def detach(self) -> None:
        """Let the tensors go; the last copy stays."""
        self._tensors, self._spare = {}, {}

    def due(self, done: int) -> bool:
        """Whether a copy is due after ``done`` steps."""
        return done - self._taken >= (self.every or MEASURED)

    def take(self, progress: Progress, scale: LossScale | None) -> None:
        """Copy the tensors as they are; until this copy is whole on all ranks the one before it stands."""
        began = time.perf_counter()
        held, self._spare = self._spare or self._buffers(), {}
        self._exchange(held)
        now = copy.copy(progress), copy.copy(scale)
        moment = Moment(self._config, *now, self._layouts, self._sent, self._shift, self._grid.all.size)
        self.agree()
        if self._count:
            own, self._spare = self.last.own, dict(self.last.held)
            for name, tensor in self._tensors.items():
                own[name][...] = tensor.array
        else:
            own = {name: tensor.array.copy() for name, tensor in self._tensors.items()}
        self.last = Copy(moment, self._grid.index, own, held)
        if self.every is None and self._count == LEARNT:
            self._choose(time.perf_counter() - began, (began - self._since) / (progress.done - self._taken))
        self._taken, self._count, self._since = progress.done, self._count + 1, time.perf_counter()

    def _exchange(self, held: Mapping[str, Array]) -> None:
        """Send this rank's part, and receive in ``held`` that of the rank before it."""
        me, size = self._grid.index, self._grid.all.size
        sends = [((me + self._shift) % size, self._tensors[name].array.reshape(-1)) for name in held]
        receives = [((me - self._shift) % size, array.reshape(-1)) for array in held.values()]
        self._grid.all.start_exchange(sends, receives, WHERE).wait()

    def _choose(self, cost: float, step: float) -> None:
        """Choose how often to copy from the seconds of a copy and of a step."""
        self.every = max(self._grid.all.gather_values(math.ceil(cost / (SHARE * step))))
        self._news = f"a copy takes {cost:.3g} s, a step {step:.3g} s"

    def news(self) -> str | None:
        """Once it is known how often copies are taken, and of what: in words."""
        if self.every is None or self._news is None:
            return None
        counts, why, self._news = self.predicted(), self._news, None
        words, messages = sum(count.words for count in counts), sum(count.messages for count in counts)
        sent = f"this rank sends {words:,} words in {messages} messages to the one {self._shift} on in the grid"
        many = "step" if self.every == 1 else f"{self.every} steps"
        return f"a copy of the run every {many}: {sent if counts else 'nothing is sent'} ({why})"

    def _buffers(self) -> dict[str, Array]:
        """Memory for the parts of the rank that sends to this one."""
        grid, giver = self._grid, (self._grid.index - self._shift) % self._grid.all.size
        sent = {name: tensor for name, tensor in self._tensors.items() if name in self._sent}
        return {name: grid.backend.empty(box_shape(t.layout.box(giver)), t.array.dtype) for name, t in sent.items()}

    def predicted(self) -> list[Count]:
        """The words and messages of this rank for one copy."""
        me, size = self._grid.index, self._grid.all.size
        sizes = (tensor.array.size for name, tensor in self._tensors.items() if name in self._sent)
        return messages(me, [((me + self._shift) % size, words) for words in sizes], self._grid.shape.rows)


def restore(mine: Copy | None, moment: Moment, tensors: Mapping[str, Tensor], grid: Grid) -> bool:
    """Fill ``tensors`` with a copy of which this rank has a share (or None); all ranks of ``grid`` call it.

    Returns False, on all of them, and changes nothing, if a part of it has died with all who held it.
    """
    places = grid.all.gather_values(mine.place if mine else None)
    now = {place: index for index, place in enumerate(places) if place is not None}
    parts = {name: _parts(name, moment, now, mine) for name in tensors}
    if not all(one.complete for one in parts.values()):
        return False
    for name, tensor in tensors.items():
        reshard(parts[name], tensor.layout, tensor.array, grid)
    return True


def _parts(name: str, moment: Moment, now: Mapping[int, int], mine: Copy | None) -> Parts:
    """Where the parts of a tensor are: ``now`` says which rank had which place."""
    arrays, holders = {}, {place: [index] for place, index in now.items()}
    if name in moment.sent:
        for place in now:
            holders.setdefault((place - moment.shift) % moment.places, []).append(now[place])
    if mine:
        if name in mine.held:
            arrays[(mine.place - moment.shift) % moment.places] = mine.held[name]
        arrays[mine.place] = mine.own[name]
    return Parts(moment.layouts[name], holders, arrays)


def choose_shift(rows: int, nodes: Sequence[str]) -> int:
    """How many places on the rank is that gets a rank's copy: on another node for as many as possible.

    With ``nodes``, the names by place of a grid of so many ``rows``, the first choice is one column on; a grid of one
    column takes the next row.
    """
    size = len(nodes)
    several = max(Counter(nodes).values())
    choices = [shift % size for shift in (rows, 1, several) if shift % size] or [0]
    return max(choices, key=lambda shift: sum(nodes[place] != nodes[(place + shift) % size] for place in range(size)))


def tensors_to_send(layouts: Mapping[str, Layout], nodes: Sequence[str]) -> frozenset[str]:
    """The tensors of which some part lies with one rank alone, or on one of several nodes."""
    found, least = set(), min(2, len(set(nodes)))
    for name, layout in layouts.items() if len(nodes) > 1 else ():
        where: dict[Box, list[int]] = {}
        for place in range(len(nodes)):
            where.setdefault(layout.box(place), []).append(place)
        holders = (places for box, places in where.items() if box_size(box))
        if any(len(places) < 2 or len({nodes[place] for place in places}) < least for places in holders):
            found.add(name)
    return frozenset(found)
