"""Runs of the trainer inside a test, on any communicator: what they report, and the options of a small one."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
from backends import backend_name, transport_name

from gridnn import layers as L
from gridnn.comm.launcher import short_version
from gridnn.comm.recorder import Recorder
from gridnn.network import Network
from gridnn.train.config import RunConfig
from gridnn.train.trainer import Trainer

LENET = RunConfig.of(
    backend=backend_name(),
    transport=transport_name(),
    model="lenet",
    dataset="synthetic",
    shape="27x12x2",
    dtype="float64",
    samples=34,
    batch=13,  # two steps and a short one an epoch
    epochs=4,
    lr=0.05,
    nesterov=True,
    weight_decay=1e-3,
)
MLP = LENET.replaced(model="mlp", shape="5x5x3", widths="23,17,9", optimizer="adamw", nesterov=False, lr=3e-3, clip=0.5)


BRANCHED = f"{__file__}:branched"  # a model of its own, for --model


def branched(shape: tuple[int, ...], classes: int) -> Network:
    """Several readers, norms, dropout, views, and frames."""
    net = Network(shape)
    net.add("conv1", L.Conv2d(6, 3, padding=1, bias=False))
    net.add("bn1", L.BatchNorm())
    first = net.add("relu1", L.ReLU())
    net.add("conv2", L.Conv2d(6, 3, padding=1, groups=2))
    net.add("gn2", L.GroupNorm(2))
    second = net.add("add", L.Add(), net.output, first)
    net.add("conv3", L.Conv2d(3, 1), second)
    net.add("join", L.Concat(), net.output, second)
    net.add("pool", L.MaxPool2d(3, 2, 1))
    net.add("drop", L.Dropout(0.3))
    net.add("flatten", L.Flatten())
    net.add("fc1", L.Linear(20))
    net.add("gelu", L.GELU())
    net.add("fc2", L.Linear(classes))
    return net


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.losses, self.epochs, self.notes, self.paths = {}, {}, [], []

    @property
    def curve(self):
        """The losses of the steps, in their order."""
        return list(self.losses.values())

    def step(self, step, epoch, loss, *rest):
        self.losses[step] = loss

    def epoch(self, epoch, *values):
        self.epochs[epoch] = values[:4]

    def saved(self, step, path, seconds):
        self.paths.append(Path(path).name)

    def note(self, text):
        self.notes.append(text)

    def started(self, *facts):
        pass

    finished = started

    def close(self):
        pass

    def join(self, later: Told) -> Told:
        """This run and the one that went on from it."""
        both = Told()
        both.losses, both.epochs = {**self.losses, **later.losses}, {**self.epochs, **later.epochs}
        return both


def job_of(comm):
    """What a run asks of a job, on the ranks of ``comm``."""
    from mpi4py import MPI

    rank, library = comm.Get_rank(), short_version(MPI.Get_library_version())
    facts = {"rank": rank, "size": comm.Get_size(), "local_rank": rank, "node": 0, "nodes": 1, "threads": 1}
    return SimpleNamespace(comm=comm, library=library, joins=False, recorder=Recorder(), **facts)


def trained(config: RunConfig, comm, signalled=lambda: 0) -> Told:
    """What a run on all ranks of ``comm`` told; every rank listens."""
    told = Told()
    Trainer(config, job_of(comm), told, signalled).train()
    return told


def trained_on(ranks: int, config: RunConfig, comm) -> Told | None:
    """The same on the first ``ranks`` ranks of ``comm``; the others wait, and get None."""
    mine = comm.Split(int(comm.Get_rank() >= ranks))
    told = trained(config, mine) if comm.Get_rank() < ranks else None
    mine.Free()
    comm.Barrier()
    return told


def same(run: Told, reference: Told, message: str = "") -> None:
    """Whether two runs had the same losses, after every step and every epoch."""
    assert list(run.losses) == list(reference.losses), message
    assert list(run.epochs) == list(reference.epochs), message
    np.testing.assert_allclose(run.curve, reference.curve, rtol=1e-10, err_msg=message)
    for mine, other in zip(run.epochs.values(), reference.epochs.values(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, err_msg=message)


@contextmanager
def folder(comm):
    """A directory that all ranks see, and that is gone afterwards."""
    with TemporaryDirectory() as mine:
        yield Path(comm.bcast(mine))
        comm.Barrier()
