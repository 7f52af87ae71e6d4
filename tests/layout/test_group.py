"""Groups of ranks as few integers behave as the tuples that they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnn.layout.counts import dimension_of
from gridnn.layout.layout import Layout
from gridnn.layout.split import coordinates_of
from gridnn.layout.stage import Stage


@st.composite
def groups(draw):
    """A group of a mesh, and its ranks by search: those that differ from one rank in some mesh axes only."""
    mesh = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    mesh_axes = tuple(mesh_axis for mesh_axis in range(len(mesh)) if draw(st.booleans()))
    layout = Layout.whole((1,), mesh)
    size = 1
    for radix in mesh:
        size *= radix
    index = draw(st.integers(0, size - 1))
    mine = coordinates_of(index, mesh)
    others = [d for d in range(len(mesh)) if d not in mesh_axes]
    ranks = [rank for rank in range(size) if all(coordinates_of(rank, mesh)[d] == mine[d] for d in others)]
    return Stage("all-reduce", layout, layout, mesh_axes).members(index), ranks, index, size


@given(groups())
def test_a_group_is_its_ranks(case):
    group, ranks, index, _ = case
    assert list(group) == ranks == [group[place] for place in range(len(group))]
    assert index in group
    assert [group.index(rank) for rank in ranks] == list(range(len(ranks)))
    assert group[1:] == tuple(ranks[1:])
    assert (group.first, group.last) == (ranks[0], ranks[-1])
    with pytest.raises(IndexError):
        group[len(ranks)]


@given(groups(), st.data())
def test_the_dimension_of_a_group_is_that_of_its_ranks(case, data):
    group, ranks, _, size = case
    rows = data.draw(st.sampled_from([rows for rows in range(1, size + 1) if size % rows == 0]))
    assert dimension_of(group, rows) == dimension_of(ranks, rows)
