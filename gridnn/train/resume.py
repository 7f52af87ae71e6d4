"""Where a run is, and with which options it may go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from gridnn.errors import UserError
from gridnn.layout.split import FORMER
from gridnn.records import parse_json, real, shortened, whole
from gridnn.train.config import RUN_OPTIONS
from gridnn.train.header import Damaged
from gridnn.train.loss_scale import PATIENCE, LossScale
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

    def check(self, steps: int, samples: int) -> None:
        """Refuse what cannot be of a run whose epochs have so many updates and samples: a `UserError`."""
        made = self.done - (self.epoch - 1) * steps
        if not 0 <= made <= steps:
            raise UserError(
                f"{self.done:,} updates are not in epoch {self.epoch:,}, since an epoch of this run has {steps:,}"
            )
        if self.count > samples or bool(self.count) != bool(made):
            raise UserError(
                f"{self.count:,} samples of an epoch of {samples:,} are not those of its first {made:,} updates of "
                f"{steps:,}"
            )


def go_on(session: Any, optimizer: Any, progress: Progress, then: Progress, scale: LossScale | None) -> None:
    """Set a run, whose tensors are those of another moment, to where it was ``then``, with its loss ``scale``."""
    progress.__dict__.update(then.__dict__)
    if session.loss_scale:
        session.loss_scale.__dict__.update(scale.__dict__)
    optimizer.step = then.done - (scale.skipped if scale else 0)
    session.parameters.refresh()


@dataclass(frozen=True)
class Facts:
    """What a checkpoint of ``gridnn train`` says of its run.

    Attributes
    ----------
    ranks : int
        How many wrote it.
    config : dict of str to object
        The resolved options with an effect.
    progress : Progress
        Where the run was.
    scale : LossScale or None
        Its loss scale; None if it has none.
    """

    ranks: int
    config: dict[str, Any]
    progress: Progress
    scale: LossScale | None

    @classmethod
    def of(cls, path: str, facts: Mapping[str, str]) -> Facts:
        """The facts in the header of the checkpoint ``path``; `Damaged` if they are not those of a run."""
        try:
            progress = Progress(**_numbers(facts, "progress", Progress()))
            scale = LossScale(**_numbers(facts, "loss_scale", LossScale())) if "loss_scale" in facts else None
            whole("epoch", progress.epoch, 1)
            if whole("step", _value(facts, "step")) != progress.done:
                raise UserError(f'its "step" is {facts["step"]}, but its progress {progress.done}')
            if scale:
                real("value", scale.value, 1)
                whole("good", scale.good, 0, PATIENCE)
                whole("skipped", scale.skipped, 0, progress.done)
            config = _value(facts, "config")
            if not isinstance(config, dict):
                raise UserError(f'its "config" is {shortened(config)}, but must be an object')
            return cls(whole("ranks", _value(facts, "ranks"), 1), config, progress, scale)
        except UserError as error:
            raise Damaged(f"checkpoint {path} is not one of gridnn train: {error}") from error


def _value(facts: Mapping[str, str], name: str) -> Any:
    if name not in facts:
        raise UserError(f'it lacks "{name}"')
    return parse_json(f'its "{name}"', facts[name])


def _numbers(facts: Mapping[str, str], name: str, example: Any) -> dict[str, int | float]:
    """The numbers of a fact: those that the ``example`` has, whole numbers of at least 0 where it has whole ones."""
    data, wanted = _value(facts, name), asdict(example)
    if not isinstance(data, dict) or data.keys() != wanted.keys():
        raise UserError(f'its "{name}" is {shortened(data)}, but must be an object of {", ".join(wanted)}')
    return {key: whole(key, data[key]) if type(one) is int else real(key, data[key]) for key, one in wanted.items()}


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
