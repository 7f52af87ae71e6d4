"""A network, or a loss, from a user's file: ``file.py:function``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from gridnn.errors import UserError, unknown
from gridnn.layers.base import Loss, Shape
from gridnn.network import INPUT, Network

Result = TypeVar("Result")
SUFFIX = ".py"


def is_own(name: str) -> bool:
    """Whether the name of a model, or of a loss, is that of something in a file."""
    return ":" in name or name.endswith(SUFFIX)


def own_model(
    name: str, input_shape: Shape, outputs: int, options: Mapping[str, Any], asked: Collection[str] = ()
) -> Network:
    """Call ``function(input_shape, outputs)`` of ``file.py``, which gives a network without its loss.

    ``name`` is ``path/of/file.py:function``; modules beside the file can be imported by it. The ``options``, ``widths``
    and ``dropout``, are handed over as keywords as far as the function names them; it must take those ``asked`` for.
    `UserError` if there is no such file or function, if it raises (with the line of the file), or gives anything else.
    """
    option, (build, file) = f"--model {name}", _found("model", name, "FUNCTION", "tiny")
    known = inspect.signature(build)
    for one in asked:
        if one not in known.parameters:
            raise UserError(f"--{one} has no effect with {option}: {build.__name__}{known} takes no {one}")
    taken = {key: value for key, value in options.items() if key in known.parameters}
    network = _within(option, file, lambda: build(tuple(input_shape), outputs, **taken))
    _check(name, network, input_shape, outputs)
    return network


def own_loss(name: str) -> Loss:
    """The loss that the class, or function, ``path/of/file.py:name`` makes without arguments; else a `UserError`."""
    option, (make, file) = f"--loss {name}", _found("loss", name, "CLASS", "MyLoss")
    loss = _within(option, file, make)
    if not isinstance(loss, Loss):
        raise UserError(f"{option} gives a {type(loss).__name__} back, not a gridnn.layers.Loss")
    return loss


def _found(option: str, name: str, kind: str, example: str) -> tuple[Callable[..., Any], Path]:
    """What ``--option FILE:name`` names, and its file."""
    path, _, function = name.rpartition(":")
    form = f"FILE{SUFFIX}:{kind}"
    if not path or not function.isidentifier():
        raise UserError(f"--{option} {name}: write {form}, such as networks{SUFFIX}:{example}")
    file = Path(path)
    if file.suffix != SUFFIX or not file.is_file():
        what = "there is no such file" if file.suffix == SUFFIX else f"{path} does not end in {SUFFIX}"
        raise UserError(f"--{option} {name}: {what}; write {form}")
    module = _within(f"--{option} {name}", file, lambda: _load(file))
    found = getattr(module, function, None)
    if not callable(found):
        own = (value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__)
        known = [value.__name__ for value in own if callable(value) and value.__name__[0] != "_"]
        hint = unknown("function", function, known) if known else f"{module.__file__} defines no functions"
        raise UserError(f"--{option} {name}: {hint}")
    return found, file


def _load(file: Path) -> ModuleType:
    """The module in ``file``, by a name that hides no other module."""
    name = f"gridnn_own_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _within(option: str, file: Path, work: Callable[[], Result]) -> Result:
    """What ``work`` gives, run with the folder of ``file`` importable; what it raises is told as the user's mistake."""
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        return work()
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "  # a layer of ours says it all
        raise UserError(f"{option}: {_place(file, error)}{kind}{error}") from error
    finally:
        sys.path.remove(folder)


def _place(file: Path, error: BaseException) -> str:
    """The line of ``file`` that an exception went through, empty if it went through none."""
    if isinstance(error, SyntaxError) and error.filename:
        return ""  # its own text names file and line
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file.resolve()]
    return f"{file}, line {lines[-1]}: " if lines else ""


def _check(name: str, network: Any, input_shape: Shape, outputs: int) -> None:
    if not isinstance(network, Network):
        raise UserError(f"--model {name} gives a {type(network).__name__} back, not a gridnn.network.Network")
    if not network.nodes:
        raise UserError(f"--model {name} gives a network without layers back")
    if list(network.inputs) != [INPUT]:
        raise UserError(
            f"--model {name} gives a network of the inputs {', '.join(network.inputs)} back, but a data set has one: "
            "train it from Python, with gridnn.compile and arrays by name"
        )
    if network.shapes[INPUT] != tuple(input_shape):
        raise UserError(
            f"--model {name} gives a network for samples of shape {network.shapes[INPUT]} back, but those of the "
            f"data are {tuple(input_shape)}: make it with Network(input_shape)"
        )
    if isinstance(network.nodes[-1].layer, Loss):
        raise UserError(f"--model {name} ends in the loss {network.output!r}: leave it out, --loss adds it")
    shape = network.shapes[network.output]
    if shape[-1] != outputs:
        raise UserError(
            f"--model {name} gives an output of shape {shape} a sample, but {outputs} outputs are needed: "
            "end in as many features or channels as the argument outputs says"
        )
