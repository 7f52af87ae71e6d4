"""What `import gridnn as gn` gives: the functions behind its names (see `gridnn.__init__`)."""

from __future__ import annotations

import sys
from typing import Any

from gridnn.comm.job import Job
from gridnn.cost.machine import Machine
from gridnn.cost.machines import load_machine
from gridnn.cost.price import Price
from gridnn.cost.price import price as price_programs
from gridnn.errors import UserError
from gridnn.layers.base import Layer
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.planning.search.request import PlanRequest
from gridnn.planning.search.strategies import plan_for
from gridnn.program.program import pass_programs, pass_sizes
from gridnn.train.model import Model
from gridnn.train.sections import PlanOptions
from gridnn.units import ITEMSIZES, parse_memory


def init(threads: int | None = None) -> Job:
    """Start MPI: the ranks of this job. A rank that raises ends the whole job.

    Parameters
    ----------
    threads : int, optional
        BLAS threads of a rank; default: its share of the node's cores.

    Raises
    ------
    UserError
        If MPI cannot be started, or processes do not see each other.
    """
    job = Job()
    job.check_ranks()
    job.use_threads(threads)
    if job.size > 1:
        shown = sys.excepthook

        def end(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            if isinstance(error, UserError):
                print(f"gridnn: {error}", file=sys.stderr, flush=True)
            else:
                shown(kind, error, trace)
            job.comm.Abort(2 if isinstance(error, UserError) else 1)

        sys.excepthook = end
    return job


class Sequential(Network):
    """A network of layers one after the other, named ``layer0``, ``layer1``, ...

    Parameters
    ----------
    input_shape : tuple of int
        Of one sample: (features,), (w, c), (h, w, c) or (d, h, w, c).
    *layers : Layer
        The last one a loss.
    """

    def __init__(self, input_shape: tuple[int, ...], *layers: Layer) -> None:
        super().__init__(input_shape)
        for number, layer in enumerate(layers):
            self.add(f"layer{number}", layer)


def plan(
    network: Network,
    batch: int,
    ranks: int,
    *,
    grid: str | None = None,
    strategy: str | None = None,
    machine: Machine | str = PlanOptions.machine,
    memory: str | float | None = None,
    dtype: str = "float32",
    slots: int = 1,
    replicas: bool = False,
    **options: Any,
) -> Plan:
    """A plan for ``network`` on ``ranks`` ranks.

    Parameters
    ----------
    batch : int
        B, samples of a step over all ranks.
    grid : str, optional
        "PrxPc"; default: chosen.
    strategy : str, optional
        "batch", "model", "grid", "domain", "channel", "integrated", "splitbrain", "layerwise", "tiling" or "optimal";
        default: "grid" with a ``grid``, else "optimal".
    machine : Machine or str
        What plans are compared on: a name, a file, or a machine.
    memory : str or float, optional
        Bytes of a rank, or text such as "16GB": plans that need more are left out.
    dtype : str
        Of the activations.
    slots : int
        Arrays that the optimizer keeps for every weight.
    replicas : bool
        Whether ranks that a layer cannot be divided over repeat its work, where a rule divides it.
    **options
        As in `Plan`: ``recompute``, ``halo``, ``gather_backward``.

    Raises
    ------
    UserError
        If there is no such plan.
    """
    shape = GridShape.parse(grid, ranks) if grid else None
    strategy = strategy or ("grid" if grid else "optimal")
    machine = load_machine(machine) if isinstance(machine, str) else machine
    limit = parse_memory(memory) if isinstance(memory, str) else memory
    size = ITEMSIZES[dtype]
    request = PlanRequest(
        network,
        ranks,
        batch,
        machine,
        shape,
        memory=limit,
        replicas=replicas,
        itemsize=size,
        slots=slots,
        options=options,
    )
    return plan_for(strategy, request)


def price(
    network: Network,
    plan: Plan,
    machine: Machine | str = PlanOptions.machine,
    *,
    batch: int,
    accumulate: int = 1,
    dtype: str = "float32",
    slots: int = 1,
) -> Price:
    """What a training step of ``batch`` samples costs: words, messages, seconds, bytes.

    Raises
    ------
    UserError
        If the plan does not fit the network or the batch.
    """
    machine = load_machine(machine) if isinstance(machine, str) else machine
    programs = pass_programs(network, plan, pass_sizes(batch, accumulate))
    return price_programs(programs, machine, itemsize=ITEMSIZES[dtype], slots=slots)


def compile(network: Network, plan: Plan, job: Job, **options: Any) -> Model:
    """A model that runs: `Model`, whose options these are."""
    return Model(network, plan, job, **options)
