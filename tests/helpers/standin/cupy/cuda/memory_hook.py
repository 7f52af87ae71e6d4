"""Hooks that are told of every allocation; they belong to the thread that registered them, as in CuPy."""

from __future__ import annotations

import collections
import threading
from typing import Any

_local = threading.local()


def get_memory_hooks() -> collections.OrderedDict:
    """The hooks of the calling thread, by name."""
    if not hasattr(_local, "hooks"):
        _local.hooks = collections.OrderedDict()
    return _local.hooks


def call(moment: str, **facts: int) -> None:
    """Tell the hooks of the calling thread (not a function of CuPy)."""
    for hook in list(get_memory_hooks().values()):
        getattr(hook, moment)(**facts)


class MemoryHook:
    """Base of hooks; used as a context manager."""

    name = "MemoryHook"

    def __enter__(self) -> MemoryHook:
        hooks = get_memory_hooks()
        if self.name in hooks:
            raise KeyError(f"memory hook {self.name} already exists")
        hooks[self.name] = self
        return self

    def __exit__(self, *_: Any) -> None:
        del get_memory_hooks()[self.name]

    def alloc_preprocess(self, **kwargs: int) -> None:
        pass

    def alloc_postprocess(self, **kwargs: int) -> None:
        pass

    def malloc_preprocess(self, **kwargs: int) -> None:
        pass

    def malloc_postprocess(self, **kwargs: int) -> None:
        pass

    def free_preprocess(self, **kwargs: int) -> None:
        pass

    def free_postprocess(self, **kwargs: int) -> None:
        pass
