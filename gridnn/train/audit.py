"""Predicted beside measured: a few real steps, and the words and messages of every layer as integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gridnn.comm.ledger import PHASES, Key, Ledger
from gridnn.cost.count import count
from gridnn.data.order import first_batches
from gridnn.errors import within_memory
from gridnn.train.config import RunConfig
from gridnn.train.session import Session


@dataclass(frozen=True)
class Row:
    """One kind of call of one layer, summed over all ranks and steps; ``equal`` if it is so on every single rank."""

    layer: str
    phase: str
    dimension: str
    kind: str
    predicted_words: int
    measured_words: int
    predicted_messages: int
    measured_messages: int
    measured_bytes: int
    seconds: float
    equal: bool


@dataclass(frozen=True)
class AuditResult:
    """What was audited: the resolved options, the number of ranks, and the rows in the order of the layers."""

    config: dict[str, Any]
    ranks: int
    rows: tuple[Row, ...]

    @property
    def equal(self) -> bool:
        """Whether every integer is as predicted, on every rank."""
        return all(row.equal for row in self.rows)


def audit(config: RunConfig, job: Any) -> AuditResult:
    """Run ``steps`` steps without updates and compare the ledger of every rank with the program's prediction.

    Raises
    ------
    UserError
        If the configuration does not fit the data, the network or the ranks.
    """
    with within_memory():
        session = Session(config, job)
    first = first_batches(len(session.data.train), session.batch, config.train.seed, config.train.steps or 1)
    predicted = Ledger()
    session.ledger.clear()
    for number, indices in enumerate(first, 1):
        predicted.merge(count(session.schedules(indices)))
        session.step(indices, number)
    tallies = dict(session.ledger.steps())
    mine = (predicted.integers(), session.ledger.integers(), tallies)
    rows = tuple(_rows(session.grid.all.gather_values(mine), session))
    session.grid.free()
    return AuditResult(session.resolved, job.size, rows)


def _rows(ranks: list[tuple[dict, dict, dict]], session: Session) -> Iterator[Row]:
    keys = {key for predicted, measured, _ in ranks for key in (*predicted, *measured)}
    names = [node.name for node in session.network.nodes]

    def place(key: Key) -> tuple:
        return names.index(key.layer) if key.layer in names else len(names), PHASES.index(key.phase), key

    for key in sorted(keys, key=place):
        predicted, measured = ([rank[i].get(key, (0, 0)) for rank in ranks] for i in (0, 1))
        tallies = [rank[2][key] for rank in ranks if key in rank[2]]
        yield Row(
            *key,
            predicted_words=sum(words for words, _ in predicted),
            measured_words=sum(words for words, _ in measured),
            predicted_messages=sum(messages for _, messages in predicted),
            measured_messages=sum(messages for _, messages in measured),
            measured_bytes=sum(tally.bytes for tally in tallies),
            seconds=sum(tally.seconds for tally in tallies) / len(ranks),
            equal=predicted == measured,
        )
