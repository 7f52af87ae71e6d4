"""Transfers on real ranks: right, transposed exactly, and counted to the word."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from backends import make_backend, on_backend
from layouts import following_target, random_source, random_target
from moving import Moving

from gridnn.comm.communicator import Communicator
from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Ledger, Where
from gridnn.errors import UserError
from gridnn.layout.layout import Dim, Layout, box_shape, within
from gridnn.layout.partition import Even, Window, Windowed
from gridnn.layout.split import Split
from gridnn.layout.transfer import plan_transfer
from gridnn.runtime.memory import Memory

KINDS = {"local", "all-gather", "reduce-scatter", "all-reduce", "all-to-all", "neighbours"}


def make_grid(comm, rows: int = 1) -> Grid:
    return Grid(comm, rows, comm.size // rows, **on_backend())


def factors(ranks: int) -> list[int]:
    return [rows for rows in range(1, ranks + 1) if ranks % rows == 0]


def pairs(ranks: int, count: int, seed: int) -> list[tuple[Layout, Layout]]:
    rng = random.Random(seed * 1000 + ranks)
    found = []
    for i in range(count):
        source = random_source(rng, ranks)
        found.append((source, following_target(rng, source) if i % 2 else random_target(rng, ranks)))
    return found


def integers(comm, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([seed, comm.rank]).integers(-9, 10, shape).astype(float)


def whole(comm, layout: Layout, index: int, x: np.ndarray) -> np.ndarray:
    """The tensor that the parts of all ranks stand for: partial sums summed, replicas taken once."""
    total = np.zeros(layout.shape)
    for other, part in comm.allgather((index, x)):
        if layout.part(other, layout.replicas) == 0:
            total[within(layout.box(other), tuple((0, s) for s in layout.shape))] += part
    return total


def global_dot(comm, a: np.ndarray, b: np.ndarray) -> float:
    return comm.allreduce(float(np.sum(a * b)))


@pytest.mark.mpi
@pytest.mark.parametrize("full_sum", [False, True])
def test_random_transfers(comm, full_sum):
    """Forward against the whole tensor, the adjoint identity exactly, the ledger against the plan; all kinds seen."""
    grids = [make_grid(comm, rows) for rows in factors(comm.size)]
    seen, memory = Counter(), Memory(grids[0].backend)
    for case, (source, target) in enumerate(pairs(comm.size, 240, 7)):
        grid = grids[case % len(grids)]
        transfer = plan_transfer(source, target, grid.shape.rows, full_sum)
        seen.update(stage.kind for stage in transfer.stages)
        moving = Moving(transfer, grid, memory)
        x = integers(comm, case, box_shape(source.box(grid.index)))
        if not source.partial:  # replicas of one tensor
            tensor = np.random.default_rng(case).integers(-9, 10, source.shape).astype(float)
            x = tensor[within(source.box(grid.index), tuple((0, s) for s in source.shape))].copy()
        elif source.replicas:
            x[...] = np.random.default_rng([case, *_own(source, grid.index)]).integers(-9, 10, x.shape)
        expected = whole(comm, source, grid.index, x)[
            within(target.box(grid.index), tuple((0, s) for s in target.shape))
        ]
        grid.ledger.clear()
        out = moving.forward(x)
        np.testing.assert_array_equal(out, expected, err_msg=f"{case}: {source} -> {target}")
        assert grid.ledger.integers() == predicted(transfer, grid, backward=False), f"{case}: {transfer.stages}"
    if comm.size in (4, 6):
        assert set(seen) == KINDS, seen


def _own(layout: Layout, index: int) -> tuple[int, int]:
    """The numbers of a rank's part, the same for its replicas."""
    used = tuple(d for d in range(len(layout.mesh)) if d not in layout.replicas)
    return layout.part(index, used), 0


def predicted(transfer, grid, *, backward: bool):
    ledger, phase = Ledger(), "backward" if backward else "forward"
    for count in transfer.counts(grid.index, grid.shape.rows, backward):
        ledger.add(Where("layer", phase), count)
    return ledger.integers()


