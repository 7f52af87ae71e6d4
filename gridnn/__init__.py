"""Training of neural networks on a Pr x Pc grid of MPI processes, and what the grid costs in communication.

Importing this package imports nothing else, neither NumPy nor MPI: its names are loaded when they are first used.

>>> import gridnn as gn
>>> L = gn.layers
>>> net = gn.Sequential((784,), L.Linear(100), L.ReLU(), L.Linear(10), L.SoftmaxCrossEntropy())
>>> plan = gn.plan(net, batch=64, ranks=4, grid="2x2")
>>> gn.price(net, plan, batch=64).words()["column"] > 0
True

Attributes
----------
__version__ : str
    The version of the distribution that is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridnn import data, layers
    from gridnn.comm.grid import Grid
    from gridnn.comm.redistribute import Transfer
    from gridnn.cost.machine import Machine
    from gridnn.cost.machines import load_machine
    from gridnn.errors import UserError
    from gridnn.face import Sequential, compile, init, plan, price
    from gridnn.layout.layout import Layout
    from gridnn.layout.split import Split
    from gridnn.network import Network
    from gridnn.planning.plan import Plan
    from gridnn.runtime import optimizers as optim
    from gridnn.train.model import Model

# name -> the module that has it
NAMES = {
    "Grid": "comm.grid",
    "Layout": "layout.layout",
    "Machine": "cost.machine",
    "Model": "train.model",
    "Network": "network",
    "Plan": "planning.plan",
    "Sequential": "face",
    "Split": "layout.split",
    "Transfer": "comm.redistribute",
    "UserError": "errors",
    "compile": "face",
    "init": "face",
    "load_machine": "cost.machines",
    "plan": "face",
    "price": "face",
}

MODULES = {"data": "data", "layers": "layers", "optim": "runtime.optimizers"}

__all__ = [
    "Grid",
    "Layout",
    "Machine",
    "Model",
    "Network",
    "Plan",
    "Sequential",
    "Split",
    "Transfer",
    "UserError",
    "compile",
    "data",
    "init",
    "layers",
    "load_machine",
    "optim",
    "plan",
    "price",
]


def __getattr__(name: str) -> Any:
    if name in NAMES:
        return getattr(import_module(f"gridnn.{NAMES[name]}"), name)
    if name in MODULES:
        return import_module(f"gridnn.{MODULES[name]}")
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:
        return "unknown (gridnn is not installed: see pyproject.toml)"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
