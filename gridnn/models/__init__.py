"""The networks by name: serial graphs that know nothing of grids."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from gridnn.errors import UserError, unknown
from gridnn.layers.base import Shape
from gridnn.models.alexnet import alexnet, alexnet_cifar, alexnet_onetower
from gridnn.models.cosmoflow import cosmoflow
from gridnn.models.inception import inception_v3
from gridnn.models.lenet import lenet
from gridnn.models.mlp import mlp
from gridnn.models.own import is_own, own_model
from gridnn.models.parts import SamplesError
from gridnn.models.resnet import resnet, resnet_cifar
from gridnn.models.unet import unet3d
from gridnn.models.vgg import vgg, vgg_cifar
from gridnn.network import Network

__all__ = ["MODELS", "WITH_DROPOUT", "Model", "get_model"]


class Model(NamedTuple):
    """A network that has a name."""

    build: Callable[..., Network]  # ``build(input_shape, outputs, **options)`` gives the network without its loss
    # input_shape, outputs: what it was published for
    input_shape: Shape
    outputs: int
    options: tuple[str, ...] = ()  # which of ``widths`` and ``dropout`` it takes


MNIST, CIFAR, IMAGENET, LARGE = (28, 28, 1), (32, 32, 3), (224, 224, 3), (299, 299, 3)
DROPOUT = ("dropout",)
MODELS = {
    "mlp": Model(mlp, MNIST, 10, ("widths",)),
    "lenet": Model(lenet, MNIST, 10),
    "alexnet": Model(alexnet, (227, 227, 3), 1000, DROPOUT),
    "alexnet-onetower": Model(alexnet_onetower, IMAGENET, 1000, DROPOUT),
    "alexnet-cifar": Model(alexnet_cifar, CIFAR, 10, DROPOUT),
    **{f"vgg{layers}": Model(partial(vgg, layers), IMAGENET, 1000, DROPOUT) for layers in (11, 13, 16, 19)},
    **{f"vgg{layers}-cifar": Model(partial(vgg_cifar, layers), CIFAR, 10, DROPOUT) for layers in (11, 16)},
    **{f"resnet{layers}": Model(partial(resnet, layers), IMAGENET, 1000) for layers in (18, 34, 50, 101)},
    "resnet18-cifar": Model(partial(resnet_cifar, 18), CIFAR, 10),
    "inception-v3": Model(inception_v3, LARGE, 1000, DROPOUT),
    "cosmoflow": Model(cosmoflow, (128, 128, 128, 4), 4, DROPOUT),
    "unet3d": Model(unet3d, (128, 128, 112, 3), 3),
}
WITH_DROPOUT = tuple(name for name, model in MODELS.items() if "dropout" in model.options)
LARGEST = 512  # up to which a least size is looked for


def get_model(
    name: str,
    input_shape: Shape,
    outputs: int,
    *,
    widths: tuple[int, ...] = (),
    dropout: float = 0.5,
    asked: Collection[str] = (),
) -> Network:
    """A network without its loss.

    Parameters
    ----------
    name : str
        One of `MODELS`, or ``file.py:function``, a function of the user's (see `own.own_model`).
    input_shape : tuple of int
        Of one sample: ``(features,)``, ``(h, w, c)`` or ``(d, h, w, c)``.
    outputs : int
        The number of classes, of numbers to predict, or of channels of a network that gives back an image or a volume.
    widths : tuple of int
        The hidden layers of ``mlp``.
    dropout : float
        Of the networks in `WITH_DROPOUT`; 0 leaves the dropout layers out.
    asked : collection of str
        Which of ``widths`` and ``dropout`` the user gave: a function of the user's that lacks one of them is refused.

    Raises
    ------
    UserError
        If there is no such network, or the samples do not fit it; with the least size that does.
    """
    options = {"widths": widths, "dropout": dropout}
    if is_own(name):
        return own_model(name, input_shape, outputs, options, asked)
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    model = MODELS[name]
    build = partial(model.build, outputs=outputs, **{option: options[option] for option in model.options})
    try:
        return build(input_shape)
    except SamplesError:
        raise
    except UserError as error:
        raise UserError(f"model {name}: {error}{_least(build, input_shape)}") from error


def _least(build: Callable[[Shape], Network], input_shape: Shape) -> str:
    """The remedy for samples that are too small: the least square or cube that fits; empty if that is no help."""
    *space, channels = input_shape
    for size in range(min(space, default=LARGEST) + 1, LARGEST + 1):
        try:
            build((*[size] * len(space), channels))
        except UserError:
            continue
        return f"; use samples of at least {'x'.join([str(size)] * len(space))}"
    return ""
