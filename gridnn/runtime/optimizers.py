"""Optimizers: frozen descriptions, and the state of one run as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gridnn.errors import UserError

Array = Any
SCRATCH = 1 << 15  # elements: what the fused updates use at the most


@dataclass(frozen=True)
class Optimizer:
    """How values follow gradients (abstract); ``lr`` is the learning rate where no schedule gives another one."""

    def names(self) -> tuple[str, ...]:
        """The arrays of the size of the parameters that it keeps between steps."""
        raise NotImplementedError

    def start(self, backend: Any, size: int, dtype: Any) -> OptimizerState:
        """The state before the first step for ``size`` parameters of ``dtype``."""
        return OptimizerState(self, backend, size, dtype)

    def apply(self, state: OptimizerState, values: Array, gradients: Array, lr: float) -> None:
        """Change ``values`` and the arrays of ``state`` in place; ``state.step`` counts from 1."""
        raise NotImplementedError


class OptimizerState:
    """What an optimizer keeps between steps.

    Attributes
    ----------
    arrays : dict of str to array
        Flat arrays like the parameters, by name; together with ``step`` all that a checkpoint needs.
    step : int
        Updates done.
    """

    def __init__(self, optimizer: Optimizer, backend: Any, size: int, dtype: Any):
        self.optimizer, self.backend, self.step = optimizer, backend, 0
        self.arrays = {name: backend.zeros((size,), dtype) for name in optimizer.names()}
        self.scratch = backend.empty((max(2, min(2 * size, SCRATCH)),), dtype)

    def update(self, values: Array, gradients: Array, lr: float) -> None:
        """One step on the flat ``values``, in place; ``gradients`` is not changed."""
        self.step += 1
        self.optimizer.apply(self, values, gradients, lr)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum in the form of Sutskever et al. 2013 that PyTorch uses.

    Raises
    ------
    UserError
        If Nesterov's form is asked for without momentum.
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    lr: float = 0.01

    def __post_init__(self):
        if self.nesterov and not self.momentum:
            raise UserError("SGD with nesterov needs momentum, but momentum = 0; 0.9 is usual")

    def names(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def apply(self, state: OptimizerState, values: Array, gradients: Array, lr: float) -> None:
        state.backend.kernels.sgd(
            values,
            gradients,
            state.arrays.get("momentum"),
            lr=lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            scratch=state.scratch,
        )


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    lr: float = 0.001

    def names(self) -> tuple[str, ...]:
        return ("first_moment", "second_moment")

    def apply(self, state: OptimizerState, values: Array, gradients: Array, lr: float) -> None:
        state.backend.kernels.adamw(
            values,
            gradients,
            state.arrays["first_moment"],
            state.arrays["second_moment"],
            step=state.step,
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            scratch=state.scratch,
        )
