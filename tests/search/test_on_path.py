"""The capacity on one path: against brute force and theory, with a floor, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.errors import InputError
from deeprecsys.core.target import Target
from deeprecsys.search.rank import TOLERANCE, capacity_on_path
from tests.search.queues import theory_qps, waits_s


class Below:
    """Meets the target up to a rate; counts the questions."""

    def __init__(self, qps: float) -> None:
        self.qps, self.asked = qps, []

    def __call__(self, rate_qps: float) -> bool:
        self.asked.append(rate_qps)
        return rate_qps <= self.qps


@given(st.floats(1.0, 1e4), st.floats(0.1, 1e4), st.floats(1e-4, 0.1))
def test_from_any_hint_the_crossing_is_found_to_the_tolerance(qps, hint, tolerance):
    meets = Below(qps)
    if qps < 1e-4 * hint:
        return
    found = capacity_on_path(meets, hint, tolerance=tolerance)
    assert found <= qps <= found * (1 + tolerance) * (1 + 1e-12)
    assert found in meets.asked, "the rate found has run and met the target"
    assert len(meets.asked) < 100


def test_on_a_path_of_m_d_1_it_is_what_trying_every_rate_finds_and_about_theory():
    target = Target(latency_s=10.0)
    unit = np.cumsum(np.random.default_rng(3).exponential(size=200_000))

    def meets(rate):
        late = waits_s(unit / rate, 1) + 1.0 > target.latency_s
        return late.mean() <= target.miss_rate

    found = capacity_on_path(meets, 0.5)
    tried = np.arange(0.80, 0.95, 0.0005)
    best = max(rate for rate in tried if meets(rate))
    assert found == pytest.approx(best, rel=TOLERANCE + 0.001)
    assert found == pytest.approx(theory_qps(1, target), rel=0.02)


def test_a_policy_below_the_floor_costs_one_question():
    meets = Below(99.0)
    assert capacity_on_path(meets, 500.0, floor_qps=100.0) == 0.0
    assert meets.asked == [100.0]


@pytest.mark.parametrize("hint", [1.0, 100.0, 5000.0])
def test_a_policy_above_the_floor_is_found_as_without_one(hint):
    found = capacity_on_path(Below(123.0), hint, floor_qps=100.0)
    assert 123 / (1 + 2 * TOLERANCE) <= found <= 123


def test_a_target_that_no_rate_meets_gives_nothing_and_soon():
    meets = Below(0.0)
    assert capacity_on_path(meets, 100.0) == 0.0
    assert len(meets.asked) < 60


def test_a_load_that_nothing_limits_ends_too():
    meets = Below(np.inf)
    assert capacity_on_path(meets, 100.0) > 1e6
    assert len(meets.asked) < 100


def test_a_hint_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="hint: expected a number above 0"):
        capacity_on_path(Below(1.0), 0.0)
