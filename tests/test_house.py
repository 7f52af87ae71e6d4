"""The house: lower floors know nothing of higher ones, MPI stays in comm/, NumPy with the host, no module state."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "gridnn"
FILES = sorted(ROOT.rglob("*.py"))

# Every file belongs to the first floor that its path starts with; a floor may import those listed before it.
FLOORS = (
    "errors",
    "units",
    "records",
    "layout/",
    "kernels/",
    "comm/",
    "layers/",
    "network",
    "planning/",
    "program/",
    "cost/",
    "planning/search/",
    "calibrate/",
    "plots/",
    "runtime/",
    "models/",
    "data/",
    "train/",
    "reproduce/",
    "face",
    "cli/",
    "__main__",
)
MPI = (
    "comm/transports/",
    *(f"comm/{file}.py" for file in ("files", "job", "ranks", "survivors")),
    "cli/check.py",
)
HOST_DATA = (
    "kernels/",
    "data/",
    "train/session.py",
    "train/runner.py",
    "train/model.py",
    "train/reader.py",
    "cli/check.py",
    "comm/threads.py",
    "comm/transports/",
    "planning/search/",
    "reproduce/",
    "calibrate/",
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it, written as paths for those of gridnn."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if (ROOT.parent / Path(*node.module.split("."))).is_dir():
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def floor(path: str) -> int:
    matches = [i for i, start in enumerate(FLOORS) if path.startswith(start)]
    return max(matches, key=lambda i: len(FLOORS[i])) if matches else len(FLOORS)


def within_house(module: str) -> str | None:
    """The path of a module of gridnn, or None for others."""
    parts = module.split(".")
    if parts[0] != "gridnn" or len(parts) == 1:
        return None
    path = ROOT.joinpath(*parts[1:])
    if path.is_dir():
        return "/".join(parts[1:]) + "/"
    return "/".join(parts[1:]) if path.with_suffix(".py").exists() else None


@pytest.mark.parametrize("path", FILES, ids=name)
def test_lower_floors_know_nothing_of_higher_ones(path):
    own = floor(name(path))
    for module in imports(path):
        other = within_house(module)
        assert other is None or floor(other) <= own, f"{name(path)} imports {module}"


def test_the_house_is_small_enough_to_be_known():
    """Rooms, the longest way down from room to room, and the files."""
    rooms = {name(path).split("/")[0].removesuffix(".py") for path in FILES} - {"__init__", "__main__"}
    assert len(rooms) <= 20, sorted(rooms)
    below: dict[int, set[int]] = {}
    for path in FILES:
        others = {floor(other) for other in map(within_house, imports(path)) if other}
        below.setdefault(floor(name(path)), set()).update(others)

    def levels(number: int) -> int:
        return 1 + max((levels(other) for other in below.get(number, ()) if other < number), default=0)

    assert max(map(levels, below)) <= 12
    long = {name(path): lines for path in FILES if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.parametrize(
    "path", [path for path in FILES if name(path).startswith("kernels/") and path.parent.name != "kernels"], ids=name
)
def test_implementations_know_the_reference_alone(path):
    """Those of CPUs and those of GPUs are not built on each other, and the reference on neither."""
    others = {"reference", "cpu", "cuda"} - {"reference", path.parent.name}
    assert not [m for m in imports(path) if m.startswith(tuple(f"gridnn.kernels.{other}" for other in others))]


def test_every_file_has_a_floor():
    assert [name(path) for path in FILES if floor(name(path)) == len(FLOORS) and path.name != "__init__.py"] == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_mpi_is_in_comm_only(path):
    assert name(path).startswith(MPI) or not any(module.split(".")[0] == "mpi4py" for module in imports(path))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_numpy_is_for_the_host(path):
    """Layers, transfers, parameters and optimizers are written against the backend."""
    assert name(path).startswith(HOST_DATA) or "numpy" not in imports(path)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_module_state(path):
    tree = ast.parse(path.read_text())
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.value, "id", "") not in functions:  # a second name is no state
            names = [part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            # constants, type aliases, and the table of commands of the command line
            assert all(n.isupper() or n[0].isupper() or n in ("__all__", "app") for n in names), names


def test_the_command_line_starts_without_numpy():
    """Help, and mistakes in the options, need none of what a run needs."""
    code = "import sys; import gridnn.cli.main; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
