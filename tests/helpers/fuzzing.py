"""Damaged files for one reader, in a process of its own: each is accepted, or refused in one line that names the file.

``python fuzzing.py READER SEED COUNT FOLDER``: bytes damaged at random, and for JSON as many values changed by
Hypothesis. Seed and number of a case are in FOLDER/case before it begins, and its file is in FOLDER, so that one that
ends the process can be made again: ``python fuzzing.py READER SEED 1 FOLDER NUMBER``. What went wrong is printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import signal
import struct
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

MEMORY = 2**29  # bytes that a small file may take
SECONDS = 2.0  # of a processor
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
# libtiff has no other way, and Pillow leaves it as it is.
ALLOWED = re.compile(r"((tempfile\.tif: |\w+Decode|TIFF\w+|_TIFF\w+).*\n)*")
MARKS = b"\x00\xff\x7f\x80\n\x1b09-.e\"'[]{},:()"


class TooLong(BaseException):
    """A case that takes too much of a processor's time."""


def place(rng: random.Random, size: int) -> int:
    """Somewhere in a file: half of the time at its beginning or its end, where headers and directories are."""
    kind = rng.random()
    if kind < 0.35:
        return rng.randrange(min(size, 256))
    return max(0, size - 1 - rng.randrange(min(size, 200))) if kind < 0.5 else rng.randrange(size)


def damaged(rng: random.Random, sound: bytes) -> bytes:
    """``sound`` with bits flipped, bytes put in, left out, zeroed or copied, numbers made large, or cut off."""
    out = bytearray(sound)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, kind = (
            place(rng, max(1, len(out))),
            rng.choice(("flip", "flip", "set", "number", "cut", "out", "in", "zero", "copy")),
        )
        length = rng.choice((1, 2, 4, 8, 64, 500))
        if kind == "flip" and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == "set":
            out[at : at + 1] = bytes([rng.choice((rng.randrange(256), *MARKS))])
        elif kind == "number":
            out[at : at + 8] = struct.pack(rng.choice("<>") + "Q", rng.choice(NUMBERS))[: rng.choice((2, 4, 8))]
        elif kind == "cut" and rng.random() < 0.3:
            del out[at:]
        elif kind == "out":
            del out[at : at + length]
        elif kind == "in":
            out[at:at] = rng.randbytes(length) if rng.random() < 0.5 else bytes([rng.choice(MARKS)]) * length
        elif kind == "zero":
            out[at : at + length] = bytes(len(out[at : at + length]))
        elif kind == "copy":
            start = place(rng, max(1, len(out)))
            out[at : at + length] = out[start : start + length]
    return bytes(out)


class Watch:
    """What a case does besides reading: its exceptions, its time, its memory, and what it prints."""

    def __init__(self, folder: Path) -> None:
        from gridnn.errors import UserError

        self.refusal, self.faults, self.refused, self.accepted = UserError, [], 0, 0
        self._case = os.open(folder / "case", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        self._printed = os.open(folder / "printed", os.O_CREAT | os.O_RDWR | os.O_APPEND)
        sys.stdout.flush()
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(self._printed, 1)
        os.dup2(self._printed, 2)
        signal.signal(signal.SIGPROF, self._too_long)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    @staticmethod
    def _too_long(number: int, frame: FrameType | None) -> None:
        raise TooLong

    @contextlib.contextmanager
    def case(self, name: str, file: Path) -> Iterator[None]:
        os.pwrite(self._case, name.encode().ljust(80), 0)
        printed = os.fstat(self._printed).st_size
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)  # as Python does by itself
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                yield
                self.accepted += 1
            except self.refusal as error:
                self.refused += 1
                text = str(error)
                if not text.isprintable():
                    self.faults.append(f"{name}: more than one line: {text!r}")
                elif file.name not in text and file.parent.name not in text:
                    self.faults.append(f"{name}: no file is named: {text}")
                elif "does not fit into memory" in text:
                    self.faults.append(f"{name}: more than {MEMORY} bytes of memory: {text}")
            except (Exception, TooLong) as error:
                where = error.__traceback__
                while where.tb_next:
                    where = where.tb_next
                at = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
                self.faults.append(f"{name}: {type(error).__name__} at {at}: {str(error)[:200]}")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fstat(self._printed).st_size > printed:
            text = os.pread(self._printed, 10_000, printed).decode(errors="replace")
            if not ALLOWED.fullmatch(text):
                self.faults.append(f"{name}: printed {text[:300]!r}")


def main(name: str, seed: str, count: str, folder: str, first: str = "0") -> None:
    from fuzz_readers import READERS

    from gridnn.errors import UserError

    reader, home = READERS[name], Path(folder)
    files = reader.make(home)
    sound = {file: file.read_bytes() for file in files}
    for file in files:
        with contextlib.suppress(UserError):  # what a lock says is one
            reader.read(home, file)  # which also imports what it needs
    watch, began = Watch(home), time.perf_counter()

    def attempt(case: str, file: Path, content: bytes) -> None:
        file.write_bytes(reader.seal(content, sound[file]))
        with watch.case(case, file):
            reader.read(home, file)
        file.write_bytes(sound[file])

    numbers = range(int(first), int(first) + int(count))
    for number in numbers:
        rng = random.Random(f"{name} {seed} {number}")
        file = rng.choice(files)
        attempt(f"{name} {seed} {number}", file, damaged(rng, reader.open(sound[file])))
    if reader.json:
        change_values(
            reader.open(sound[files[0]]),
            int(seed),
            int(count),
            lambda n, data: attempt(f"{name} {seed} values {n}", files[0], data),
        )
    seconds = time.perf_counter() - began
    told = {"accepted": watch.accepted, "refused": watch.refused, "seconds": seconds, "faults": watch.faults}
    print(json.dumps(told), file=watch.out, flush=True)
    os._exit(0)  # MPI, and libraries that hold damaged files, have nothing to tidy


def change_values(sound: bytes, number: int, count: int, attempt) -> None:
    """``sound`` JSON with values replaced, left out, or given other names, as Hypothesis chooses."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(NUMBERS)
    )
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    changes = st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from(("value", "value", "remove", "rename", "twin")), values),
        min_size=1,
        max_size=3,
    )
    tried = iter(range(10**9))

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(changes)
    def run(changes) -> None:
        data = json.loads(sound)
        for where, how, value in changes:
            data = changed(data, where, how, value)
        attempt(next(tried), json.dumps(data).encode())

    run()


def changed(data, where: int, how: str, value):
    """``data`` with one of its values, the ``where``-th, changed in place; or ``value`` instead of all of it."""
    places = []
    waiting = [data]
    while waiting:
        one = waiting.pop()
        items = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, inner in items:
            places.append((one, key))
            waiting.append(inner)
    if not places:
        return value
    holder, key = places[where % len(places)]
    if how == "remove" or (how == "rename" and isinstance(holder, list)):
        del holder[key]
    elif how == "rename":
        holder[str(value)] = holder.pop(key)
    elif how == "twin":
        holder[key] = [holder[key], holder[key]]
    else:
        holder[key] = value
    return data


if __name__ == "__main__":
    error = os.dup(2)
    try:
        main(*sys.argv[1:])
    finally:
        os.dup2(error, 2)  # for what goes wrong here
