"""The layers: local mathematics only."""

from __future__ import annotations

from gridnn.layers.activation import GELU, LeakyReLU, ReLU, Tanh
from gridnn.layers.base import Layer, Loss
from gridnn.layers.batchnorm import BatchNorm
from gridnn.layers.conv import Conv1d, Conv2d, Conv3d
from gridnn.layers.dropout import Dropout
from gridnn.layers.flatten import Flatten
from gridnn.layers.groupnorm import GroupNorm
from gridnn.layers.join import Add, Concat
from gridnn.layers.linear import Linear
from gridnn.layers.localnorm import LocalResponseNorm
from gridnn.layers.losses import MeanSquaredError, SoftmaxCrossEntropy
from gridnn.layers.pooling import AvgPool1d, AvgPool2d, AvgPool3d, GlobalAvgPool, MaxPool1d, MaxPool2d, MaxPool3d
from gridnn.layers.resample import AdaptiveAvgPool, Upsample
from gridnn.layers.transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = [
    "GELU",
    "AdaptiveAvgPool",
    "Add",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm",
    "Concat",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "GroupNorm",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "Loss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MeanSquaredError",
    "ReLU",
    "SoftmaxCrossEntropy",
    "Tanh",
    "Upsample",
]
