"""Data sets and readers; `from_arrays` and `open_dataset` are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

NAMES = {"Data": "base", "Dataset": "base", "from_arrays": "memory", "open_dataset": "datasets"}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{NAMES[name]}"), name)
