"""The directory of a run's checkpoints: which is the newest, which are kept, and what goes into each."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import tempfile
from collections.abc import Collection
from importlib import metadata
from typing import Any

from gridnn.errors import UserError, writing
from gridnn.train.checkpoint import first_does, load, open_header, save
from gridnn.train.header import Damaged
from gridnn.train.lock import Lock
from gridnn.train.resume import Facts, Progress, changed_options, go_on

NAME = re.compile(r"step-(\d{8,})\.safetensors")
PROBE = "probe-"
# What a job leaves that is killed while it writes; the second is Open MPI's, on several nodes.
LEFT = re.compile(rf"{NAME.pattern}\.partial(-\d+-\d+\.lock)?|{PROBE}[a-z0-9_]{{8}}")
KEEP = 3  # checkpoints that remain


class Checkpoints:
    """Writes checkpoints of a run into a directory, and finds the newest one there; all ranks use it together.

    Parameters
    ----------
    session : Session
        The run.
    optimizer : OptimizerState
        What the optimizer keeps.
    lock : Lock, optional
        Of the directory, if this rank has it already.
    gone : collection of (node, process)
        Processes of this job that have died.

    Raises
    ------
    UserError
        If files cannot be written into the directory or not all ranks see it, and where it holds checkpoints that are
        not to be resumed.
    """

    def __init__(
        self, session: Any, optimizer: Any, lock: Lock | None = None, gone: Collection[tuple[str, int]] = ()
    ) -> None:
        self.config, self.session, self.optimizer, self.grid = session.config.train, session, optimizer, session.grid
        self.directory, self.keep = self.config.checkpoint, self.config.keep or KEEP
        self._lock, self._lent, self._gone = lock, lock is not None, gone
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        self.saved: tuple[int, int] | None = None  # the updates and the epoch of what was saved last

    def _begin(self) -> None:
        """Own the directory, and look what is there."""
        self.left = self._first_does(self._own)
        self._check_seen()
        found = self._first_does(self._found)
        if found and not self.config.resume:
            raise UserError(
                f"--checkpoint {self.directory} holds {self._name(found[-1])} of an earlier run: "
                "--resume continues it, or name another directory"
            )
        self.newest = found[-1] if found else None

    def resume(self, progress: Progress) -> list[str]:
        """Continue from the newest checkpoint, if there is one; returns what is to be told of it.

        Raises
        ------
        UserError
            If it is damaged, or of another network, or of a run with other options.
        """
        if self.newest is None:
            return [f"--resume: {self.directory} holds no checkpoint, so the run begins"]
        path = self.path(self.newest)
        try:
            header = open_header(path, self.grid)
            facts = Facts.of(path, header.facts)
            if facts.progress.done != self.newest:
                raise UserError(f"checkpoint {path} is that of step {facts.progress.done}: give it its name back")
            changes = changed_options(path, facts.config, self._config())
            self._check(path, facts)
            load(path, header, self.session.tensors(self.optimizer), self.grid)
        except Damaged as error:
            raise UserError(f"{error}; {self._remedy()}") from error
        go_on(self.session, self.optimizer, progress, facts.progress, facts.scale)
        self.saved = progress.done, progress.epoch
        notes = [f"resumed from {path}: {progress.done} steps, written by {facts.ranks} ranks"]
        return notes + ([f"changed since then: {', '.join(changes)}"] if changes else [])

    def _check(self, path: str, facts: Facts) -> None:
        """Refuse facts that are not of such a run as this one."""
        try:
            facts.progress.check(self.session.steps_per_epoch, self.session.samples_per_epoch)
            if self.session.loss_scale and facts.scale is None:
                raise UserError('it lacks "loss_scale"')
        except UserError as error:
            raise Damaged(f"checkpoint {path} is not of this run: {error}") from error

    def save(self, progress: Progress) -> str:
        """Write a checkpoint, and remove those that are too old; returns its path.

        Raises
        ------
        UserError
            If it cannot be written; the earlier ones are as they were.
        """
        path = self.path(progress.done)
        save(path, self.session.tensors(self.optimizer), self._facts(progress), self.grid)
        self.saved = progress.done, progress.epoch
        if self.grid.index == 0:
            self._tidy()
        return path

    def path(self, step: int) -> str:
        """The file of the checkpoint after ``step`` updates."""
        return os.path.join(self.directory, self._name(step))

    @staticmethod
    def _name(step: int) -> str:
        return f"step-{step:08d}.safetensors"

    def _config(self) -> dict[str, Any]:
        return {**self.session.resolved, "training samples": len(self.session.data.train)}

    def _facts(self, progress: Progress) -> dict[str, Any]:
        """What goes into the header, as JSON where it is no text."""
        samples = (progress.epoch - 1) * self.session.samples_per_epoch + progress.count
        return {
            "step": progress.done,
            "samples": samples,
            "random_key": {"seed": self.config.seed, "step": progress.done},
            "progress": dict(progress.__dict__),
            **({"loss_scale": dict(scale.__dict__)} if (scale := self.session.loss_scale) else {}),
            "plan": self.session.plan.as_dict(),
            "ranks": self.grid.all.size,
            "config": self._config(),
            "writer": f"gridnn {_version()}",
        }

    def _own(self) -> str:
        """Make the directory and lock it; whose it was, if that run could not give it back."""
        with writing("--checkpoint", self.directory):
            os.makedirs(self.directory, exist_ok=True)
            if self._lock:
                return ""
            self._lock = Lock(self.directory, self._gone)
        return self._lock.left

    def lend(self) -> Lock | None:
        """The lock of the directory, for somebody who keeps it when this one is closed; None on other ranks."""
        self._lent = True
        return self._lock

    def _check_seen(self) -> None:
        """Find out whether every rank sees what the first one writes into the directory, which is locked."""
        probe = self._first_does(self._probe)
        seen = self.grid.all.gather_values((os.path.exists(probe), platform.node()))
        unseen = [node for sees, node in seen if not sees]
        if self.grid.index == 0:
            os.remove(probe)
        if unseen:
            raise UserError(
                f"--checkpoint {self.directory}: what {seen[0][1]} writes there is not seen on {unseen[0]}; "
                "name a directory that all nodes share"
            )

    def close(self) -> None:
        """Let other runs use the directory."""
        if self._lock and not self._lent:
            self._lock.release()

    def _probe(self) -> str:
        with writing("--checkpoint", self.directory):
            file, path = tempfile.mkstemp(prefix=PROBE, dir=self.directory)
            os.close(file)
            return path

    def _first_does(self, function: Any) -> Any:
        return first_does(self.grid, self.directory, function)

    def _found(self) -> list[int]:
        """The steps of the checkpoints in the directory, in order."""
        matches = (NAME.fullmatch(name) for name in os.listdir(self.directory))
        return sorted(int(match[1]) for match in matches if match)

    def _tidy(self) -> None:
        """Remove all but the newest checkpoints, and what jobs left that were killed."""
        old = [self._name(step) for step in self._found()[: -self.keep]]
        for name in (*old, *filter(LEFT.fullmatch, os.listdir(self.directory))):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(self.directory, name))

    def _remedy(self) -> str:
        """What to do about a newest checkpoint that is damaged."""
        found = self._first_does(self._found)
        if len(found) < 2:
            return "there is no earlier one in its directory"
        return f"the one before it is {self.path(found[-2])}: remove the bad one to resume from there"


def _version() -> str:
    try:
        return metadata.version("gridnn")
    except metadata.PackageNotFoundError:
        return "(not installed)"
