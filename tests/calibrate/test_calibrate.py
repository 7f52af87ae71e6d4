"""Calibration: fits that find what points were made from, levels of a job, and the command on 1, 2 and 4 ranks."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import gridnn

from gridnn.calibrate.calibrate import Place, compute_of, doubted, fitted, levels_of
from gridnn.calibrate.fit import BREAKS, Point, fit_ranges, fit_rates, residuals
from gridnn.calibrate.links import measure_links
from gridnn.calibrate.rates import Timed, computing, stream_rate
from gridnn.comm.grid import Grid
from gridnn.cost.machine import MOVEMENTS, Compute, Level, Machine, Range
from gridnn.cost.machines import load_machine
from gridnn.errors import UserError
from gridnn.kernels import get_backend
from gridnn.layout.counts import rounds
from gridnn.layout.gridshape import GridShape

SIZES = [4**power for power in range(1, 14)]


def points_of(level: Level, noise: float, kind: str = "all-reduce", groups=((2, 1.0), (4, 2.0))) -> list[Point]:
    """What would be measured of a level by groups of 2 and 4 ranks, with a relative error of up to ``noise``."""
    rng, found = random.Random(7), []
    for messages, load in groups:
        for size in SIZES:
            seconds = level.seconds(kind, size, messages, load) * (1 + rng.uniform(-noise, noise))
            found.append(Point(kind, "row", level.name, load, float(size), float(messages), seconds))
    return found


# -- the fit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [(2e-6, 1 / 25e9), (5e-5, 1e-9), (1e-6, 1e-10)])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_fit_finds_alpha_and_beta(alpha, beta, noise):
    (found,) = fit_ranges(points_of(Level("node", None, alpha, beta), noise))
    near = 1e-6 + noise
    assert found.start == 0 and found.alpha == pytest.approx(alpha, rel=near)
    assert found.beta == pytest.approx(beta, rel=near)


def test_the_fit_finds_ranges():
    """An eager and a rendezvous protocol: at 16 KiB a jump, then a higher bandwidth."""
    made = Level("node", None, 0, 0, movements={"all-reduce": (Range(0, 1e-6, 1e-9), Range(16384, 3e-5, 1e-10))})
    low, high = fit_ranges(points_of(made, 0.03))
    assert (low.alpha, low.beta) == pytest.approx((1e-6, 1e-9), rel=0.1)
    assert (high.alpha, high.beta) == pytest.approx((3e-5, 1e-10), rel=0.1)
    assert 4096 < high.start <= 16384


def test_one_slow_point_does_not_count():
    points = points_of(Level("node", None, 1e-5, 1e-9), 0.02)
    points[5] = points[5]._replace(seconds=300 * points[5].seconds)
    (found,) = fit_ranges(points)
    assert (found.alpha, found.beta) == pytest.approx((1e-5, 1e-9), rel=0.05)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(1e-7, 1.0), min_size=9, max_size=9), st.integers(1, 6))
def test_every_fit_is_sound_and_never_falls(seconds, messages):
    points = [Point("all-reduce", "row", "n", 1.0, 4.0 ** (i + 2), messages, s) for i, s in enumerate(seconds)]
    ranges = fit_ranges(points)
    level = Level("n", None, 0, 0, movements={"all-reduce": ranges})
    assert all(one.alpha >= 0 and one.beta >= 0 for one in ranges) and ranges[0].start == 0
    sizes = sorted({*(messages * edge for edge in BREAKS), *(messages * edge - 1 for edge in BREAKS), 0, 10**9})
    taken = [level.seconds("all-reduce", size, messages) for size in sizes]
    assert all(high >= low * (1 - 1e-9) for low, high in pairwise(taken))


def test_residuals_by_hand():
    level = Level("node", None, 1e-6, 0.0)
    points = [Point("all-to-all", "row", "node", 1.0, 4.0, 1.0, s) for s in (1e-6, 2e-6, 0.8e-6)]
    (found,) = residuals(points, [level])
    assert found[:4] == ("all-to-all", "row", "node", 3)
    assert (found.median, found.largest) == pytest.approx((0.25, 0.5))


def test_levels_are_fitted_each_by_its_points():
    node, network = Level("node", 4, 1e-6, 1e-10), Level("network", None, 2e-5, 1e-9)
    points = points_of(node, 0.0) + points_of(network, 0.0) + points_of(network, 0.0, "neighbours")
    inner, outer = fitted([Level("node", 4, 0, 0), Level("network", None, 0, 0, 4)], points)
    assert (inner.alpha, inner.beta) == pytest.approx((1e-6, 1e-10)) and set(inner.movements) == {"all-reduce"}
    assert (outer.alpha, outer.beta, outer.shared) == pytest.approx((2e-5, 1e-9, 4))
    assert set(outer.movements) == {"all-reduce", "neighbours"}


def test_poor_and_short_fits_are_estimates():
    level = Level("node", None, 1e-5, 1e-9)
    machine = Machine("here", (level,), Compute({}, 1.0))
    good = points_of(level, 0.05)
    assert doubted(machine, good, residuals(good, (level,)), 1e9) == (machine, [])
    short = [point for point in good if point.size <= 4096]
    found, (reason,) = doubted(machine, short, residuals(short, (level,)), 1e9)
    assert found.estimates == ("levels.node",) and "up to 4,096 bytes only" in reason
    assert doubted(machine, short, residuals(short, (level,)), 16384) == (machine, [])
    poor = [point._replace(seconds=3 * point.seconds) for point in good]
    found, (reason,) = doubted(machine, poor, residuals(poor, (level,)), 1e9)
    assert found.estimates == ("levels.node",) and "off its fit" in reason


def test_rates_never_make_more_work_faster():
    found = fit_rates([(1e6, 1e-3), (1e6, 2e-3), (1e6, 5e-3), (4e6, 1e-3), (1.6e7, 2e-3)])
    assert found[1:] == ((4e6, 4e9), (1.6e7, 8e9))
    assert found[0][0] == 1e6 and found[0][1] == pytest.approx(4e9 / (1 + math.log(4)))  # 5e8 was measured: slower
    seconds = [flops / rate for flops, rate in found]
    assert seconds == sorted(seconds)


def test_calls_bound_by_their_bytes_say_nothing_of_flops():
    streams = [Timed("memory", "", 0.0, 1e6, s) for s in (1e-3, 1e-3, 1e-2)]
    streams.append(Timed("memory", "in a cache", 0.0, 1e4, 1e-7))
    work = [Timed("gemm", "bytes", 1e6, 1e6, 1.1e-3), Timed("gemm", "flops", 1e8, 1e6, 1e-2)]
    assert stream_rate(streams) == 1e9
    assert computing(streams + work, "gemm", 1e9, 1e-3) == [(1e8, pytest.approx(9e-3))]
    made = compute_of([*streams, *work, Timed("conv", "", 1e7, 1e5, 1e-3)], 0.0)
    assert made.rates["gemm"] == ((1e8, 1e10),) and made.memory == 1e9


# -- the levels of a job ----------------------------------------------------------------------------------------


def places(*nodes: int) -> list[Place]:
    return [Place(f"n{i}", local, count) for i, count in enumerate(nodes) for local in range(count)]


def test_the_levels_of_a_job():
    assert [(one.name, one.ranks, one.shared) for one in levels_of(places(4))] == [("node", None, 1)]
    assert [(one.name, one.ranks, one.shared) for one in levels_of(places(1, 1))] == [("network", None, 1)]
    two = levels_of(places(8, 8), links=4)
    assert [(one.name, one.ranks, one.shared) for one in two] == [("node", 8, 1), ("network", None, 2)]


def test_jobs_whose_levels_are_unclear_are_refused():
    with pytest.raises(UserError, match="2 to 4 ranks: start as many"):
        levels_of(places(4, 2))
    mixed = [Place("a", 0, 2), Place("b", 0, 2), Place("a", 1, 2), Place("b", 1, 2)]
    with pytest.raises(UserError, match=r"rank 1 is rank 0 of node b, not 1.*--distribution=block"):
        levels_of(mixed)
    with pytest.raises(UserError, match="--links 3: the 4 ranks"):
        levels_of(places(4, 4), links=3)


# -- the movements ----------------------------------------------------------------------------------------------


@pytest.mark.mpi
@pytest.mark.parametrize("order", ["column", "row"])
def test_points_are_what_the_closed_forms_say(comm, order):
    """Ranks in pairs that are called nodes: which level joins what, loads, words and messages."""
    ranks = comm.Get_size()
    shape = GridShape.square(ranks, order)
    grid = Grid(comm, shape.rows, shape.cols, order=order, backend=get_backend("numpy"))
    local = 2 if ranks % 2 == 0 and ranks > 2 else 1
    levels = (Level("node", 2, 0, 0), Level("network", None, 0, 0, 2))[2 - local :]
    machine = Machine("m", levels, Compute({}, 1.0))
    points = measure_links(grid, machine, local, 1e-3, 64.0, lambda line: None)
    assert {point.kind for point in points} == (set(MOVEMENTS) if ranks > 1 else set())
    assert {p.level for p in points} <= {level.name for level in levels} and all(p.seconds > 0 for p in points)
    sums = {p.dimension: p for p in points if p.kind == "all-reduce" and p.size == max(
        q.size for q in points if (q.kind, q.dimension) == (p.kind, p.dimension))}  # fmt: skip
    for dimension, group in (("column", shape.rows), ("row", shape.cols), ("world", ranks), ("node", local)):
        if dimension in sums:
            assert sums[dimension].messages == 2 * rounds(group)
            assert sums[dimension].size == 4 * 2 * (16 - 16 // group)  # 64 bytes, by the rank with the smallest part
    if ranks == 4:
        inner, outer = ("column", "row") if order == "column" else ("row", "column")
        found = {name: (point.level, point.load) for name, point in sums.items()}
        assert found == {inner: ("node", 1), outer: ("network", 2), "world": ("network", 1), "node": ("node", 1)}
    grid.free()


# -- the command ------------------------------------------------------------------------------------------------


def calibrated(tmp_path, ranks: int, *options: str):
    file = tmp_path / "here.json"
    options = ("-o", str(file), "--seconds", "0.5", "--memory", "1MB", "--kernels", "reference", *options)
    done = gridnn(ranks, "calibrate", *options, timeout=100)
    assert done.returncode == 0, done.stderr + done.stdout
    return done, load_machine(file)


@pytest.mark.parametrize("ranks", [2, 4])
def test_calibration(tmp_path, ranks):
    picture = tmp_path / "fit.png"
    grid = "2x1" if ranks == 2 else "2x2"
    done, machine = calibrated(tmp_path, ranks, "--grid", grid, "--plot", str(picture))
    (level,) = machine.levels
    assert machine.name == "here" and (level.name, level.ranks) == ("node", None)
    assert tuple(level.movements) == MOVEMENTS and set(machine.estimates) <= {"levels.node"} and machine.memory == 1e6
    assert level.alpha + level.beta > 0 and machine.compute.overhead > 0 and 0 <= machine.overlap <= 1
    points = [dict(zip(machine.provenance["points"]["columns"], row, strict=True))
              for row in machine.provenance["points"]["rows"]]  # fmt: skip
    assert {point["dimension"] for point in points} == ({"world"} if ranks == 2 else {"column", "row", "world"})
    # 4 B to 64 KB were asked for (1 MB of memory); a sum of 64 B over all ranks moves 2 (1 - 1/P) 64 B
    sums = [point for point in points if (point["kind"], point["dimension"]) == ("all-reduce", "world")]
    assert sums[2]["size"] == 2 * 64 * (ranks - 1) // ranks and sums[2]["messages"] == ranks
    assert max(point["size"] for point in points) <= 2 * 2**16
    facts = machine.provenance
    assert (facts["ranks"], facts["nodes"], facts["grid"]) == (ranks, 1, grid) and facts["mpi"] and facts["date"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "written; calibrated in" in done.stdout and "median error" in done.stdout


def test_one_rank_has_no_links(tmp_path):
    done, machine = calibrated(tmp_path, 1)
    assert machine.levels == load_machine("generic-cpu").levels
    assert machine.estimates == ("levels.node",) and "estimates: levels.node" in done.stdout
    assert json.loads((tmp_path / "here.json").read_text())["provenance"]["ranks"] == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--grid", "3x2"), "grid 3x2 needs 6 ranks"),
        (("--seconds", "0"), "--seconds 0.0: must be larger than 0"),
        (("-o", "/nowhere/machine.json"), "--output /nowhere/machine.json cannot be written"),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(tmp_path, options, text):
    done = gridnn(1, "calibrate", "-o", str(tmp_path / "m.json"), *options, timeout=60)
    assert done.returncode == 2 and text in done.stderr
    assert "at once" not in done.stdout
