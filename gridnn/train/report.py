"""What rank 0 shows of a run: a progress bar at a terminal, plain lines elsewhere, and the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.train.log import Log
from gridnn.train.picture import picture

PLAIN_LINE_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Summary:
    """What is known of a run once it is set up.

    Attributes
    ----------
    shape : GridShape
        The grid.
    rows, columns : str
        What the rows and the columns divide, for the picture.
    steps, epochs : int
        Updates in the whole run, and epochs.
    facts : dict
        More to be shown, by name (ranks, threads, parameters, samples, BLAS, ...).
    """

    shape: GridShape
    rows: str
    columns: str
    steps: int
    epochs: int
    facts: Mapping[str, Any] = field(default_factory=dict)


class Moved(NamedTuple):
    """One row of the last table: what was moved along a grid dimension in one phase, summed over ranks and steps.

    ``seconds`` are those of the average rank.
    """

    dimension: str
    phase: str
    words: int
    messages: int
    seconds: float


class Reporter:
    """Shows a run and writes its log; made and called on rank 0 only.

    Parameters
    ----------
    console : rich.console.Console
        Where it is shown; a terminal gets a progress bar.
    log : str, optional
        The JSONL file.
    append : bool
        Whether it goes on after what it holds.

    Raises
    ------
    UserError
        If the log cannot be written.
    """

    def __init__(self, console: Console, log: str | None = None, append: bool = False) -> None:
        self.console, self.log = console, Log(log, append) if log else None
        self.progress = _progress(console) if console.is_terminal and not console.quiet else None
        self.task: Any = None
        self.lost: str | None = None  # why there is no log any more
        self.summary: Summary | None = None
        self.last_line = self.began = time.monotonic()

    def note(self, text: str) -> None:
        """A warning."""
        self.console.print(f"note: {text}", markup=False)

    def started(self, config: Mapping[str, Any], summary: Summary) -> None:
        """Before the first step: the resolved configuration and the grid."""
        self.summary, self.last_line = summary, time.monotonic()
        for name, values in (("config", config), ("run", summary.facts)):
            text = ", ".join(f"{key.replace('_', '-')} {_readable(value)}" for key, value in values.items())
            self.console.print(f"{name}: {text}", markup=False)
        self.console.print(picture(summary.shape, summary.rows, summary.columns), markup=False)
        self._log("config", config=dict(config), grid=str(summary.shape), facts=dict(summary.facts))
        if self.progress:
            self.progress.start()
            self.console.show_cursor(True)  # a job that is stopped by a signal cannot give it back
            self.task = self.progress.add_task("", total=summary.steps, shown="")

    def step(
        self,
        step: int,
        epoch: int,
        loss: float,
        lr: float,
        samples_per_s: float,
        communication_share: float,
        accuracy: float | None = None,
    ) -> None:
        """After every update: its number from 1, its epoch from 1, the mean loss of its batch."""
        self._log("step", step=step, epoch=epoch, loss=loss, lr=lr, samples_per_s=samples_per_s)
        right = "" if accuracy is None else f"acc {accuracy:.1%} "
        shown = f"loss {loss:.4f} {right}{samples_per_s:,.0f} samples/s comm {communication_share:.0%}"
        if self.progress:
            self.progress.update(self.task, completed=step, description=self._epoch(epoch), shown=shown)
        elif time.monotonic() - self.last_line >= PLAIN_LINE_EVERY:
            self._line(f"step {step}/{self.summary.steps}, {self._epoch(epoch)}: {shown}")

    def epoch(
        self,
        epoch: int,
        train_loss: float,
        train_accuracy: float | None,
        test_loss: float,
        test_accuracy: float | None,
        words_by_dimension: Mapping[str, int],
        samples_per_s: float,
        communication_share: float,
    ) -> None:
        """After every epoch; the words are those of its steps, summed over ranks, by grid dimension."""
        self._log(
            "epoch",
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            words=dict(words_by_dimension),
        )
        parts = [_score("train", train_loss, train_accuracy), _score("test", test_loss, test_accuracy)]
        parts.append(f"{samples_per_s:,.0f} samples/s, {communication_share:.0%} communication")
        parts.append("words: " + ", ".join(f"{name} {count:,}" for name, count in words_by_dimension.items()))
        self._line(f"{self._epoch(epoch)}: {'; '.join(parts)}")

    def saved(self, step: int, path: str, seconds: float) -> None:
        """After every checkpoint."""
        self._log("checkpoint", step=step, path=path, seconds=seconds)

    def finished(self, rows: Iterable[Moved]) -> None:
        """At the end: what was moved, by grid dimension and phase."""
        self.close()
        self.console.print(moved_table(rows))
        if self.lost:
            self.note(self.lost)
        self.console.print(f"done in {time.monotonic() - self.began:.1f} s")

    def close(self) -> None:
        """Give the terminal and the log back; may be called twice."""
        if self.progress:
            self.progress.stop()
        if self.log:
            self._try_log(self.log.close)

    def _epoch(self, epoch: int) -> str:
        return f"epoch {epoch}/{self.summary.epochs}"

    def _line(self, text: str) -> None:
        self.last_line = time.monotonic()
        self.console.print(text, markup=False)

    def _log(self, event: str, **values: Any) -> None:
        if self.log:
            self._try_log(lambda: self.log.write(event, **values))

    def _try_log(self, write: Callable[[], None]) -> None:
        """A log that cannot be written any more ends, not the run; it is told then and at the end."""
        try:
            write()
        except UserError as error:
            self.log, self.lost = None, f"{error}; the run goes on without its log"
            self.note(self.lost)


def moved_table(rows: Iterable[Moved]) -> Table:
    """A table of ``rows`` with a last line for all of them."""
    rows = list(rows)
    table = Table("dimension", "phase", title="communication, all ranks (seconds: average rank)", title_justify="left")
    for name in ("words", "messages", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.dimension, row.phase, f"{row.words:,}", f"{row.messages:,}", f"{row.seconds:.3f}")
    table.add_section()
    words, messages, seconds = (sum(getattr(row, name) for row in rows) for name in ("words", "messages", "seconds"))
    table.add_row("all", "", f"{words:,}", f"{messages:,}", f"{seconds:.3f}")
    return table


def _readable(value: Any) -> str:
    """A value for the eye: large integers in groups of three digits."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else str(value)


def _score(name: str, loss: float, accuracy: float | None) -> str:
    return f"{name} loss {loss:.4f}" + ("" if accuracy is None else f", accuracy {accuracy:.2%}")


def _progress(console: Console) -> Progress:
    said, shown = TextColumn("{task.description}"), TextColumn("{task.fields[shown]}")
    return Progress(said, BarColumn(8), shown, TimeRemainingColumn(compact=True), console=console)
