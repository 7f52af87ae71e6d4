"""Interval arithmetic against brute force."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gridnn.layout.layout import Dim, Layout, box_size
from gridnn.layout.partition import Clipped, Even, Scaled, Window, Windowed, window_ghosts
from gridnn.layout.sampling import Resampled, Transposed, resampled_from
from gridnn.layout.transfer import plan_transfer

sizes = st.integers(0, 40)
parts = st.integers(1, 12)
windows = st.builds(
    Window, st.integers(1, 11), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.integers(0, 5)
)


rules = st.sampled_from(["nearest", "linear", "area"])


def transposed_outputs(window, size):
    """What a transposed convolution makes of ``size`` elements."""
    return (size - 1) * window.stride + window.reach - window.before - window.after


def elements(interval):
    return set(range(*interval))


def taps(window, output, size):
    """The input elements under one window, padding left out, by definition."""
    first = output * window.stride - window.before
    return {first + window.dilation * k for k in range(window.kernel)} & set(range(size))


@st.composite
def partitions(draw):
    """A partition of any kind."""
    base = Even(draw(sizes), draw(parts))
    kind = draw(st.sampled_from(["even", "scaled", "clipped", "windowed", "transposed", "resampled"]))
    if kind == "scaled":
        return Scaled.of(base, draw(st.integers(1, 5)))
    if kind == "clipped":
        offset = draw(st.integers(0, base.size))
        return Clipped.of(base, offset, draw(st.integers(0, base.size - offset)))
    if kind == "windowed":
        window, size = draw(windows), draw(sizes)
        return Windowed.of(Even(max(0, window.outputs(size)), base.parts), window, size)
    if kind == "transposed":
        window, size = draw(windows), draw(st.integers(1, 40))
        return Transposed.of(Even(max(0, transposed_outputs(window, size)), base.parts), window, size)
    if kind == "resampled":
        return Resampled.of(Even(max(1, base.size), base.parts), draw(rules), draw(st.integers(1, 40)))
    return base


@given(sizes, parts)
def test_even_parts_cover_once_and_differ_by_one(size, count):
    partition = Even(size, count)
    held = [element for part in range(count) for element in range(*partition.interval(part))]
    assert held == list(range(size))
    extents = [partition.extent(part) for part in range(count)]
    assert max(extents) - min(extents) <= 1


@given(sizes, st.integers(1, 6), st.integers(1, 6))
def test_even_parts_nest(size, coarse, factor):
    fine, whole = Even(size, coarse * factor), Even(size, coarse)
    assert fine.coarsen(factor) == whole
    for part in range(coarse):
        start, stop = fine.interval(part * factor)[0], fine.interval(part * factor + factor - 1)[1]
        assert (start, stop) == whole.interval(part)


@given(partitions(), st.integers(0, 45), st.integers(0, 45))
def test_touching_finds_every_part_that_shares_an_element(partition, a, b):
    interval = (min(a, b), max(a, b))
    found = partition.touching(interval)
    for part in range(partition.parts):
        if elements(partition.interval(part)) & elements(interval):
            assert part in found


@given(partitions())
def test_intervals_lie_inside_and_bounds_ascend(partition):
    bounds = [partition.bounds(part) for part in range(partition.parts)]
    assert bounds == sorted(bounds) and [b[1] for b in bounds] == sorted(b[1] for b in bounds)
    for part in range(partition.parts):
        start, stop = partition.interval(part)
        assert 0 <= start <= stop <= partition.size


@given(partitions(), st.integers(1, 12))
def test_a_coarser_partition_joins_consecutive_parts(partition, factor):
    coarse = partition.coarsen(factor)
    if coarse is None:
        return
    assert coarse.parts * factor == partition.parts
    for part in range(coarse.parts):
        fine = set().union(*(elements(partition.interval(part * factor + i)) for i in range(factor)))
        assert fine == elements(coarse.interval(part))


@given(windows, st.integers(1, 30), parts)
def test_transposed_parts_hold_all_that_gives_to_them_and_little_more(window, size, count):
    outputs = transposed_outputs(window, size)
    assume(outputs > 0)
    base = Even(outputs, count)
    partition = Transposed.of(base, window, size)
    for part in range(count):
        wanted = elements(base.interval(part))
        givers = {
            i
            for i in range(size)
            if wanted & {i * window.stride - window.before + window.dilation * k for k in range(window.kernel)}
        }
        held = elements(partition.interval(part))
        assert givers <= held
        if count > 1 and givers and window.dilation == 1:
            assert held == givers
        if count > 1 and not wanted:
            assert not held


@given(rules, st.integers(1, 30), st.integers(1, 30), parts)
def test_resampled_parts_hold_what_their_outputs_are_made_of(rule, size, outputs, count):
    base = Even(outputs, count)
    partition = Resampled.of(base, rule, size)
    for part in range(count):
        spans = [resampled_from(rule, output, size, outputs) for output in range(*base.interval(part))]
        wanted = set().union(*(range(first, last + 1) for first, last in spans))
        held = elements(partition.interval(part))
        assert all(0 <= first <= last < size for first, last in spans)
        assert wanted <= held
        if held and wanted and count > 1:
            assert (min(held), max(held)) == (min(wanted), max(wanted))


@pytest.mark.parametrize("count", [2, 3])
def test_parts_that_nest_do_not_look_like_a_movement(count):
    even, double, whole = Even(6, count), Even(12, count), Even(24, count)
    assert Windowed.of(even, Window(2, 2), 12) == double
    assert Windowed.of(even, Window(1), 6) == even
    assert Transposed.of(double, Window(2, 2), 6) == even and Transposed.of(even, Window(1), 6) == even
    assert Resampled.of(whole, "nearest", 6) == even and Resampled.of(even, "area", 24) == whole
    assert Resampled.of(even, "linear", 6) == even
    five = Even(5, count)
    uneven = Windowed.of(five, Window(2, 2), 10)
    assert all(uneven.interval(i) == (2 * five.interval(i)[0], 2 * five.interval(i)[1]) for i in range(count))


@st.composite
def divided_windows(draw):
    """A window, the even partition of its outputs, and what the parts need of the input."""
    window, size = draw(windows), draw(sizes)
    assume(window.outputs(size) > 0)
    base = Even(window.outputs(size), draw(parts))
    return window, base, Windowed.of(base, window, size)


@given(divided_windows())
def test_windowed_parts_hold_all_taps_and_no_more_than_their_span(case):
    window, base, partition = case
    count, size = base.parts, partition.size
    for part in range(count):
        needed = set().union(*(taps(window, output, size) for output in range(*base.interval(part))))
        held = elements(partition.interval(part))
        assert needed <= held
        if count > 1 and needed:
            assert (min(held), max(held)) == (min(needed), max(needed)) or window.dilation > 1 or window.kernel == 1


@given(divided_windows())
def test_a_framed_part_is_as_long_as_its_windows_reach(case):
    window, base, partition = case
    count = base.parts
    for part in range(count):
        mine, held = base.interval(part), partition.interval(part)
        before, after = window_ghosts(window, mine, held)
        length = before + held[1] - held[0] + after
        if mine[0] == mine[1]:
            assert count > 1 and length == 0
            continue
        assert length >= (mine[1] - mine[0] - 1) * window.stride + window.reach
        assert held[0] - before == mine[0] * window.stride - window.before or held[0] == held[1]
        if count > 1:
            assert length == (mine[1] - mine[0] - 1) * window.stride + window.reach


def test_half_the_kernel_is_not_the_halo():
    """AlexNet's first layer: 11x11, stride 4, no padding, 227 rows. Padding by k // 2 would be wrong on every rank."""
    window = Window(11, 4)
    partition = Windowed.of(Even(window.outputs(227), 4), window, 227)
    assert [partition.interval(part) for part in range(4)] == [(0, 59), (52, 115), (108, 171), (164, 227)]


@pytest.mark.parametrize("factor", [1, 3])
def test_an_undivided_partition_is_always_the_same_one(factor):
    assert Scaled.of(Even(4, 1), factor) == Even(4 * factor, 1)
    assert Clipped.of(Even(9, 1), 2, 5) == Even(5, 1)
    assert Windowed.of(Even(4, 1), Window(3), 6) == Even(6, 1)


def test_axes_of_different_meshes_are_not_the_same():
    """2x2x3 to 3x2x2 on 12 ranks: what is sent is what is received, and every rank gets all of its box."""
    source = Layout((2, 2, 3), (Dim(Even(7, 2), (1,)), Dim(Even(5, 3), (2,))))
    target = Layout((3, 2, 2), (Dim(Even(7, 2), (1,)), Dim(Even(5, 3), (0,))))
    (stage,) = plan_transfer(source, target, rows=4).stages
    sent = sorted((rank, piece.peer, piece.box) for rank in range(12) for piece in stage.sends(rank))
    received = sorted((piece.peer, rank, piece.box) for rank in range(12) for piece in stage.receives(rank))
    assert sent == received
    for rank in range(12):
        assert sum(box_size(piece.box) for piece in stage.receives(rank)) == box_size(target.box(rank))
