"""From the splits of some layers to one for every layer, none finer than its layer is long."""

from __future__ import annotations

from collections.abc import Mapping

from gridnn.errors import UserError
from gridnn.layers.base import SPACE_AXES, Shapes
from gridnn.layout.split import REPLICAS, Split
from gridnn.network import Network, Node


class TooFineError(UserError):
    """An axis of space has more parts than places, of which there are ``size``."""

    def __init__(self, text: str, size: int) -> None:
        super().__init__(text)
        self.size = size


def propagate(
    network: Network, chosen: Mapping[str, Split], ranks: int, batch: int, replicas: bool = False
) -> dict[str, Split]:
    """A split for every layer: those ``chosen``, and for the others the one in which their input comes out.

    With ``replicas`` an axis that is shorter than its parts is divided into the most that fit, a divisor of their
    number, and the ranks left over repeat the work; otherwise such a split is refused. `UserError` if a split does not
    fit its layer: an axis that it lacks, more parts than elements, a product that does not divide P.
    """
    splits: dict[str, Split] = {}
    refused: list[TooFineError] = []
    for node in network.nodes:
        shapes = network.sizes(node, batch)
        try:
            if node.name in chosen:
                split = chosen[node.name].over(ranks)
            else:
                known = [splits[source] for source in node.inputs if source in splits]
                split = _inherited(node, known[0] if known else _asked_next(network, node, chosen, ranks), shapes)
            node.layer.check(shapes, split)
            splits[node.name] = split
            splits[node.name] = _limited(node, shapes, split, replicas)
        except TooFineError as error:
            refused.append(TooFineError(f"layer {node.name!r}: {error}", error.size))
        except UserError as error:
            if refused:
                break
            raise UserError(f"layer {node.name!r}: {error}") from error
    if refused:  # the smallest layer says which split the whole network can have
        raise min(refused, key=lambda error: error.size)
    return splits


def _inherited(node: Node, split: Split, shapes: Shapes) -> Split:
    """``split`` as far as the layer can have it; partial sums of its input (over ``ci``) are divided by channels."""
    axes = node.layer.axes(shapes)
    moved = split.renamed("ci", "co")
    return Split(tuple((axis if axis in axes else REPLICAS, parts) for axis, parts in moved.factors))


def _asked_next(network: Network, node: Node, chosen: Mapping[str, Split], ranks: int) -> Split:
    """What the first layer with a split after ``node`` asks of its input; every rank reads its part of that."""
    names = [other.name for other in network.nodes]
    after = (chosen[name] for name in names[names.index(node.name) :] if name in chosen)
    return next(after, Split.of(n=ranks)).over(ranks).renamed("co", REPLICAS)


def _limited(node: Node, shapes: Shapes, split: Split, replicas: bool) -> Split:
    """``split`` with no more parts of an axis than it has elements, or a refusal."""
    sizes, factors = node.layer.extents(shapes), []
    for axis, parts in split.factors:
        if axis == REPLICAS or split.parts(axis) <= sizes[axis]:
            factors.append((axis, parts))
        elif replicas:
            most = max(
                k for k in range(1, parts + 1) if parts % k == 0 and split.parts(axis) // parts * k <= sizes[axis]
            )
            factors += [(axis, most), (REPLICAS, parts // most)]
        elif axis in SPACE_AXES:
            raise TooFineError(_too_fine(split, axis, sizes[axis]), sizes[axis])
        else:
            raise UserError(_too_fine(split, axis, sizes[axis]))
    return Split(tuple(factor for factor in factors if factor[1] != 1))


def _too_fine(split: Split, axis: str, size: int) -> str:
    parts = split.parts(axis)
    what = {"n": "samples in the batch", "co": "out-channels", "ci": "in-channels"}.get(axis, f"places along {axis}")
    remedy = f"--batch {parts} or more (times --accumulate), " if axis == "n" else ""
    return (
        f"split {split} divides {axis} into {parts} parts, but there are {size} {what}: use {remedy}at most "
        f"{size} parts of {axis} (another --grid or --strategy, or --plan), or --replicas (fewer parts, ranks that "
        "repeat work)"
    )
