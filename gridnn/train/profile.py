"""Predicted beside measured seconds, by kind of operation and by layer, and what is lost by waiting for others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from gridnn.comm.clock import clock_offset
from gridnn.cost.machines import load_machine
from gridnn.cost.price import Price
from gridnn.data.order import first_batches
from gridnn.errors import UserError, within_memory
from gridnn.layout.messages import exchange
from gridnn.program.schedule import Accumulate, Begin, Compute, End, Load, Movement, Operation, StageMovement, Update
from gridnn.runtime.trace import Span, Trace, TracedPass
from gridnn.train.config import RunConfig
from gridnn.train.session import Session
from gridnn.train.setup import make_optimizer
from gridnn.train.tracing import price_runner

WARM = 2  # steps before those that are measured
OUTSIDE = "outside operations"  # Python between them: batches, losses, schedules
HALVES = {"input": "input gradient", "weights": "weight gradient"}


class Seconds(NamedTuple):
    """Seconds of a step, means over ranks and steps; ``waiting`` is what of ``measured`` is for ranks that are late."""

    name: str
    predicted: float
    measured: float
    waiting: float


class Call(NamedTuple):
    """A movement, which of the calls of its ranks it is, and the places where it begins and ends."""

    movement: Movement
    begin: int
    number: int
    end: int


@dataclass(frozen=True)
class Profile:
    """What was measured: the resolved options, ranks, machine, and seconds by kind of operation and by layer."""

    config: dict[str, Any]
    ranks: int
    machine: str
    steps: int
    kinds: tuple[Seconds, ...]
    layers: tuple[Seconds, ...]

    @property
    def step(self) -> Seconds:
        """All of it."""
        return Seconds("step", *(sum(row[i] for row in self.kinds) for i in (1, 2, 3)))


def profile(config: RunConfig, job: Any, machine: str | None = None) -> Profile:
    """Run ``steps`` steps after some others, with a clock at every operation.

    Parameters
    ----------
    machine : str, optional
        The name or file of the machine of the predicted seconds; default: that of ``config``.

    Raises
    ------
    UserError
        If the configuration does not fit the data, the network or the ranks.
    """
    with within_memory():
        loaded, session = load_machine(machine or config.plan.machine), Session(config, job)
    if session.batch > len(session.data.train):
        raise UserError(f"--batch {session.batch}: there are {len(session.data.train)} samples, less than one batch")
    steps, state = config.train.steps or 1, make_optimizer(config.train).start(session.parameters)
    chosen = first_batches(len(session.data.train), session.batch, config.train.seed, WARM + steps, drop_last=True)
    trace = None
    for number, indices in enumerate(chosen, 1):
        if number == WARM + 1:
            trace = session.trace = Trace(session.grid.backend.device)
        session.step(indices, number)
        session.update(state, 0.0)
    trace.settle()
    predicted = price_runner(session, loaded, session.batch, len(state.arrays))
    mine = _summed(session, trace.passes, predicted, steps)
    rows = [_means([rank[i] for rank in session.grid.all.gather_values(mine)]) for i in (0, 1)]
    session.grid.free()
    return Profile(session.resolved, job.size, loaded.name, steps, *rows)


def _summed(session: Session, passes: list[TracedPass], predicted: Price, steps: int) -> tuple[dict, dict]:
    """This rank's (predicted, measured, waiting) seconds of a step, by kind of operation and by layer."""
    kinds: dict[str, Counter] = defaultdict(Counter)
    layers: dict[str, Counter] = defaultdict(Counter)
    for operation, seconds in _expected(predicted):
        kinds[kind_of(operation)]["predicted"] += seconds
        layers[_owner(operation)]["predicted"] += seconds
    spans = [span for one in passes for span in one.spans()]
    late = _late(session, spans)
    for place, span in enumerate(spans):
        for row in (kinds[kind_of(span.operation)], layers[_owner(span.operation)]):
            row["measured"] += span.seconds / steps
            row["waiting"] += late.get(place, 0.0) / steps
    outside = spans[-1].stop - spans[0].start - sum(span.seconds for span in spans)
    kinds[OUTSIDE]["measured"] = layers[OUTSIDE]["measured"] = outside / steps
    return dict(kinds), dict(layers)


def _expected(price: Price) -> Iterator[tuple[Operation, float]]:
    """The operations with the seconds in which the processor computes or waits in them."""
    operations = [priced.operation for passed in price.passes for priced in passed]
    for event in price.timeline.critical_path:
        yield operations[event.operation], event.seconds


def _owner(operation: Operation) -> str:
    """The layer; the update is of all of them."""
    return operation.layer or kind_of(operation)


def kind_of(operation: Operation) -> str:
    """What kind of operation it is, for a person: of a layer which product, of a movement which one."""
    if isinstance(operation, Compute):
        return HALVES.get(operation.half, operation.phase)
    if isinstance(operation, (Begin, End)):
        return operation.movement.kind
    if isinstance(operation, (Load, Update)):
        return type(operation).__name__.lower()
    return "sum of passes" if isinstance(operation, Accumulate) else "copies and sums"


def _late(session: Session, spans: list[Span]) -> dict[int, float]:
    """How long the operations at these places wait for a rank that begins the movement later; all ranks call it.

    The clocks of all ranks are brought together. The calls of a group come in the same order on all of its ranks.
    """
    grid = session.grid
    offset = clock_offset(grid.all)
    starts: dict[Any, list[float]] = defaultdict(list)  # by the ranks of a group; None: messages to neighbours
    begun: dict[int, tuple[int, int]] = {}
    calls: list[Call] = []
    for place, span in enumerate(spans):
        operation = span.operation
        if isinstance(operation, Begin):
            mine = starts[operation.movement.members]
            begun[operation.number] = place, len(mine)
            mine.append(span.start + offset)
        elif isinstance(operation, End):
            calls.append(Call(operation.movement, *begun.pop(operation.number), place))
    others = {None: grid.all.gather_values(starts.pop(None, []))}
    others |= {members: grid.group(members).gather_values(mine) for members, mine in starts.items()}
    found: dict[int, float] = {}
    for call in calls:
        ranks = others[call.movement.members]
        needed = range(len(ranks)) if call.movement.members is not None else _senders(call.movement, grid.index)
        latest = max((ranks[rank][call.number] for rank in needed), default=0.0) - offset
        for place in {call.begin, call.end}:
            found[place] = max(0.0, min(latest, spans[place].stop) - spans[place].start)
    return found


def _senders(movement: StageMovement, index: int) -> list[int]:
    """The ranks from which a stage of messages brings something."""
    moved = exchange(movement.stage, index)
    return [piece.peer for piece in (moved.gives if movement.adjoint else moved.takes)]


def _means(ranks: list[dict[str, Counter]]) -> tuple[Seconds, ...]:
    """The means over all ranks, the longest first."""
    totals: dict[str, Counter] = defaultdict(Counter)
    for rank in ranks:
        for name, terms in rank.items():
            totals[name].update(terms)
    order = Seconds._fields[1:]
    rows = [Seconds(name, *(terms[term] / len(ranks) for term in order)) for name, terms in totals.items()]
    return tuple(sorted(rows, key=lambda row: -row.measured))
