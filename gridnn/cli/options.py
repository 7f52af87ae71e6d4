"""The options of the commands that run a network, each named once; types and defaults are those of `RunConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from gridnn.train.config import CHOICES, RunConfig, flag


def _option(name: str, panel: str, text: str, metavar: str | None = None) -> Any:
    known = f": {', '.join(CHOICES[name])}" if name in CHOICES else ""
    return typer.Option(flag(name), help=text + known, metavar=metavar, rich_help_panel=panel)


def _group(panel: str, **options: tuple[str, ...]) -> dict[str, Any]:
    return {name: _option(name, panel, *words) for name, words in options.items()}


NETWORK = {
    **_group(
        "Network and data",
        model=("mlp, lenet, alexnet-cifar, vgg11-cifar", "NAME"),
        widths=("hidden widths of mlp", "N,N,..."),
        dropout=("probability, for models that have it", "P"),
        loss=("what is minimised", "NAME"),
        dataset=("digits, cifar10, mnist, synthetic, or a path (.npz, or a directory of .npy)", "NAME|PATH"),
        data_dir=("where the files of cifar10 and mnist are", "PATH"),
        shape=("shape of a synthetic sample", "HxWxC"),
        classes=("number of classes, synthetic or of a path; default: 10, or those of the labels", "N"),
        samples=("number of synthetic samples", "N"),
        batch=("samples per update, over all ranks", "B"),
        accumulate=("forward and backward passes per update", "N"),
    ),
    **_group(
        "Grid",
        grid=("rows x columns of ranks: 4x2, 4x-1 (the other factor follows), auto", "PRxPC"),
        order=("which groups have neighbouring ranks", "NAME"),
        strategy=("how the layers are divided", "NAME"),
        domain=("parts of height x width of the domain", "HxW"),
        plan=("a split per layer, instead of a strategy", "FILE"),
        copies=("divide layers that are too small for the grid into fewer parts, with copies, instead of refusing",),
        gather_backward=("the backward of gathered activations", "NAME"),
    ),
    **_group(
        "Machine",
        dtype=("of weights and activations", "NAME"),
        seed=("of weights, order and dropout", "N"),
        backend=("array library: numpy", "NAME"),
        threads=("BLAS threads per rank; default: its share of the node's cores", "N"),
    ),
}
STEPS = _group("Training", steps=("stop after so many updates", "N"))
TRAINING = {
    **_group("Training", epochs=("passes over the training data", "N")),
    **STEPS,
    **_group(
        "Training",
        optimizer=("update rule", "NAME"),
        lr=("learning rate; default: 0.01 (sgd), 0.001 (adamw)", "X"),
        momentum=("of sgd", "X"),
        nesterov=("Nesterov's momentum for sgd",),
        weight_decay=("added to the gradient (sgd), or decoupled (adamw)", "X"),
        schedule=("of the learning rate", "NAME"),
        warmup=("epochs in which the learning rate rises linearly", "N"),
        step_every=("epochs between two steps of the step schedule", "N"),
        gamma=("factor of the step schedule", "X"),
        clip=("largest global norm of the gradient", "X"),
        drop_last=("leave the last short batch of an epoch out",),
    ),
}


def configured(options: Mapping[str, Any], **defaults: Any) -> Callable:
    """Turns ``command(config, ...)`` into a command whose ``config`` is made from ``options``.

    The parameters of ``command`` after the first are options of its own.

    Parameters
    ----------
    options : mapping
        Fields of `RunConfig` and their typer options.
    defaults
        Where this command's default is not that of `RunConfig`.
    """
    types = get_type_hints(RunConfig)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(field.name, field.default),
            annotation=Annotated[types[field.name], options[field.name]],
        )
        for field in fields(RunConfig)
        if field.name in options
    ]

    def decorate(command: Callable) -> Callable:
        def configure(**values: Any) -> Any:
            config = RunConfig(**{name: values.pop(name) for name in options})
            return command(config, **values)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        configure.__signature__ = inspect.Signature([*shared, *own])
        configure.__name__, configure.__doc__ = command.__name__, command.__doc__
        return configure

    return decorate
