"""Optimizers: frozen descriptions, and the state of one run as flat arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from gridnn.errors import UserError

Array = Any
SCRATCH = 1 << 15  # elements: what the fused updates use at the most


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with a learning rate and a weight decay of their own.

    Attributes
    ----------
    names : tuple of str
        Patterns (`fnmatch`) of ``layer.tensor``: ``"*.bias"``, ``"conv1.*"``.
    lr : float
        What the learning rate of a step is multiplied by.
    weight_decay : float, optional
        Instead of the optimizer's.
    """

    names: tuple[str, ...]
    lr: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class Optimizer:
    """How values follow gradients (abstract).

    Attributes
    ----------
    weight_decay : float
    lr : float
        The learning rate where no schedule gives another one.
    groups : tuple of ParameterGroup
        A parameter belongs to the first one that names it, if any.
    """

    weight_decay: float = 0.0
    lr: float = 0.01
    groups: tuple[ParameterGroup, ...] = ()

    def names(self) -> tuple[str, ...]:
        """The arrays of the size of the parameters that it keeps between steps."""
        raise NotImplementedError

    def start(self, parameters: Any) -> OptimizerState:
        """The state before the first step of ``parameters``, a `gridnn.runtime.parameters.Parameters`.

        Raises
        ------
        UserError
            If a group names no parameter.
        """
        keys = parameters.spans()
        return OptimizerState(self, parameters.backend, parameters.values.size, parameters.wide, self._ranges(keys))

    def _ranges(self, keys: Mapping[str, slice]) -> list[tuple[slice, Optimizer, float]]:
        """The parts of the flat arrays that are updated alike, how, and by which share of the learning rate."""
        plain = replace(self, groups=())
        found: list[tuple[slice, int | None]] = []  # place, group
        used: set[int | None] = set()
        for key, place in keys.items():
            matching = (n for n, group in enumerate(self.groups) if any(fnmatchcase(key, name) for name in group.names))
            number = next(matching, None)
            used.add(number)
            if found and found[-1][1] == number:
                found[-1] = slice(found[-1][0].start, place.stop), number
            else:
                found.append((place, number))
        for number, group in enumerate(self.groups):
            # a rank may have no part of a parameter, but every rank knows all names
            if number not in used:
                raise UserError(
                    f"group {', '.join(group.names)}: no parameter has such a name, as {next(iter(keys), '')}"
                )
        return [(place, *self._of_group(plain, number)) for place, number in found]

    def _of_group(self, plain: Optimizer, number: int | None) -> tuple[Optimizer, float]:
        if number is None:
            return plain, 1.0
        group = self.groups[number]
        decay = plain.weight_decay if group.weight_decay is None else group.weight_decay
        return replace(plain, weight_decay=decay), group.lr

    def apply(
        self, state: OptimizerState, arrays: Mapping[str, Array], values: Array, gradients: Array, lr: float
    ) -> None:
        """Change ``values`` and ``arrays``, what is kept for them, in place; ``state.step`` counts from 1."""
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

    def __init__(
        self,
        optimizer: Optimizer,
        backend: Any,
        size: int,
        dtype: Any,
        ranges: Sequence[tuple[slice, Optimizer, float]],
    ) -> None:
        self.optimizer, self.backend, self.step, self.ranges = optimizer, backend, 0, ranges
        self.arrays = {name: backend.zeros((size,), dtype) for name in optimizer.names()}
        self.scratch = backend.empty((max(2, min(2 * size, SCRATCH)),), dtype)

    def update(self, values: Array, gradients: Array, lr: float) -> None:
        """One step on the flat ``values``, in place; ``gradients`` is not changed."""
        self.step += 1
        for place, rule, share in self.ranges:
            arrays = {name: array[place] for name, array in self.arrays.items()}
            rule.apply(self, arrays, values[place], gradients[place], share * lr)


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

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise UserError("SGD with nesterov needs momentum, but momentum = 0; 0.9 is usual")

    def names(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def apply(
        self, state: OptimizerState, arrays: Mapping[str, Array], values: Array, gradients: Array, lr: float
    ) -> None:
        state.backend.kernels.sgd(
            values,
            gradients,
            arrays.get("momentum"),
            lr=lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            scratch=state.scratch,
        )


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

    weight_decay: float = 0.01
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def names(self) -> tuple[str, ...]:
        return ("first_moment", "second_moment")

    def apply(
        self, state: OptimizerState, arrays: Mapping[str, Array], values: Array, gradients: Array, lr: float
    ) -> None:
        state.backend.kernels.adamw(
            values,
            gradients,
            arrays["first_moment"],
            arrays["second_moment"],
            step=state.step,
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            scratch=state.scratch,
        )