@pytest.mark.mpi
@pytest.mark.parametrize("full_sum", [False, True])
def test_adjoint_identity_is_exact(comm, full_sum):
    """<Tx, y> = <x, T*y> on integers, for arbitrary parts on every rank (replicas need not agree)."""
    grids = [make_grid(comm, rows) for rows in factors(comm.size)]
    memory = Memory(grids[0].backend)
    for case, (source, target) in enumerate(pairs(comm.size, 240, 11)):
        grid = grids[case % len(grids)]
        transfer = plan_transfer(source, target, grid.shape.rows, full_sum)
        moving = Moving(transfer, grid, memory)
        x = integers(comm, case, box_shape(source.box(grid.index)))
        y = integers(comm, case + 10_000, box_shape(target.box(grid.index)))
        out = moving.forward(x)
        grid.ledger.clear()
        back = moving.adjoint(y)
        assert back.shape == x.shape
        assert grid.ledger.integers() == predicted(transfer, grid, backward=True), f"{case}: {transfer.stages}"
        assert global_dot(comm, out, y) == global_dot(comm, x, back), f"{case}: {source} -> {target}"


@pytest.mark.mpi
def test_transfers_are_run_again_with_the_same_buffers(comm):
    grid = make_grid(comm)
    split = Split.of(n=comm.size)
    source = Layout(split.mesh, (Dim(Even(7, comm.size), split.mesh_axes("n")), Dim(Even(3, 1))))
    memory = Memory(grid.backend)
    moving = Moving(plan_transfer(source, Layout.whole((7, 3), split.mesh), 1), grid, memory)
    for step in range(3):
        tensor = np.arange(21.0).reshape(7, 3) + step
        out = moving.forward(tensor[within(source.box(grid.index), ((0, 7), (0, 3)))])
        np.testing.assert_array_equal(out, tensor)
        if step == 1:  # another one needs more of the memory that they share
            memory.reserve(10 * memory.size)


@pytest.mark.mpi
def test_long_arrays_are_sent_in_pieces_or_refused_by_name(comm):
    """The limit of one call, lowered: sums and messages go in pieces, the others are refused with the layer's name."""
    backend = make_backend()
    limited = Communicator(comm.Dup(), range(comm.size), 1, backend, Ledger(), limit=5)
    array = backend.asarray(np.arange(23.0))
    limited.all_reduce(array, Where("fc", "update"))
    np.testing.assert_array_equal(backend.to_host(array), comm.size * np.arange(23.0))
    flat = backend.asarray(np.ones(17))
    limited.start_all_reduce(flat, [(Where("fc", "update"), 17)]).wait()
    np.testing.assert_array_equal(backend.to_host(flat), np.full(17, comm.size))
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    received, mine = backend.empty((12,), "float64"), backend.full((12,), float(comm.rank), "float64")
    limited.start_exchange([(right, mine)], [(left, received)], Where("conv", "forward")).wait()
    np.testing.assert_array_equal(backend.to_host(received), left)
    with pytest.raises(UserError, match=r"layer 'fc', forward: the all-gather of 8 elements"):
        sizes = [8 if r == 0 else 0 for r in range(comm.size)]
        parts = backend.empty((sizes[comm.rank],), "float64"), backend.empty((8,), "float64")
        limited.start_all_gather(*parts, sizes, Where("fc", "forward"), at_once=True).wait()


