"""The package's version and types, the line budget, and the make targets."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from launch import ROOT

import gridnn

PROJECT = (ROOT / "pyproject.toml").read_text()


def budget(folder) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "line_budget.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_version_is_that_of_the_distribution():
    assert gridnn.__version__ == version("gridnn")
    with pytest.raises(AttributeError, match="no attribute 'versoin'"):
        gridnn.versoin  # noqa: B018


def test_the_version_needs_no_numpy():
    code = "import sys, gridnn; print(gridnn.__version__); sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, gridnn.__version__)


def test_types_are_shipped():
    assert (ROOT / "gridnn" / "py.typed").exists()
    assert '"py.typed"' in PROJECT


def test_no_file_is_too_long():
    done = budget(ROOT / "gridnn")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^all +[\d,]+ lines in +\d+ files: .* the budget of 27,000$", done.stdout, re.MULTILINE)


def test_a_file_that_is_too_long_is_named(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "long.py").write_text("x = 1\n" * 401)
    (tmp_path / "short.py").write_text("x = 1\n" * 400)
    done = budget(tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path.name}/part/long.py has 401 lines" in done.stderr
    assert "short.py" not in done.stderr
    assert re.search(r"^part/ +401 lines in +1 files$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("target", ["help", "demo", "test", "torture", "doctest", "lint", "docs", "linkcheck", "clean"])
def test_targets_of_make_are_listed(target):
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert re.search(rf"^  make {target} ", done.stdout, re.MULTILINE)
