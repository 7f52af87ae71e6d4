"""Where a run is, and with which options it may go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from gridnn.errors import UserError
from gridnn.layout.split import FORMER
from gridnn.train.config import RUN_OPTIONS
from gridnn.train.option import ADJUSTABLE, FIXED, FREE, flag


@dataclass
class Progress:
    """Where a run is.

    Attributes
    ----------
    done : int
        Updates made.
    epoch : int
        The epoch under way, from 1.
    loss, right, count : float, float, int
        Summed loss, right answers and samples of its updates so far.
    """

    done: int = 0
    epoch: int = 1
    loss: float = 0.0
    right: float = 0.0
    count: int = 0

    def add(self, mean: float, share: float, samples: int) -> None:
        """Count one update over ``samples`` samples."""
        self.done += 1
        self.loss += mean * samples
        self.right += share * samples
        self.count += samples

    def next_epoch(self) -> None:
        """The epoch is over and told."""
        self.epoch, self.loss, self.right, self.count = self.epoch + 1, 0.0, 0.0, 0


def changed_options(path: str, stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The options that have another value than in the checkpoint ``path``, as ``--lr 0.1 -> 0.01``.

    Parameters
    ----------
    stored, now : mapping
        The resolved options with an effect, then and now.

    Raises
    ------
    UserError
        If one of them decides what the network, the data or their order are.
    """
    stored = {FORMER.get(name, name): value for name, value in stored.items()}
    told, refused = [], []
    for name in sorted({*stored, *now}):
        kind, default = (RUN_OPTIONS[name].resume, RUN_OPTIONS[name].default) if name in RUN_OPTIONS else (FIXED, None)
        then, new = stored.get(name, default), now.get(name, default)
        if name in ("dataset", "model"):  # a path may be another one on another machine
            then, new = PurePath(str(then)).name, PurePath(str(new)).name
        if then != new and kind != FREE:
            (told if kind == ADJUSTABLE else refused).append(f"{flag(name)} {then} -> {new}")
    if refused:
        raise UserError(
            f"checkpoint {path} is of a run with other options: {', '.join(refused)}; "
            "give them as they were, or begin in another --checkpoint directory"
        )
    return told
