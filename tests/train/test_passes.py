"""What follows from options and data alone is refused before the first step."""

from __future__ import annotations

import pytest
from running import MLP, trained

from gridnn.errors import UserError

NORM = f"{__file__}:norm"
DIGITS = MLP.replaced(model=NORM, widths="128,128", dataset="digits", shape=None, samples=2048, batch=4)


def norm(shape, classes):
    from gridnn.layers import BatchNorm, Flatten, Linear, ReLU
    from gridnn.network import Network

    net = Network(shape)
    net.add("flat", Flatten())
    net.add("fc1", Linear(8))
    net.add("bn", BatchNorm())
    net.add("relu", ReLU())
    net.add("fc2", Linear(classes))
    return net


@pytest.fixture
def alone():
    from mpi4py import MPI

    return MPI.COMM_SELF


def test_a_last_batch_over_which_a_norm_has_no_variance(alone, tmp_path):
    text = r"layer 'bn': .*1,437 samples in batches of 4 leave 1 for the last one: use --drop-last, or another --batch$"
    with pytest.raises(UserError, match=text):
        trained(DIGITS.replaced(checkpoint=str(tmp_path / "ck")), alone)
    assert not (tmp_path / "ck").exists()
    assert len(trained(DIGITS.replaced(drop_last=True, epochs=1), alone).losses) == 359
    assert len(trained(DIGITS.replaced(steps=3), alone).losses) == 3  # the last batch does not come


def test_passes_over_which_a_norm_has_no_variance(alone):
    with pytest.raises(UserError, match=r"layer 'bn': .*no variance; use another --batch or fewer passes"):
        trained(DIGITS.replaced(accumulate=4, steps=3), alone)


def test_a_batch_larger_than_the_data(alone):
    config = MLP.replaced(samples=3, batch=64, steps=1)
    assert "--batch 64: the data set has 3 samples to train with" in trained(config, alone).notes[0]
