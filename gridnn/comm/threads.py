"""How many threads a rank may use: the cores of a node shared among its ranks, and the BLAS told so."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


def affinity() -> frozenset[int]:
    """The cores that this process may run on; the hardware threads of one core count as that core."""
    if not hasattr(os, "sched_getaffinity"):  # not Linux: no binding to ask for
        return frozenset(range(os.cpu_count() or 1))
    return frozenset(_core(cpu) for cpu in os.sched_getaffinity(0))


def _core(cpu: int) -> int:
    """The first hardware thread of the core that ``cpu`` is one of."""
    try:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        return int(siblings.replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return cpu


def share(mine: Iterable[int], everyone: Sequence[Iterable[int]]) -> int:
    """The whole threads, at least one, of a rank with the cores ``mine`` among ``everyone`` on its node.

    A core counts 1/k for each of the k ranks of the node that may use it. So ranks that are bound to cores of their own
    get these, and ranks that are not bound get equal shares.
    """
    users: dict[int, int] = {}
    for cores in everyone:
        for core in cores:
            users[core] = users.get(core, 0) + 1
    return max(1, int(sum(Fraction(1, users[core]) for core in mine)))


def omp_threads(env: Mapping[str, str]) -> int | None:
    """The threads that OMP_NUM_THREADS asks for (of a list, for the outermost level); None if it asks for none."""
    first = env.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


@dataclass(frozen=True)
class Blas:
    """A library that runs threads of its own: its name, version, threading and the CPU kernel that it chose."""

    name: str
    version: str
    threading: str
    kernel: str
    threads: int

    def __str__(self) -> str:
        described = (f"{self.name} {self.version}", self.threading, f"{self.kernel} kernel" if self.kernel else "")
        return ", ".join(filter(None, described))


def limit_threads(threads: int) -> None:
    """Let every BLAS and OpenMP pool of this process use ``threads`` threads from now on."""
    import numpy  # noqa: F401 (its BLAS must be loaded to be limited)
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=threads)


def libraries() -> list[Blas]:
    """The BLAS libraries that are loaded."""
    from threadpoolctl import threadpool_info

    return [
        Blas(
            info["internal_api"],
            info.get("version") or "unknown",
            info.get("threading_layer", ""),
            info.get("architecture", ""),
            info["num_threads"],
        )
        for info in threadpool_info()
        if info["user_api"] == "blas"
    ]
