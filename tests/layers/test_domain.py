"""Domain parallelism, case by case, against the serial layer: see domain_cases.py and docs/domain.md."""

from __future__ import annotations

import csv
from collections import Counter

import pytest
from backends import on_backend
from domain_cases import COUNTS, TOLERANCE, cases, run, traits
from launch import ROOT

from gridnn.comm.grid import Grid
from gridnn.layout.gridshape import GridShape

TABLE = ROOT / "docs" / "results" / "domain-cases.csv"


@pytest.mark.mpi
@pytest.mark.timeout(300)
def test_every_case_is_equal_to_the_serial_layer(comm):
    shape = GridShape.square(comm.size)
    grid = Grid(comm, shape.rows, shape.cols, **on_backend())
    for number, case in enumerate(cases(comm.size)):
        difference = run(case, comm, grid)
        assert difference <= TOLERANCE, f"case {number}: {case}: {difference}"


def test_the_table_holds_these_cases_and_all_are_equal():
    """Not stale: row by row what the generator gives now, at least 2,000, each with its largest difference."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    made = [case.row for ranks in COUNTS for case in cases(ranks)]
    assert len(rows) == len(made) >= 2000
    for row, case in zip(rows, made, strict=True):
        assert float(row.pop("difference")) <= TOLERANCE
        assert row == case


def test_the_hard_cases_are_among_them():
    count = Counter(trait for ranks in COUNTS for case in cases(ranks) for trait in traits(case))
    for trait in (
        "divided in 2 dimensions (corners)",
        "divided in 3 dimensions (corners)",
        "uneven parts",
        "a part with no output at all",
        "halo wider than the neighbour's part",
        "even kernel",
        "asymmetric padding",
        "stride beyond the kernel",
        "dilation",
        "with n, co or ci divided too",
    ):
        assert count[trait] >= 30, (trait, count)
