"""The optimizers, for `import gridnn as gn`."""

from __future__ import annotations

from gridnn.runtime.optimizers import SGD, AdamW, Optimizer, ParameterGroup

__all__ = ["SGD", "AdamW", "Optimizer", "ParameterGroup"]
