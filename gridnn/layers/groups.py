"""What convolutions with groups of channels share: how these are divided, what is refused, and which kernel runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gridnn.errors import UserError
from gridnn.layers.base import Context, Shapes
from gridnn.layout.partition import Even, Interval, Partition
from gridnn.layout.split import Split

Channels = tuple[slice, slice]  # local channels of the input and of the output


@dataclass(frozen=True)
class Grouped(Partition):
    """The input channels of all groups that a part of the output channels, ``base``, touches: parts may overlap."""

    base: Partition
    groups: int

    @classmethod
    def of(cls, base: Partition, groups: int, size: int) -> Partition:
        """The partition of ``size`` input channels; an even one where every part has whole groups."""
        if base.size == groups == size:
            return base
        if isinstance(base, Even) and groups % base.parts == 0:
            return Even(size, base.parts)
        return cls(size, base.parts, base, groups)

    def interval(self, part: int) -> Interval:
        start, stop = self.base.interval(part)
        outputs, inputs = self.base.size // self.groups, self.size // self.groups
        return start // outputs * inputs, -(-stop // outputs) * inputs

    def coarsen(self, factor: int) -> Partition | None:
        coarse = self.base.coarsen(factor)
        return None if coarse is None else Grouped.of(coarse, self.groups, self.size)


def is_depthwise(layer, shapes: Shapes) -> bool:
    """Whether every channel has one filter for itself."""
    return layer.groups > 1 and layer.groups == layer.channels == shapes.inputs[0][-1]


def kernel_of(layer, context: Context, suffix: str) -> Callable[..., None]:
    """The local kernel of a (transposed) convolution: "", "_grad_input" or "_grad_weight"."""
    return getattr(context.kernels, ("depthwise" if is_depthwise(layer, context.shapes) else "conv") + suffix)


def check_groups(layer, side: str, channels: int) -> None:
    """Refuse channels that do not fall into the layer's groups.

    Raises
    ------
    UserError
        With the equation that fails.
    """
    kind, groups = type(layer).__name__, layer.groups
    if channels < 1 or groups < 1:
        raise UserError(f"{kind}: channels={channels}, groups={groups}; at least one of each is needed")
    if channels % groups:
        equation = f"{channels} {side} channels / {groups} groups = {channels / groups:g}"
        raise UserError(f"{kind}: {equation}; give groups that divide the channels")


def refuse_divided_groups(layer, shapes: Shapes, split: Split) -> None:
    """Refuse to divide the input channels of a layer with groups.

    Raises
    ------
    UserError
        With what to divide instead.
    """
    if layer.groups > 1 and split.parts("ci") > 1:
        raise UserError(
            f"split ci={split.parts('ci')}: a {type(layer).__name__} with groups={layer.groups} sums over the "
            f"{shapes.inputs[0][-1] // layer.groups} input channels of a group only: divide co instead"
        )
