"""Random plans of random networks: the ledger of every rank is as predicted, and nothing of the result changes."""

from __future__ import annotations

import functools
import random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passes import Passes, targets
from random_networks import Case, random_case

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import CONTROL, Where
from gridnn.cost.count import predict
from gridnn.cost.memory import peak
from gridnn.kernels import NumpyBackend
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import Split
from gridnn.layout.transfer import Transfer
from gridnn.network import INPUT
from gridnn.planning.plan import Plan
from gridnn.program.program import Program

NUMBER = 45  # of plans on every number of ranks
GROUP = 5  # of them to a test
SEED = 3


class Result(NamedTuple):
    """Of one step: the loss, the norm of the gradient, the ledger, and the bytes of the block of memory.

    Not the right answers: logits that are equal but for rounding are no rare thing in such networks.
    """

    loss: float
    norm: float
    measured: tuple[dict, int]
    predicted: tuple[dict, int]


def run(case: Case, comm) -> Result:
    """One step on all ranks of ``comm``, in float64."""
    program, shape = case.program, case.plan.grid
    grid = Grid(comm, shape.rows, shape.cols, order=shape.order, backend=NumpyBackend("reference"))
    passes = Passes(program, grid, "float64", SEED)
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(case.batch, *case.network.shapes[INPUT]))
    loss, _ = passes.step(x, targets(program, rng), step=1, scale=1.0 / case.batch)
    norm = passes.parameters.norm(Where(CONTROL, "update"))
    measured = grid.ledger.integers(), passes.memory.size
    predicted = predict(program, grid.index).integers(), peak(program, grid.index, itemsize=8).arena
    grid.free()
    return Result(loss / case.batch, norm, measured, predicted)


@functools.cache
def alone(seed: str, ranks: int) -> Result:
    """The step of a case on one rank, undivided; every rank makes it for itself."""
    from mpi4py import MPI

    case = random_case(random.Random(seed), ranks)
    undivided = {node.name: Split(()) for node in case.network.nodes}
    return run(case._replace(plan=Plan("serial", GridShape(1, 1), undivided)), MPI.COMM_SELF)


@pytest.mark.mpi
@pytest.mark.parametrize("first", range(0, NUMBER, GROUP))
def test_random_plans(comm, first):
    for number in range(first, first + GROUP):
        seed = f"{comm.size} ranks, plan {number}"
        case = random_case(random.Random(seed), comm.size)
        result, serial = run(case, comm), alone(seed, comm.size)
        message = f"random_case(random.Random({seed!r}), {comm.size}):\n{case}"
        assert result.measured == result.predicted, message
        np.testing.assert_allclose(result[:2], serial[:2], rtol=1e-9, atol=1e-12, err_msg=message)


@settings(max_examples=60)
@given(draws=st.randoms(use_true_random=False), ranks=st.sampled_from((2, 3, 4, 5, 6, 8, 12)))
def test_predictions_agree_between_the_ranks(draws, ranks):
    """From integers alone: an adjoint moves what its movement moved, and the ranks together have all weights."""
    case = random_case(draws, ranks)
    program = case.program
    for step in program.layers:
        for edge in step.edges:
            check_adjoint(program, edge.transfer)
    weights = [peak(program, index).weights for index in range(ranks)]
    assert sum(weights) >= 4 * case.network.parameter_count >= max(weights)


def check_adjoint(program: Program, transfer: Transfer) -> None:
    """All ranks together: words and messages forward are those of the adjoint, but where that sums the whole."""
    totals = []
    for backward in (False, True):
        counts = [c for i in range(program.ranks) for c in transfer.counts(i, program.rows, backward)]
        totals.append((sum(count.words for count in counts), sum(count.messages for count in counts)))
    forward, adjoint = totals
    if transfer.full_sum and any(stage.kind == "all-gather" for stage in transfer.stages):
        assert adjoint[0] >= forward[0] and adjoint[1] >= forward[1]
    else:
        assert adjoint == forward
