"""The layers: local mathematics only."""

from __future__ import annotations

from gridnn.layers.activation import GELU, ReLU, Tanh
from gridnn.layers.batchnorm import BatchNorm
from gridnn.layers.conv import Conv2d
from gridnn.layers.dropout import Dropout
from gridnn.layers.flatten import Flatten
from gridnn.layers.join import Add, Concat
from gridnn.layers.linear import Linear
from gridnn.layers.losses import MeanSquaredError, SoftmaxCrossEntropy
from gridnn.layers.pooling import AvgPool2d, GlobalAvgPool, MaxPool2d

__all__ = [
    "GELU",
    "Add",
    "AvgPool2d",
    "BatchNorm",
    "Concat",
    "Conv2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "Linear",
    "MaxPool2d",
    "MeanSquaredError",
    "ReLU",
    "SoftmaxCrossEntropy",
    "Tanh",
]
