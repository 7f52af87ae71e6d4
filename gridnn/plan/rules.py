"""The strategies by rule: a split for the layers with weights, the others follow.

Gholami, Azad, Jin, Keutzer, Buluc 2018 (arXiv 1712.04432) describe all five: pure batch parallelism (eq 4), pure model
parallelism (eq 3), the 1.5D algorithm (eq 8), domain parallelism (eq 7) and the integrated scheme (eq 9).
"""

from __future__ import annotations

from collections.abc import Callable

from gridnn.comm.gridshape import GridShape
from gridnn.comm.split import Split
from gridnn.errors import unknown
from gridnn.network import Network, Node
from gridnn.plan.plan import Plan, complete

Domain = tuple[int, int]


def _batch(grid: GridShape, batch: int, domain: Domain, spatial: bool) -> Split:
    """Every layer has all of the model and 1/P of the batch."""
    return Split.of(n=grid.size)


def _model(grid: GridShape, batch: int, domain: Domain, spatial: bool) -> Split:
    """Every layer has 1/P of the model and all of the batch."""
    return Split.of(co=grid.size)


def _grid(grid: GridShape, batch: int, domain: Domain, spatial: bool) -> Split:
    """1.5D: 1/Pr of the model and 1/Pc of the batch."""
    return Split.of(n=grid.cols, co=grid.rows)


def _domain(grid: GridShape, batch: int, domain: Domain, spatial: bool) -> Split:
    """Convolutions have 1/Pr of every image and 1/Pc of the batch; fully connected layers are 1.5D."""
    return Split.of(n=grid.cols, h=domain[0], w=domain[1]) if spatial else Split.of(n=grid.cols, co=grid.rows)


def _integrated(grid: GridShape, batch: int, domain: Domain, spatial: bool) -> Split:
    """Convolutions batch parallel over all P, or over the domain where P exceeds B; fully connected layers are 1.5D."""
    rule = _batch if spatial and batch >= grid.size else _domain
    return rule(grid, batch, domain, spatial)


RULES: dict[str, Callable[[GridShape, int, Domain, bool], Split]] = {
    "batch": _batch,
    "model": _model,
    "grid": _grid,
    "domain": _domain,
    "integrated": _integrated,
}


def make_plan(
    strategy: str,
    network: Network,
    grid: GridShape,
    batch: int,
    *,
    domain: Domain | None = None,
    gather_backward: str = "reduce-scatter",
    copies: bool = False,
) -> Plan:
    """The plan of a named strategy.

    Parameters
    ----------
    strategy : str
        One of `RULES`.
    domain : (int, int), optional
        Into how many parts h and w are divided where the domain is; their product is Pr (default: Pr parts of h).
    copies : bool
        Whether layers that are too small for their split are divided less; otherwise they are refused.

    Raises
    ------
    ValueError
        If the strategy is unknown, or its splits do not fit the network.
    """
    if strategy not in RULES:
        raise unknown("strategy", strategy, RULES)
    domain = domain or (grid.rows, 1)
    if domain[0] * domain[1] != grid.rows:
        raise ValueError(
            f"--domain {domain[0]}x{domain[1]} has {domain[0]} x {domain[1]} = {domain[0] * domain[1]} parts, but the "
            f"columns of grid {grid} have {grid.rows} ranks: use a domain with that product"
        )
    rule = RULES[strategy]
    chosen = {
        node.name: rule(grid, batch, domain, _spatial(network, node, batch))
        for node in network.nodes
        if _has_weights(network, node, batch)
    }
    try:
        splits = complete(network, chosen, grid.size, batch, copies)
    except ValueError as error:
        raise ValueError(f"strategy {strategy!r} on grid {grid}: {error}") from error
    return Plan(strategy, grid, splits, gather_backward)


def _has_weights(network: Network, node: Node, batch: int) -> bool:
    """Whether a layer multiplies by weights; these are divided by the rule, the others follow."""
    return any(p.fan_in for p in node.layer.weights(network.sizes(node, batch)).values())


def _spatial(network: Network, node: Node, batch: int) -> bool:
    return "h" in node.layer.axes(network.sizes(node, batch))
