"""CosmoFlow (Mathuriya et al. 2018, arXiv 1808.04728): cosmological parameters from a volume of dark matter."""

from __future__ import annotations

from gridnn.layers import Conv3d, Dropout, Flatten, LeakyReLU, Linear, MaxPool3d
from gridnn.models.parts import volume_network
from gridnn.network import Network

STAGES = 5
WIDTH = 32  # of the first stage; every following one has twice as many
SLOPE = 0.3  # of the leaky ReLUs: the default of Keras, in which the benchmark is written


def cosmoflow(input_shape: tuple[int, ...], outputs: int, dropout: float = 0.5) -> Network:
    """The network of the MLPerf HPC benchmark (v1.0): 8,907,556 parameters for 128^3 x 4 and four outputs.

    Stages of a 3^3 convolution, a leaky ReLU and a 2^3 max-pool, then 128, 64 and the outputs. There are five stages,
    fewer where the smallest side is below 32: as many as can halve it. The outputs are linear; the benchmark's
    1.2 tanh(x) is left out.
    """
    net = volume_network("cosmoflow", input_shape)
    stages = min(STAGES, max(1, min(input_shape[:3]).bit_length() - 1))
    for number in range(1, stages + 1):
        net.add(f"conv{number}", Conv3d(WIDTH << (number - 1), 3, padding=1))
        net.add(f"relu{number}", LeakyReLU(SLOPE))
        net.add(f"pool{number}", MaxPool3d(2))
    net.add("flatten", Flatten())
    for number, width in enumerate((128, 64), 1):
        net.add(f"fc{number}", Linear(width))
        net.add(f"fc_relu{number}", LeakyReLU(SLOPE))
        if dropout:
            net.add(f"drop{number}", Dropout(dropout))
    net.add("fc3", Linear(outputs))
    return net
