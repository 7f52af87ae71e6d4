"""The searches over a graph of costs: against each other, and against trying everything."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnn.planning.search.dominated import undominated
from gridnn.planning.search.eliminate import TooEntangledError, eliminate
from gridnn.planning.search.exhaustive import search
from gridnn.planning.search.graph import CostGraph, InfeasibleError
from gridnn.planning.search.milp import MemoryLimitError, solve

pytest.importorskip("scipy")
QUICK = settings(max_examples=60, deadline=None, derandomize=True)
ROUND = 1e-9


def costs_of(draw, *shape):
    """Whole numbers, so that ties are many, some of them infinite; their sums are exact."""
    elements = st.sampled_from(
        [0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, math.inf] if draw(st.booleans()) else [0.0, 1.0, 4.0]
    )
    return np.array(draw(st.lists(elements, min_size=math.prod(shape), max_size=math.prod(shape)))).reshape(shape)


@st.composite
def graphs(draw):
    """Chains, diamonds, and whatever else a few random edges make, parallel and turned ones among them."""
    count = draw(st.integers(1, 6))
    sizes = [draw(st.integers(1, 4)) for _ in range(count)]
    pairs = [(v, v + 1) for v in range(count - 1)] if draw(st.booleans()) else []
    if count > 1:
        ends = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] != pair[1])
        pairs += draw(st.lists(ends, max_size=7))
    edges = [((u, v), costs_of(draw, sizes[u], sizes[v])) for u, v in pairs]
    return CostGraph([f"node{v}" for v in range(count)], [costs_of(draw, size) for size in sizes], edges)


def every(graph):
    return itertools.product(*map(range, graph.sizes))


def bytes_of(memory, choice):
    return sum(float(m[i]) for m, i in zip(memory, choice, strict=True))


@QUICK
@given(graphs())
def test_all_searches_find_the_least_of_all_choices(graph):
    least = min(map(graph.total, every(graph)))
    for find in (eliminate, search, partial(search, ahead=False), solve):
        if math.isinf(least):
            with pytest.raises(InfeasibleError):
                find(graph)
        else:
            found = find(graph)
            assert found.value == graph.total(found.choice) == least
            assert found.is_optimal and found.bound == least


@QUICK
@given(graphs(), st.data())
def test_milp_keeps_the_memory_limit(graph, data):
    memory = [np.array([float(data.draw(st.integers(0, 9))) for _ in range(size)]) for size in graph.sizes]
    limit = float(data.draw(st.integers(0, 20)))
    fits = [c for c in every(graph) if bytes_of(memory, c) <= limit and graph.total(c) < math.inf]
    if fits:
        found = solve(graph, memory, limit)
        assert bytes_of(memory, found.choice) <= limit
        assert found.value == min(map(graph.total, fits))
    else:
        with pytest.raises(InfeasibleError) as error:
            solve(graph, memory, limit)
        if isinstance(error.value, MemoryLimitError):
            possible = [bytes_of(memory, c) for c in every(graph) if graph.total(c) < math.inf]
            assert error.value.least == min(possible) > limit


@QUICK
@given(graphs())
def test_what_is_dominated_is_not_needed(graph):
    left = undominated(graph)
    assert min(map(graph.total, itertools.product(*left))) == min(map(graph.total, every(graph)))


def inception(configurations, modules, seed=0):
    """Modules of four branches of 1, 2, 3 and 2 layers that meet again, as in Inception-v3."""
    rng = np.random.default_rng(seed)
    edges, count, entry = [], 1, 0
    for _ in range(modules):
        ends = []
        for layers in (1, 2, 3, 2):
            place = entry
            for _ in range(layers):
                edges.append((place, count))
                place, count = count, count + 1
            ends.append(place)
        edges += [(end, count) for end in ends]
        entry, count = count, count + 1
    tables = {edge: rng.random((configurations, configurations)) for edge in edges}
    return CostGraph([str(v) for v in range(count)], rng.random((count, configurations)), tables)


def test_modules_are_eliminated_and_certified():
    graph = inception(12, 3)
    found, proved = eliminate(graph), solve(graph)
    assert found.left == 0
    assert proved.is_optimal
    assert found.value == pytest.approx(proved.value, rel=ROUND)


def test_a_hundred_nodes_of_95_configurations_take_no_second():
    found = eliminate(inception(95, 11))
    assert found.seconds < 1.0  # 0.08 s on the machine it was written on
    assert found.bound == found.value


def test_a_clique_leaves_wide_tables_or_is_refused():
    rng = np.random.default_rng(1)
    edges = {(u, v): rng.random((5, 5)) for u in range(5) for v in range(u)}
    graph = CostGraph(list("abcde"), rng.random((5, 5)), edges)
    found = eliminate(graph)
    assert found.left == 2  # degrees 4 and 3; what is left then is a triangle
    assert found.value == pytest.approx(min(map(graph.total, every(graph))), rel=ROUND)
    with pytest.raises(
        TooEntangledError, match=r"'a' would leave a table over 4 neighbours of 5000 bytes, more than 999"
    ):
        eliminate(graph, memory=999)


def test_tiny_costs_are_told_apart():
    """Seconds of a step are far below the tolerances of a solver."""
    graph = CostGraph(["a", "b"], [np.array([3e-9, 1e-9]), np.array([1e-9, 1.000001e-9])], {(0, 1): np.zeros((2, 2))})
    for find in (eliminate, search, solve):
        assert find(graph).choice == (1, 0)


def test_depth_first_search_stops_in_time():
    graph = inception(12, 8)
    found = search(graph, seconds=0.2)
    assert not found.is_optimal
    assert found.bound <= eliminate(graph).value <= found.value
    assert found.seconds < 5


def test_too_little_memory_says_how_much_would_do():
    graph = CostGraph(["conv1", "fc1"], [np.ones(2), np.ones(2)], {})
    memory = [np.array([10.0, 20.0]), np.array([50.0, 40.0])]
    text = r"least memory of any choice is 50 bytes > 49 bytes allowed; most of it \(40\) is for 'fc1'"
    with pytest.raises(MemoryLimitError, match=text):
        solve(graph, memory, 49)
    assert solve(graph, memory, 50).choice == (0, 1)


@pytest.mark.parametrize(
    ("names", "costs", "edges", "text"),
    [
        (["a"], [], {}, "1 names and 0 arrays"),
        (["a"], [np.zeros((2, 2))], {}, r"node 'a': costs of shape \(2, 2\)"),
        (["a"], [np.array([np.nan])], {}, "node 'a': a cost is NaN"),
        (["a"], [np.zeros(1)], {(0, 0): np.zeros((1, 1))}, r"edge \(0, 0\): give two different numbers"),
        (["a", "b"], [np.zeros(1), np.zeros(2)], {(0, 1): np.zeros((2, 1))}, r"'a' to 'b': a table of shape \(2, 1\)"),
    ],
)
def test_wrong_graphs_are_refused(names, costs, edges, text):
    with pytest.raises(ValueError, match=text):
        CostGraph(names, costs, edges)


def test_parallel_and_turned_edges_are_added():
    table = np.arange(6.0).reshape(2, 3)
    graph = CostGraph(["a", "b"], [np.zeros(2), np.zeros(3)], [((0, 1), table), ((1, 0), table.T), ((0, 1), table)])
    assert list(graph.edges) == [(0, 1)]
    assert (graph.edges[0, 1] == 3 * table).all()
    with pytest.raises(ValueError, match="a choice of 1 configurations for 2 nodes"):
        graph.total((0,))