@pytest.mark.mpi
def test_halo_words_are_those_of_the_paper(comm):
    """Gholami et al. eq (7): B X_W X_C floor(kh/2) words to each neighbour."""
    if comm.size < 2:
        pytest.skip("one rank has no neighbour")
    grid = make_grid(comm, comm.size)
    batch, height, width, channels, kernel = 3, 24, 5, 4, 5
    split = Split.of(h=comm.size)
    even = Even(height, comm.size)
    window = Window(kernel, 1, 1, 2, 2)

    def layout(partition):
        cuts = (Even(batch, 1), partition, Even(width, 1), Even(channels, 1))
        return Layout(split.mesh, tuple(Dim(c, split.mesh_axes("h") if c is partition else ()) for c in cuts))

    transfer = plan_transfer(layout(even), layout(Windowed.of(even, window, height)), grid.shape.rows)
    counts = transfer.counts(grid.index, grid.shape.rows)
    neighbours = (comm.rank > 0) + (comm.rank < comm.size - 1)
    assert [count.words for count in counts] == [batch * width * channels * (kernel // 2)] * neighbours
    assert {count.dimension for count in counts} == {"column"}


def halo(parts: dict[str, int], shape: tuple[int, ...], windows: dict[str, Window]) -> tuple[Layout, Layout]:
    """A tensor [n, *space, c] divided over ``parts``, and what the windows need of it."""
    split, axes = Split.of(**parts), ("n", *windows, "co")

    def layout(cuts):
        return Layout(split.mesh, tuple(Dim(c, split.mesh_axes(a)) for a, c in zip(axes, cuts, strict=True)))

    even = [Even(size, split.parts(axis)) for axis, size in zip(axes, shape, strict=True)]
    needed = [
        Windowed.of(Even(windows[axis].outputs(size), cut.parts), windows[axis], size) if axis in windows else cut
        for axis, size, cut in zip(axes, shape, even, strict=True)
    ]
    return layout(even), layout(needed)


HALOS = {  # ranks: divisions over space, with corners where there are several
    1: [{"h": 1}],
    2: [{"w": 2}],
    3: [{"h": 3}],
    5: [{"d": 5}],
    4: [{"h": 2, "w": 2}, {"n": 2, "d": 2}, {"w": 4}],
    6: [{"d": 3, "w": 2}, {"h": 3, "replicas": 2}, {"h": 2, "w": 3}],
    8: [{"d": 2, "h": 2, "w": 2}, {"h": 4, "w": 2}],
}
WINDOWS = {
    "3^3": dict.fromkeys("dhw", Window(3, 1, 1, 1, 1)),
    "wider than a part": {"d": Window(9, 1, 1, 4, 4), "h": Window(4, 1, 3, 2, 7), "w": Window(11, 2, 1, 5, 5)},
    "strided, even": {"d": Window(2, 2), "h": Window(4, 3, 1, 2, 1), "w": Window(6, 4, 1, 0, 3)},
}


@pytest.mark.mpi
@pytest.mark.parametrize("scheme", ["direct", "stepwise", "auto"])
@pytest.mark.parametrize("name", WINDOWS)
def test_halos_over_several_dimensions(comm, name, scheme):
    """Both ways to exchange halos: right at every corner, exactly transposed, and counted."""
    shape, windows = (2, 9, 13, 12, 3), WINDOWS[name]
    for parts in HALOS[comm.size]:
        source, target = halo(parts, shape, windows)
        grid = make_grid(comm, comm.size)
        transfer = plan_transfer(source, target, grid.shape.rows, halo=scheme)
        moving = Moving(transfer, grid, Memory(grid.backend))
        tensor = np.random.default_rng(3).integers(-9, 10, shape).astype(float)
        everything = tuple((0, size) for size in shape)
        x, mine = tensor[within(source.box(grid.index), everything)].copy(), target.box(grid.index)
        if moving.kept is None:
            out = moving.forward(x)
        else:  # what is here already can be used before the messages come
            come, finish = moving.begun(x)
            np.testing.assert_array_equal(come[within(moving.kept, mine)], tensor[within(moving.kept, everything)])
            out = finish()
        np.testing.assert_array_equal(out, tensor[within(mine, everything)])
        assert grid.ledger.integers() == predicted(transfer, grid, backward=False)
        y = integers(comm, 5, out.shape)
        grid.ledger.clear()
        back = moving.adjoint(y)
        assert grid.ledger.integers() == predicted(transfer, grid, backward=True)
        assert global_dot(comm, out, y) == global_dot(comm, x, back)
        grid.free()


def test_the_cheaper_way_to_exchange_halos_is_taken():
    """3^d - 1 messages or 2 d: few words favour few messages, many words that none travels twice."""
    window = dict.fromkeys("dhw", Window(3, 1, 1, 1, 1))
    parts, middle = {"d": 3, "h": 3, "w": 3}, 13

    def messages(size: int, scheme: str) -> tuple[int, int]:
        transfer = plan_transfer(*halo(parts, (1, size, size, size, 1), window), 27, halo=scheme)
        counts = transfer.counts(middle, 27)
        return sum(count.messages for count in counts), sum(count.words for count in counts)

    assert messages(9, "direct") == (26, 5**3 - 3**3)
    assert messages(9, "stepwise") == (6, 5**3 - 3**3)
    assert messages(9, "auto") == messages(9, "stepwise")
    # The words differ only where a rank does not need all that it has: there it passes on what it has no use for.
    strided = dict.fromkeys("hw", Window(11, 8))
    layouts = halo({"h": 2, "w": 2}, (64, 300, 300, 64), strided)
    direct, stepwise, auto = (plan_transfer(*layouts, 4, halo=scheme) for scheme in ("direct", "stepwise", "auto"))
    words = [sum(count.words for i in range(4) for count in plan.counts(i, 4)) for plan in (direct, stepwise)]
    assert words[0] < words[1] and auto == direct
