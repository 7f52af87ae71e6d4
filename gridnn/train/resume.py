"""Where a run is, and with which options it may go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

from gridnn.errors import UserError
from gridnn.train.config import RunConfig, flag

# How the same numbers are computed, where from, and how long: another machine may well want other values.
FREE = {
    *(
        "grid",
        "order",
        "strategy",
        "machine",
        "memory",
        "domain",
        "group",
        "axes",
        "plan",
        "copies",
        "gather_backward",
        "halo",
        "recompute",
    ),
    *("backend", "kernels", "conv", "transport", "tf32", "graphs", "threads", "data_dir", "weights"),
    *("checkpoint", "resume", "keep", "save_every"),
}
# What changes the rest of the run, and is changed on purpose: it is told, not refused.
ADJUSTABLE = {"epochs", "steps", "lr", "schedule", "warmup", "step_every", "gamma", "clip", "weight_decay"}


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
    defaults = {field.name: field.default for field in fields(RunConfig)}
    told, refused = [], []
    for name in sorted({*stored, *now} - FREE):
        then, new = stored.get(name, defaults.get(name)), now.get(name, defaults.get(name))
        if name in ("dataset", "model"):  # a path may be another one on another machine
            then, new = PurePath(str(then)).name, PurePath(str(new)).name
        if then != new:
            (told if name in ADJUSTABLE else refused).append(f"{flag(name)} {then} -> {new}")
    if refused:
        raise UserError(
            f"checkpoint {path} is of a run with other options: {', '.join(refused)}; "
            "give them as they were, or begin in another --checkpoint directory"
        )
    return told
