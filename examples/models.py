"""Networks of one's own: ``gridnn train --model examples/models.py:branches``.

A function takes the shape of a sample and the number of outputs, and gives back a network without its loss. A keyword
``dropout`` or ``widths`` makes the option of that name its own.
"""

from __future__ import annotations

from gridnn.layers import Add, BatchNorm, Concat, Conv2d, Dropout, GlobalAvgPool, Linear, MaxPool2d, ReLU
from gridnn.network import Network


def branches(input_shape, outputs, dropout=0.0):
    """Images: one residual block, two branches side by side, and the mean over the image."""
    net = Network(input_shape)
    net.add("conv1", Conv2d(8, 3, padding=1, bias=False))
    net.add("norm1", BatchNorm())
    net.add("relu1", ReLU())
    net.add("conv2", Conv2d(8, 3, padding=1))
    net.add("add", Add(), "conv2", "relu1")  # the names of the layers that feed it; by default the one before
    net.add("pool", MaxPool2d(2))
    net.add("left", Conv2d(12, 3, padding=1), "pool")
    net.add("right", Conv2d(4, 1), "pool")
    net.add("concat", Concat(), "left", "right")
    net.add("relu2", ReLU())
    net.add("mean", GlobalAvgPool())
    if dropout:
        net.add("drop", Dropout(dropout))
    net.add("fc", Linear(outputs))
    return net


def linear(input_shape, outputs):
    """Samples of features: one fully connected layer, which is linear or logistic regression."""
    net = Network(input_shape)
    net.add("fc", Linear(outputs))
    return net
