"""The options of the commands that run a network, each named once; types and defaults are those of `RunConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from gridnn.train.config import CHOICES, CHOOSING, RunConfig, flag


def _option(name: str, panel: str, text: str, metavar: str | None = None) -> Any:
    known = f": {', '.join(CHOICES[name])}" if name in CHOICES else ""
    return typer.Option(flag(name), help=text + known, metavar=metavar, rich_help_panel=panel)


def _group(panel: str, **options: tuple[str, ...]) -> dict[str, Any]:
    return {name: _option(name, panel, *words) for name, words in options.items()}


NETWORK = {
    **_group(
        "Network and data",
        model=("one that gridnn models lists, or a function in a file: networks.py:tiny", "NAME|FILE:FUNCTION"),
        widths=("hidden widths of mlp", "N,N,..."),
        dropout=("probability, for models that have it", "P"),
        loss=("what is minimised", "NAME"),
        dataset=("digits, cifar10, mnist, synthetic, volumes; .npz, .h5, a folder of .npy or of images", "NAME|PATH"),
        data_dir=("where the files of cifar10 and mnist are", "PATH"),
        names=("what the arrays of samples and targets are called in a file (x is x_train and x_test, or x)", "X,Y"),
        shape=("shape of a sample that is made up; default: 32x32x3 (synthetic), 64x64x64x1 (volumes)", "(DxH)xWxC"),
        classes=("number of classes, synthetic or of a path; default: 10, or those of the labels", "N"),
        samples=("number of samples that are made up", "N"),
        targets=("numbers to find out from a sample of volumes", "K"),
        resize=("shorter side of images; default of a folder: 256", "PIXELS"),
        crop=("side of the square cut out of the images of a folder, at random to train; default: 224", "PIXELS"),
        flip=("mirror the images of a folder at random",),
        batch=("samples per update, over all ranks", "B"),
        accumulate=("forward and backward passes per update", "N"),
    ),
    **_group(
        "Grid",
        grid=("rows x columns of ranks: 4x2, 4x-1 (the other factor follows); auto: the cheapest", "PRxPC"),
        order=("which groups have neighbouring ranks", "NAME"),
        strategy=("how the layers are divided; default: optimal, and grid with a --grid", "NAME"),
        machine=("the machine that plans are compared on", "NAME|FILE"),
        memory=("bytes that a rank may use at the most", "16GB"),
        domain=("parts of the dimensions of space, the first one first: 2x2 (images: h x w), 2x2x1 (volumes)", "PxPxP"),
        axes=("how many axes of a layer optimal may divide: at most two, or all of them", "NAME"),
        group=("ranks that share the fully connected layers of splitbrain; default: the rows of the grid", "K"),
        plan=("a split per layer, instead of a strategy", "FILE"),
        copies=("divide layers that are too small for the grid into fewer parts, with copies, instead of refusing",),
        gather_backward=("the backward of gathered activations", "NAME"),
        halo=("halos over several dimensions: to all neighbours at once, or one dimension after the other", "NAME"),
        recompute=("keep few activations, and compute the others a second time for the backward pass",),
    ),
    **_group(
        "Machine",
        dtype=("of activations and products; with 16 bits, weights are kept and summed in float32", "NAME"),
        seed=("of weights, order and dropout", "N"),
        backend=("what computes: the CPU, or one NVIDIA GPU a rank", "NAME"),
        kernels=("local mathematics of numpy; auto is the fastest that is installed", "NAME"),
        conv=("convolutions on a GPU; auto is cudnn where it is installed", "NAME"),
        threads=("BLAS threads per rank; default: its share of the node's cores", "N"),
    ),
    "tf32": typer.Option(
        "--tf32/--no-tf32", help="products of float32 on a GPU: of factors rounded to TF32", rich_help_panel="Machine"
    ),
    "graphs": typer.Option(
        "--graphs/--no-graphs",
        help="a GPU's work between two messages as one CUDA graph: less for the host to do",
        rich_help_panel="Machine",
    ),
}
TRANSPORT = _group("Machine", transport=("how arrays of GPUs move between ranks", "NAME"))
WEIGHTS = _group("Network and data", weights=("start from torchvision's weights", "FILE.safetensors"))
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
    **_group(
        "Checkpoints",
        checkpoint=("where checkpoints go; SIGTERM and SIGUSR1 then save and end the run", "DIR"),
        resume=("go on from the newest checkpoint in DIR; without one, begin",),
        keep=("how many checkpoints remain; default: 3", "K"),
        save_every=("updates between two checkpoints; default: one an epoch", "N"),
    ),
}


# Of the commands that plan: what a plan is priced on belongs to all of them, whatever is compared.
DEFAULT_MACHINE = RunConfig().machine
SHARED = {name: option for name, option in NETWORK.items() if name not in CHOOSING}
# What a plan keeps of the options that it was made with: those of the network and of how it is run.
DIVIDING = (*CHOOSING, "grid", "strategy", "domain", "group", "plan", "copies")
KEPT = tuple(name for name in NETWORK if name not in DIVIDING)

MachineName = Annotated[str, typer.Option("--machine", metavar="NAME|FILE", help="what the plan is priced on")]
Memory = Annotated[str | None, typer.Option("--memory", metavar="16GB", help="bytes that a rank may use at the most")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="write the prices as JSON")]
PredictOn = Annotated[
    str | None, typer.Option("--predict-on", metavar="NAME|FILE", help="machine of the predicted seconds")
]
Pictures = Annotated[str | None, typer.Option("--pictures", metavar="DIR", help="draw them as PNG in this directory")]
PlanFile = Annotated[str, typer.Argument(metavar="PLAN", help="what gridnn plan -o wrote")]
Batch = Annotated[int | None, typer.Option("--batch", metavar="B", min=1, help="default: that of the plan")]
OtherMachine = Annotated[
    str | None, typer.Option("--machine", metavar="NAME|FILE", help="default: the one that the plan was made for")
]


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
