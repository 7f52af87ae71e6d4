"""Refusals of the search: more ranks than a network can use, a memory limit that nothing meets."""

from __future__ import annotations

import numpy as np

from gridnn.cost.memory import Peak, peak
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import REPLICAS
from gridnn.planning.plan import Plan
from gridnn.planning.propagate import propagate
from gridnn.planning.search.cost_model import CostModel
from gridnn.planning.search.groups import allowed_parts
from gridnn.planning.search.space import FEW, most_parts
from gridnn.program.program import Program
from gridnn.units import shown

TRIED = 200  # sizes of what comes and goes, the smallest first
MOST = 8  # doublings of P, or halvings of the batch, that are tried


def check_ranks(model: CostModel) -> None:
    """Refuse ranks that could only repeat what others do.

    The `UserError` says the largest number of ranks, a divisor of P, that some layer can use.
    """
    leaders = {name: group.leader for name, group in model.grouped.groups.items()}
    working = [name for name, leader in leaders.items() if leader.layer.multiplies(leader.shapes)]
    if any(split.parts(REPLICAS) == 1 for name in working for split in model.space[name].splits):
        return
    groups = model.grouped.groups
    parts = {name: most_parts(model.ranks, allowed_parts(groups[name], model.ranks)) for name in working}
    name = max(parts, key=parts.__getitem__, default="")
    most = parts.get(name, 0)
    if 0 < most < model.ranks:
        raise UserError(
            f"{model.ranks} ranks are more than this network can use at batch {model.batch}: no layer divides into "
            f"more than {most} parts ({name!r}): use {most} ranks, a larger batch, or a named strategy with --replicas"
        )


def unmet(model: CostModel, memory: float, seen: Peak | None) -> UserError:
    """Why no plan meets a memory limit: the layer and term that need most, and the smallest P or batch that would.

    ``seen`` is the least that a plan needs of those that were looked at.
    """
    least = min((one for one in (_leanest(model), seen) if one), key=lambda one: one.total)
    terms = {
        "activations": least.arena,
        "weights, gradients and optimizer": least.weights + least.gradients + least.optimizer + least.states,
        "inputs": least.inputs,
        "buffers of messages and kernels": least.buffers,
    }
    term = max(terms, key=terms.__getitem__)
    text = (
        f"--memory: no plan for {model.ranks} ranks at batch {model.batch} fits into {shown(memory)} a rank: the least "
        f"that any needs is about {shown(least.total)}, {shown(terms[term])} of it {term}, most for layer "
        f"{_hungriest(model, least, term)!r}"
    )
    remedies = [remedy for remedy in (_ranks(model, memory), _batch(model, memory)) if remedy]
    return UserError(f"{text}: use {' or '.join([*remedies, 'more memory'])}")


def _hungriest(model: CostModel, least: Peak, term: str) -> str:
    if not term.startswith("weights") and least.layers:
        return max(least.layers, key=least.layers.__getitem__)
    return max(model.names, key=lambda name: float(model.node_costs(name)["weight memory"].min()))


def _leanest(model: CostModel) -> Peak:
    """The peak of a step of the plan that keeps least, together with what comes and goes in its largest layer."""
    choice = min((_keeping_least(model, most) for most in _thresholds(model)), key=lambda one: one[0])[1]
    splits = propagate(model.network, model.splits(choice), model.ranks, model.batch, replicas=True)
    program = Program(model.network, Plan("optimal", GridShape(1, model.ranks), splits), model.batch)
    options = model.options
    return peak(program, 0, slots=options.slots, policy=options.machine.policy(options.itemsize))


def _thresholds(model: CostModel) -> list[float]:
    """What may come and go in a layer: every layer has a configuration that needs no more."""
    least = max(float(passing.min()) for passing in model.passing)
    return sorted({least, *(float(value) for passing in model.passing for value in passing if value > least)})[:TRIED]


def _keeping_least(model: CostModel, most: float) -> tuple[float, list[int]]:
    """The bytes and the choice that keeps least, where no more than ``most`` come and go in a layer."""
    kept = [np.where(passing <= most, own, np.inf) for own, passing in zip(model.memory, model.passing, strict=True)]
    return most + sum(float(own.min()) for own in kept), [int(own.argmin()) for own in kept]


def _ranks(model: CostModel, memory: float) -> str | None:
    for doubling in range(1, MOST + 1):
        ranks = model.ranks * 2**doubling
        if _fits(model, ranks, model.batch, memory):
            return f"about {ranks} ranks"
    return None


def _batch(model: CostModel, memory: float) -> str | None:
    for halving in range(1, MOST + 1):
        batch = model.batch >> halving
        if batch and _fits(model, model.ranks, batch, memory):
            passes = model.options.passes
            return f"about --batch {batch * passes} (or --accumulate {passes << halving})"
    return None


def _fits(model: CostModel, ranks: int, batch: int, memory: float) -> bool:
    own, case = model.options, (model.network, ranks, batch, model.options.machine)
    other = CostModel(*case, at_most=FEW, itemsize=own.itemsize, slots=own.slots)
    return _leanest(other).total <= memory
