"""3-D U-Net (Cicek, Abdulkadir, Lienkamp, Brox and Ronneberger 2016, arXiv 1606.06650)."""

from __future__ import annotations

from gridnn.layers import BatchNorm, Concat, Conv3d, ConvTranspose3d, MaxPool3d, ReLU
from gridnn.models.parts import SamplesError, volume_network
from gridnn.network import Network

WIDTH = 32  # of the first convolution
LEVELS = 4  # resolutions, each half of the one above


def unet3d(input_shape: tuple[int, ...], outputs: int) -> Network:
    """A number for every voxel and output channel: [d, h, w, c] -> [d, h, w, outputs].

    The channels are those of figure 2 of the paper: two 3^3 convolutions a level, 32-64, 64-128, 128-256 and 256-512
    downwards, then 256, 128 and 64 twice each behind 2^3 transposed convolutions and the skips. With 3 channels in and
    out the paper counts 19,069,955 parameters: the weights and one bias a convolution. Here the shift of the batch norm
    is that bias; the norm's 2,336 scales come on top. Convolutions are padded, so that every size is kept, where the
    paper crops. `SamplesError` if a side is no multiple of 8: the skips would not fit.
    """
    net = volume_network("unet3d", input_shape)
    _check_sides(input_shape)
    skips = []
    for level in range(1, LEVELS + 1):
        width = WIDTH << (level - 1)
        _add_pair(net, f"down{level}", width, 2 * width)
        if level < LEVELS:
            skips.append(net.output)
            net.add(f"pool{level}", MaxPool3d(2))
    for level in range(LEVELS - 1, 0, -1):
        channels = net.shapes[net.output][-1]
        net.add(f"up{level}.transposed", ConvTranspose3d(channels, 2, stride=2, bias=False))
        net.add(f"up{level}.concat", Concat(), skips.pop(), net.output)
        _add_pair(net, f"up{level}", channels // 2, channels // 2)
    net.add("conv", Conv3d(outputs, 1))
    return net


def _add_pair(net: Network, name: str, *widths: int) -> None:
    for number, width in enumerate(widths, 1):
        net.add(f"{name}.conv{number}", Conv3d(width, 3, padding=1, bias=False))
        net.add(f"{name}.bn{number}", BatchNorm())
        net.add(f"{name}.relu{number}", ReLU())


def _check_sides(input_shape: tuple[int, ...]) -> None:
    unit = 2 ** (LEVELS - 1)
    for axis, size in zip("dhw", input_shape, strict=False):
        if size % unit:
            low = size // unit * unit
            nearest = f"{low} or {low + unit}" if low else str(unit)
            raise SamplesError(
                f"model unet3d halves every side {LEVELS - 1} times, but {axis} = {size} = {size // unit} x {unit} + "
                f"{size % unit}: use volumes with multiples of {unit} ({axis} of {nearest})"
            )
