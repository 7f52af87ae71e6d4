"""``gridnn models``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from gridnn.cli.console import console, refusing, table
from gridnn.errors import UserError
from gridnn.layers.base import Shape
from gridnn.models import MODELS, get_model
from gridnn.models.own import is_own
from gridnn.models.summary import Summary, summarize, summarize_layers
from gridnn.network import Network
from gridnn.records import OutputFile
from gridnn.train.sections import ModelOptions

BYTES = 4  # of a float32
NUMBERS = ("parameters", "weights", "GFLOP", "activations", "MB")

Name = Annotated[str | None, typer.Argument(metavar="[NAME|FILE:FUNCTION]", help="one network, layer by layer")]
Input = Annotated[str | None, typer.Option("--input", metavar="HxWxC", help="shape of a sample, with NAME")]
Outputs = Annotated[int | None, typer.Option("--outputs", metavar="N", min=1, help="classes or numbers, with NAME")]
Batch = Annotated[int, typer.Option("--batch", metavar="B", min=1, help="flops and activations of so many samples")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="write the table as JSON")]


def models(name: Name = None, shape: Input = None, outputs: Outputs = None, batch: Batch = 1, path: Json = None):
    """List the networks, or the layers of one: parameters, flops of a forward pass, sizes of activations; no MPI."""
    with refusing():
        rows = _layers(name, shape, outputs, batch) if name else _all(shape, outputs, batch)
        if path:
            OutputFile("--json", path).write_json([asdict(row) for row in rows])
        show(rows, console(), _title(name, batch), "layer" if name else "network")


def show(rows: Sequence[Summary], out: Console, title: str, first: str) -> None:
    """Print one line a row."""
    kind = "kind" if first == "layer" else "layers"
    made = table(title, (first, kind, "output" if first == "layer" else "input"), NUMBERS)
    for row in rows:
        if first == "layer" and row.kind == "Network":
            made.add_section()
        made.add_row(row.name, *cells(row))
    out.print(made)


def cells(row: Summary) -> tuple[str, ...]:
    """What stands in a row behind its name: number of layers or kind, shape, and the `NUMBERS`."""
    kind = f"{row.layers}" if row.kind == "Network" else row.kind
    flops, megabytes = _rounded(row.flops / 1e9), _rounded(row.activations * BYTES / 1e6)
    counts = (f"{row.parameters:,}", f"{row.weights:,}", flops, f"{row.activations:,}", megabytes)
    return (kind, "x".join(map(str, row.shape)), *counts)


def _rounded(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 or not value else f"{value:.3g}"


def _title(name: str | None, batch: int) -> str:
    of = f"a batch of {batch}" if batch > 1 else "one sample"
    return f"{name or 'networks'}: forward pass and activations (float32) of {of}; weights without biases and norms"


def _all(shape: str | None, outputs: int | None, batch: int) -> list[Summary]:
    for option, value in (("--input", shape), ("--outputs", outputs)):
        if value is not None:
            raise UserError(f"{option} {value} is for one network: gridnn models NAME {option} {value}")
    return [summarize(name, _network(name, model.input_shape, model.outputs), batch) for name, model in MODELS.items()]


def _layers(name: str, shape: str | None, outputs: int | None, batch: int) -> list[Summary]:
    known = MODELS.get(name)
    if shape is None and is_own(name):
        raise UserError(f"gridnn models {name} needs the shape of a sample: --input 32x32x3")
    sample = known.input_shape if known and shape is None else _shape(shape or "1")
    network = _network(name, sample, outputs or (known.outputs if known else 10))
    return [*summarize_layers(network, batch), summarize(name, network, batch)]


def _network(name: str, shape: Shape, outputs: int) -> Network:
    options = ModelOptions()
    return get_model(name, shape, outputs, widths=options.hidden, dropout=options.dropout)


def _shape(text: str) -> Shape:
    sizes = text.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UserError(f"--input {text!r}: write whole numbers above 0 as 224x224x3, 64x64x64x1 or 784")
    return tuple(map(int, sizes))
