"""Copies of a run in the memory of its ranks, and changes of its grid, without a death."""

from __future__ import annotations

import numpy as np
import pytest
from launch import gridnn
from running import LENET, MLP, Told, folder, job_of, same, trained

from gridnn.comm.grid import GridShape
from gridnn.layout.layout import Dim, Layout
from gridnn.layout.partition import Even
from gridnn.train.copies import Copies, choose_shift, restore, tensors_to_send
from gridnn.train.resume import Progress
from gridnn.train.supervisor import Supervisor
from gridnn.train.trainer import Trainer


def grids(comm) -> list[str]:
    return [f"{rows}x{comm.size // rows}" for rows in range(1, comm.size + 1) if comm.size % rows == 0]


# -- copies --------------------------------------------------------------------------------------------------


@pytest.mark.mpi
def test_a_copy_moves_the_words_that_are_predicted(comm):
    for grid in grids(comm):
        trainer = Trainer(MLP.replaced(grid=grid, replicas=True), job_of(comm))
        session, copies = trainer.session, Copies(lambda: None, 1)
        copies.attach(trainer.config, trainer.tensors, session.grid, ["node"] * comm.size)
        session.ledger.clear()
        for _ in range(3):
            copies.take(trainer.progress, None)
        rows = [(key.dimension, t.words, t.messages) for key, t in session.ledger.steps() if key.phase == "copy"]
        predicted: dict[str, list[int]] = {}
        for count in copies.predicted():
            words, messages = predicted.setdefault(count.dimension, [0, 0])
            predicted[count.dimension] = [words + 3 * count.words, messages + 3 * count.messages]
        assert sorted(rows) == sorted((dimension, *counts) for dimension, counts in predicted.items())
        # where there are several columns, the replicas along a row are copies already
        assert bool(predicted) == (GridShape.parse(grid, comm.size).rows == comm.size > 1)
        session.grid.free()


@pytest.mark.mpi
def test_a_copy_is_of_its_moment_and_whole_without_any_one_rank(comm):
    """What ranks hold for others is right: each in turn forgets its own part, and all are back where they were."""
    if comm.size == 1:
        pytest.skip("nobody holds anything for others")
    trainer = Trainer(MLP.replaced(grid=f"{comm.size}x1", replicas=True), job_of(comm))
    grid, tensors = trainer.session.grid, trainer.tensors
    copies = Copies(lambda: None, 1)
    copies.attach(trainer.config, tensors, grid, ["node"] * comm.size)
    for value in (1.0, 2.0, 3.0):  # buffers are swapped
        for number, tensor in enumerate(tensors.values()):
            tensor.array[...] = value + number + 0.01 * grid.index
        before = {name: tensor.array.copy() for name, tensor in tensors.items()}
        copies.take(Progress(done=int(value)), None)
        for dead in range(comm.size):
            for tensor in tensors.values():
                tensor.array[...] = -1
            mine = None if grid.index == dead else copies.last
            assert restore(mine, copies.last.moment, tensors, grid)
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(tensor.array, before[name])
        assert copies.last.moment.progress.done == value
        two = {0, copies.last.moment.shift % comm.size}
        assert not restore(None if grid.index in two else copies.last, copies.last.moment, tensors, grid)
    grid.free()


def test_copies_go_to_other_nodes():
    assert choose_shift(2, ["a"] * 6) == 2  # one column on
    assert choose_shift(2, ["a", "a", "b", "b"]) == 2
    assert choose_shift(1, ["a", "a", "b", "b"]) == 2  # the columns beside each other are on one node
    assert choose_shift(4, ["a", "b", "c", "d"]) == 1  # one column: the next row
    assert choose_shift(4, ["a", "a", "b", "b"]) == 2
    assert choose_shift(1, ["a"]) == 0


def test_what_replicas_hold_is_not_sent():
    divided, doubled = (Layout(mesh, (Dim(Even(6, 2), (0,)),)) for mesh in ((2,), (2, 2)))
    assert tensors_to_send({"one": divided}, ["a", "b"]) == {"one"}
    assert tensors_to_send({"one": doubled}, ["a", "b", "a", "b"]) == frozenset()
    assert tensors_to_send({"one": doubled}, ["a", "a", "b", "b"]) == {"one"}  # both replicas would die with their node
    assert tensors_to_send({"one": doubled}, ["a"] * 4) == frozenset()
    assert tensors_to_send({"one": Layout((1,), (Dim(Even(6, 1)),))}, ["a"]) == frozenset()


# -- other grids ---------------------------------------------------------------------------------------------


def regridded(config, comm) -> Told:
    told = Told()
    Supervisor(config, job_of(comm), lambda append: told).train()
    return told


@pytest.mark.mpi
@pytest.mark.parametrize("config", [LENET, MLP], ids=["lenet", "mlp"])
def test_the_grid_changes_and_the_curve_does_not(comm, config):
    """In the middle of an epoch and at its end, several times."""
    first, *others = [*grids(comm), *grids(comm)]
    changes = ",".join(f"{step}:{grid}" for step, grid in zip((2, 3, 7, 8), others, strict=False))
    config = on_grid(config, first)
    told = regridded(config.replaced(regrid=changes or None), comm)
    same(told, trained(config, comm), changes)
    assert sum("from grid" in note for note in told.notes) == len(changes.split(",")) * bool(changes)


@pytest.mark.mpi
def test_a_checkpoint_before_and_after_the_change_is_resumed(comm):
    first, *others = [*grids(comm), *grids(comm)]
    config = on_grid(MLP, first).replaced(regrid=f"4:{others[-1]}" if others else None)
    whole = trained(config.replaced(regrid=None), comm)
    for steps, every in ((5, 3), (5, 4), (9, 8)):
        with folder(comm) as path:
            broken = regridded(config.replaced(steps=steps, checkpoint=str(path), save_every=every), comm)
            assert list(broken.losses) == list(range(1, steps + 1))
            later = regridded(config.replaced(checkpoint=str(path), resume=True), comm)
            same(broken.join(later), whole, str(every))


def on_grid(config, grid: str):
    return config.replaced(grid=grid, replicas=True)


def test_changes_that_cannot_be_are_refused():
    for regrid, told in (
        ("3", "write updates, in order, and grids as"),
        ("5:1x1,3:1x1", "write updates, in order, and grids as"),
        ("3:2x2", "--regrid 3:2x2: grid 2x2 needs 4 ranks, this job has 1"),
        ("900:1x1", "--regrid 900:1x1: the run ends after 12 updates"),
    ):
        done = gridnn(
            1,
            "train",
            *["--dataset", "synthetic", "--samples", "34", "--batch", "13", "--epochs", "4", "--regrid"],
            regrid,
        )
        assert done.returncode == 2
        assert told in done.stderr
    done = gridnn(1, "train", "--regrid", "3:1x1", "--trace", "/dev/null")
    assert "--trace is of one grid" in done.stderr
