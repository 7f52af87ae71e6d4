"""The networks by name: serial graphs that know nothing of grids."""

from __future__ import annotations

from functools import partial

from gridnn.errors import unknown
from gridnn.models.alexnet import alexnet_cifar
from gridnn.models.lenet import lenet
from gridnn.models.mlp import mlp
from gridnn.models.vgg import vgg11_cifar
from gridnn.network import Network

__all__ = ["MODELS", "alexnet_cifar", "get_model", "lenet", "mlp", "vgg11_cifar"]

MODELS = ("mlp", "lenet", "alexnet-cifar", "vgg11-cifar")


def get_model(
    name: str, input_shape: tuple[int, ...], outputs: int, *, widths: tuple[int, ...] = (), dropout: float = 0.5
) -> Network:
    """A network without its loss.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    input_shape : tuple of int
        Of one sample: ``(h, w, c)``, or ``(features,)`` for ``mlp``.
    outputs : int
        The number of classes, or of numbers to predict.
    widths : tuple of int
        The hidden layers of ``mlp``.
    dropout : float
        Of the classifiers of ``alexnet-cifar`` and ``vgg11-cifar``; 0 leaves the dropout layers out.

    Raises
    ------
    ValueError
        If there is no such network, or the samples are too small for it.
    """
    builders = {
        "mlp": partial(mlp, widths=widths),
        "lenet": lenet,
        "alexnet-cifar": partial(alexnet_cifar, dropout=dropout),
        "vgg11-cifar": partial(vgg11_cifar, dropout=dropout),
    }
    if name not in builders:
        raise unknown("model", name, MODELS)
    return builders[name](input_shape, outputs)
