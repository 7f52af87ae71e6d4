"""First weights from a state dict of torchvision in a safetensors file: every rank reads its own boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gridnn.errors import UserError
from gridnn.layout.layout import Box, box_size
from gridnn.models.torchvision import Source, sources, unused
from gridnn.network import Network
from gridnn.program.program import Program
from gridnn.records import open_regular

Array = Any
DTYPES = ("F16", "F32", "F64")
BLOCK = 2**21  # elements of a flattened image's weights that are read at once
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before all names
SHOWN = 5  # tensors that a refusal names


def check_weights(path: str, model: str, network: Network) -> None:
    """Compare the names, shapes and types in a file with those of ``network``; nothing else is read.

    Parameters
    ----------
    path : str
        A safetensors file with the names and shapes of torchvision.
    model : str
        The name of ``network``, one of `gridnn.models.torchvision.TORCHVISION`.

    Raises
    ------
    UserError
        If the file cannot be read, or holds other tensors than the network needs, naming them.
    """
    with _opened(path) as file:
        names = list(file.keys())
        if prefix := _wrapper(names):
            raise UserError(
                f"--weights {path}: all of its names begin with {prefix!r}, as those of a wrapped model do: write "
                f"model.{prefix}state_dict() into it instead"
            )
        faults = _faults(sources(model, network), {name: file.get_slice(name) for name in names})
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(
            f"--weights {path} does not fit --model {model}: {'; '.join(faults[:SHOWN])}{more} "
            "(the classes, and the channels of the images, must be those of the file)"
        )


def fill(parameters: Any, program: Program, model: str, path: str) -> None:
    """Read this rank's boxes of all trained and kept tensors of a network; no rank holds a divided tensor whole.

    Parameters
    ----------
    parameters : gridnn.runtime.parameters.Parameters
        What is overwritten: the values, and the running statistics.
    program : Program
        The one that ``parameters`` was made from.
    model, path : str
        As in `check_weights`, which has found nothing wrong.
    """
    wanted = sources(model, program.network)
    with _opened(path) as file:
        for key, box, out in _destinations(parameters, program):
            if box_size(box):
                source = wanted[key]
                for part, piece in pieces(file.get_slice(source.name), source, box):
                    parameters.backend.from_host(piece, out[part])


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The open file; a file that cannot be read is the user's mistake."""
    if Path(path).is_dir():
        raise UserError(f"--weights {path} is a directory: name the .safetensors file in it")
    try:
        open_regular(path).close()
        with safe_open(path, framework="numpy") as file:
            yield file
    except OSError as error:
        raise UserError(f"--weights {path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(
            f"--weights {path} is no complete safetensors file ({error}): write one with "
            "safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error


def pieces(tensor: Any, source: Source, box: Box) -> Iterator[tuple[tuple[slice, ...], Array]]:
    """The part ``box`` of a tensor of ours from its slice in the file: where a piece belongs in it, and the piece.

    There is one piece, but blocks of outputs where an image was flattened. Of these weights a rank reads all inputs of
    its outputs, since those of one part of the image are scattered over the file, and keeps what it needs.
    """
    if source.image is None:
        slices = [slice(None)] * len(box)
        for ours, theirs in enumerate(source.order):
            slices[theirs] = slice(*box[ours])
        yield (slice(None),) * len(box), tensor[tuple(slices)].transpose(source.order)
        return
    (first, last), (start, stop) = box
    height, width, channels = source.image
    count = max(1, BLOCK // (height * width * channels))
    for begin in range(start, stop, count):
        end = min(begin + count, stop)
        block = tensor[begin:end, :].reshape(end - begin, channels, height * width).transpose(2, 1, 0)
        yield (slice(None), slice(begin - start, end - start)), block.reshape(-1, end - begin)[first:last]


def _destinations(parameters: Any, program: Program) -> Iterator[tuple[str, Box, Array]]:
    """Every tensor of this rank: its name, its box, and the array to be filled."""
    for entry in parameters.entries:
        yield entry.key, entry.box, parameters.value(entry)
    for step in program.layers:
        for name, (_, layout) in step.states.items():
            yield f"{step.name}.{name}", layout.box(parameters.grid.index), parameters.states[step.name][name]


def _wrapper(names: Sequence[str]) -> str:
    """What wrappers have put before all names; empty if there is nothing of the kind."""
    for prefix in WRAPPERS:
        if names and all(name.startswith(prefix) for name in names):
            return prefix + _wrapper([name.removeprefix(prefix) for name in names])
    return ""


def _faults(wanted: Mapping[str, Source], held: Mapping[str, Any]) -> list[str]:
    """What is wrong with a file: tensors that it lacks, others, other shapes or types."""
    names = {source.name for source in wanted.values()}
    missing = [f"{name} is missing" for name in sorted(names - set(held))]
    extra = [f"{name} belongs to no layer" for name in sorted(set(held) - names) if not unused(name)]
    wrong = []
    for source in wanted.values():
        tensor = held.get(source.name)
        if tensor is None:
            continue
        if tuple(tensor.get_shape()) != source.shape:
            wrong.append(f"{source.name} has the shape {tuple(tensor.get_shape())}, not {source.shape}")
        elif tensor.get_dtype() not in DTYPES:
            wrong.append(f"{source.name} is of type {tensor.get_dtype()}, not {', '.join(DTYPES)}")
    return [*missing, *wrong, *extra]
