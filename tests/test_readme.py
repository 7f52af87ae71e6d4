"""Figures that the README states are those of the commands beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gridnn.cost.count import predict
from gridnn.layers import SoftmaxCrossEntropy
from gridnn.layout.gridshape import GridShape
from gridnn.models import get_model
from gridnn.planning.rules import make_plan
from gridnn.program.program import Program

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
ROW = re.compile(r"^\| (\d+)x(\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| [^|]+ \|$", re.MULTILINE)


def test_the_worked_example_has_its_three_grids():
    assert [match.groups()[:2] for match in ROW.finditer(README)] == [("1", "4"), ("2", "2"), ("4", "1")]


@pytest.mark.parametrize("row", [match.groups() for match in ROW.finditer(README)], ids=lambda row: "x".join(row[:2]))
def test_words_of_the_worked_example(row):
    rows, cols, *words = row
    network = get_model("mlp", (32, 32, 3), 10, widths=(4096, 4096))
    network.add("loss", SoftmaxCrossEntropy())
    grid = GridShape(int(rows), int(cols))
    program = Program(network, make_plan("grid", network, grid, 128), 128)
    ledgers = [predict(program, index).words_by_dimension() for index in range(4)]
    found = [(sum(ledger.values()), ledger["row"], ledger["column"]) for ledger in ledgers]
    assert tuple(int(text.replace(",", "")) for text in words) in found  # uneven parts differ by a few words
