"""Processes that take turns on one GPU: each waits until it is told to make its steps."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MEMORY = "out of memory"


class Refused(Exception):
    """What a process said when it could not go on."""


class Worker:
    """One process that answers orders, a line each.

    Parameters
    ----------
    script : str
        `gpu_gridnn.py` or `gpu_torch.py`.
    request : dict
        What it is to run.
    launcher : sequence of str
        What starts its ranks; nothing: it is alone.
    """

    def __init__(self, script: str, request: dict[str, Any], launcher: tuple[str, ...] = ()) -> None:
        command = [*launcher, sys.executable, str(HERE / script), json.dumps(request)]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`end` closes it)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._said, text=True)

    def ready(self) -> None:
        """Return when it has made its first steps.

        Raises
        ------
        Refused
            With its reason.
        """
        self._answer()

    def ask(self, order: str) -> dict[str, Any]:
        """What it answers; `Refused` as in `ready`."""
        try:
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Refused(self._reason()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("@"):
                answer = json.loads(line[1:])
                if "refused" in answer:
                    raise Refused(answer["refused"])
                return answer
        raise Refused(self._reason())

    def _reason(self) -> str:
        """The line that gridnn ended with, or the last one that there is."""
        status = self._process.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()]
        own = [line.removeprefix("gridnn: ") for line in lines if line.startswith("gridnn: ") or MEMORY in line.lower()]
        return (own or lines or [f"exit status {status}"])[-1 if not own else 0]

    def end(self) -> None:
        """Let it go, and wait until its memory is free."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("end\n")  # not every launcher passes the end of its input on
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()
