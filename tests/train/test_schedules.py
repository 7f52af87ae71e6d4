from __future__ import annotations

import math

import pytest

from gridnn.errors import UserError
from gridnn.train.config import RunConfig
from gridnn.train.schedules import make_schedule

PER_EPOCH, TOTAL = 7, 70


def rates(name, **options):
    schedule = make_schedule(RunConfig.of(schedule=name, lr=0.5, **options).train, PER_EPOCH, TOTAL)
    return [schedule(done) for done in range(TOTAL)]


def test_constant():
    assert rates("constant") == [0.5] * TOTAL


def test_step_changes_at_the_start_of_an_epoch():
    expected = [0.5 * 0.1**k for k in (0, 1, 2, 3) for _ in range(3 * PER_EPOCH)]
    assert rates("step", step_every=3, gamma=0.1) == pytest.approx(expected[:TOTAL], rel=1e-15)


def test_cosine_goes_from_the_full_rate_to_zero():
    got = rates("cosine")
    assert got == pytest.approx([0.25 * (1 + math.cos(math.pi * i / TOTAL)) for i in range(TOTAL)], rel=1e-12)
    assert got[0] == 0.5
    assert got[TOTAL // 2] == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["constant", "step", "cosine"])
def test_warm_up_is_linear_and_reaches_the_rate(name):
    got = rates(name, warmup=2)
    assert got[: 2 * PER_EPOCH] == pytest.approx([0.5 * i / 14 for i in range(1, 15)], rel=1e-15)
    assert got[2 * PER_EPOCH] == 0.5


def test_cosine_after_a_warm_up_ends_at_zero():
    got = rates("cosine", warmup=2)[14:]
    assert got == pytest.approx([0.25 * (1 + math.cos(math.pi * i / 56)) for i in range(56)], rel=1e-12)


def test_a_warm_up_as_long_as_the_run():
    assert rates("cosine", warmup=10)[-1] == 0.5


def test_unknown_name():
    with pytest.raises(UserError, match="unknown schedule 'cosin': did you mean cosine"):
        make_schedule(RunConfig.of(schedule="cosin").train, 1, 1)
