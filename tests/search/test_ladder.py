"""The ladder of rates."""

from __future__ import annotations

from itertools import pairwise
from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.search.confirm import WIDE, RateSteps


def climb(ladder: RateSteps, capacity_qps: float, attempts: int = 20) -> list[float]:
    """The rates that a ladder tries where all up to a capacity are met."""
    tried = []
    while not ladder.done and len(tried) < attempts:
        tried.append(ladder.rate_qps)
        met = ladder.rate_qps <= capacity_qps
        ladder.judge(met)
    return tried


def test_a_first_rate_that_holds_is_the_last():
    ladder = RateSteps(100.0, 0.03)
    assert climb(ladder, 120.0) == [100.0]
    assert ladder.met_qps == 100.0


def test_steps_down_double_and_then_it_looks_between_met_and_failed():
    tried = climb(ladder := RateSteps(100.0, 0.03), 85.0)
    assert tried[:4] == pytest.approx([100, 97, 97 * 0.94, 97 * 0.94 * 0.88])
    assert tried[3] < 85 < tried[2]
    assert tried[4] == pytest.approx((tried[3] * tried[2]) ** 0.5)
    assert ladder.met_qps == max(r for r in tried if r <= 85)
    assert 85 / 1.07 < ladder.met_qps <= 85


def test_steps_up_double_until_a_rate_fails_and_then_it_looks_between():
    tried = climb(ladder := RateSteps(100.0, 0.04, upward=True), 130.0)
    assert tried[:4] == pytest.approx([100, 108, 108 * 1.16, 108 * 1.16 * 1.32])
    assert tried[2] < 130 < tried[3]
    assert tried[4] == pytest.approx((tried[2] * tried[3]) ** 0.5)
    assert 130 / 1.09 < ladder.met_qps <= 130
    far = climb(RateSteps(100.0, 0.04, upward=True), 1e4)
    assert max(b / a for a, b in pairwise(far)) == pytest.approx(1.5)
    assert RateSteps(100.0, 0.04).rate_qps == 100
    content = RateSteps(100.0, 0.04)
    content.judge(True)
    assert content.done


@given(st.floats(10.0, 1000.0), st.floats(0.005, 0.1), st.booleans())
def test_a_ladder_ends_at_the_highest_rate_met_and_no_step_below_one_that_failed(capacity, step, upward):
    tried = climb(ladder := RateSteps(100.0, step, upward), capacity, attempts=1000)
    assert ladder.done
    assert len(set(tried)) == len(tried)
    met = [r for r in tried if r <= capacity]
    assert ladder.met_qps == max(met)
    failed = [r for r in tried if r > capacity]
    if failed:
        assert min(failed) < ladder.met_qps * (1 + 2 * step)
    assert upward or not failed or tried[0] > capacity


def test_from_a_rate_that_swamps_the_node_it_goes_to_what_was_served():
    ladder = RateSteps(100.0, 0.04)
    ladder.judge(False, served_qps=60.0)
    assert ladder.rate_qps == pytest.approx(60 * 0.96)
    ladder.judge(False, served_qps=57.0)
    assert ladder.rate_qps == pytest.approx(60 * 0.96**2), "it was followed: an ordinary step"
    ladder.judge(False, served_qps=0.0)
    assert ladder.rate_qps == pytest.approx(60 * 0.96**3 / 4), "nothing served says nothing of how far"


def test_a_wide_gap_is_told_from_a_narrow_one():
    ladder = RateSteps(100.0, 0.04)
    assert ladder.wide, "nothing is met"
    ladder.judge(False, served_qps=50.0)
    ladder.judge(True)
    assert ladder.wide
    while ladder.wide:
        assert not ladder.done
        ladder.judge(False)
    assert ladder.failed_qps / ladder.met_qps <= exp(WIDE * 0.04)
    at_once = RateSteps(100.0, 0.04, upward=True)
    at_once.judge(True)
    assert at_once.failed_qps == inf
    assert not at_once.wide


def test_a_rate_that_is_withdrawn_has_failed_and_it_looks_below():
    ladder = RateSteps(100.0, 0.04, upward=True)
    for _ in range(3):
        ladder.judge(True)
    assert ladder.met_qps == pytest.approx(108 * 1.16)
    ladder.withdraw()
    assert ladder.failed_qps == pytest.approx(108 * 1.16)
    assert ladder.met_qps == pytest.approx(108)
    assert not ladder.done
    assert ladder.rate_qps == pytest.approx(108 * 1.16**0.5)
    ladder.judge(True)
    assert ladder.done
    for _ in range(3):
        assert not ladder.done or ladder.met_qps
        ladder.withdraw()
    assert ladder.met_qps == 0
    assert not ladder.done
    assert ladder.rate_qps == pytest.approx(96)
    ladder.judge(True)
    ladder.withdraw(served_qps=60.0)
    assert ladder.rate_qps == pytest.approx(60 * 0.96)
