"""Times of planning, in seconds of the processor: pricing on 65,536 ranks, and the search on 1,024.

make bench-plan
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from gridnn.cost.machines import load_machine
from gridnn.cost.price import price
from gridnn.layers import SoftmaxCrossEntropy
from gridnn.layout.gridshape import GridShape
from gridnn.models import MODELS, get_model
from gridnn.network import Network
from gridnn.planning.rules import make_plan
from gridnn.planning.search.cost_model import CostModel
from gridnn.planning.search.eliminate import eliminate
from gridnn.planning.search.space import FEW
from gridnn.program.program import Program

MACHINE = "perlmutter-a100"
GRIDS = (("batch", 1), ("integrated", 16), ("domain", 16), ("channel", 64))
RANKS, BATCH = 65_536, 65_536
SEARCHED = ("resnet50", "inception-v3")


def main() -> None:
    """Print both tables and the memory of the process."""
    out, machine = Console(width=120), load_machine(MACHINE)
    network = _network("resnet50")
    rows = Table("plan", "program s", "price s", title=f"resnet50, {RANKS:,} ranks, batch {BATCH:,}, {MACHINE}")
    for strategy, grid_rows in GRIDS:
        plan = make_plan(strategy, network, GridShape(grid_rows, RANKS // grid_rows), BATCH, replicas=True)
        program, compiled = _timed(lambda plan=plan: Program(network, plan, BATCH))
        _, priced = _timed(lambda program=program: price([program], machine).as_dict())
        rows.add_row(f"{strategy} {plan.grid}", f"{compiled:.2f}", f"{priced:.2f}")
    out.print(rows)
    rows = Table(
        "network", "axes", "configurations", "model s", "elimination s", title="search, 1,024 ranks, batch 8,192"
    )
    for name in SEARCHED:
        for axes, at_most in (("two", FEW), ("all", None)):
            network = _network(name)
            model = CostModel(network, 1024, 8192, machine, at_most=at_most)
            graph, built = _timed(lambda model=model: model.graph)
            _, solved = _timed(lambda graph=graph: eliminate(graph))
            most = max(map(len, model.space.values()))
            rows.add_row(name, axes, f"up to {most}", f"{built:.2f}", f"{solved:.2f}")
    out.print(rows)
    out.print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at the most")


def _network(name: str) -> Network:
    model = MODELS[name]
    network = get_model(name, model.input_shape, model.outputs)
    network.add("loss", SoftmaxCrossEntropy())
    return network


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return call(), time.process_time() - start


if __name__ == "__main__":
    main()
