"""The rule for a sustained capacity: what it needs, and what it accepts of queues whose capacity is known."""

from __future__ import annotations

from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest

from benchmarks.search.sustained import QUEUES, WHOLE, accepted, capacity_qps
from deeprecsys.core.runlog import RunLog
from deeprecsys.core.target import Target
from deeprecsys.search.sustain import (
    PLANNED,
    Holding,
    planned_s,
    relaxation_of,
    relaxation_s,
    sustained,
    trend,
    variability,
)
from deeprecsys.workload.stream import Workload
from tests.search import fakes
from tests.search.queues import MDc

TARGET = Target(latency_s=0.1)


def run(rate_qps=200.0, duration_s=70.0, busy=0.5, miss=0.0, seed=0) -> RunLog:
    """A run at a utilisation, with independent misses, and of Poisson arrivals."""
    rng = np.random.default_rng(seed)
    found = fakes.log(
        rate_qps,
        duration_s,
        lambda n: np.where(rng.random(n) < miss, 0.2, 0.02 + 0.01 * rng.random(n)),
        busy,
    )
    return replace(found, size=rng.integers(1, 3, len(found.size)).astype(np.int32))


def test_the_relaxation_time_is_that_of_mm1_in_heavy_traffic():
    for rho in (0.9, 0.95, 0.99):
        exact = 1 / (1 - sqrt(rho)) ** 2  # in services: 1 / (sqrt(mu) - sqrt(lambda))^2
        assert relaxation_s(rho, 1.0, 2.0, 1) == pytest.approx(exact, rel=0.06)
    assert relaxation_s(0.9, 1.0, 2.0, 4) == pytest.approx(relaxation_s(0.9, 1.0, 2.0, 1) / 4)
    assert relaxation_s(1.0, 1.0, 2.0, 1) == inf


def test_the_relaxation_time_of_a_run_is_that_of_its_own_load():
    trial = MDc(2, Target(latency_s=30.0))
    log = trial(WHOLE, 1.8, 40_000.0, 1)
    assert relaxation_of(log) == pytest.approx(relaxation_s(0.9, 1.0, 1.0, 2), rel=0.25)
    assert relaxation_of(trial(WHOLE, 2.1, 10_000.0, 1)) == inf, "more work than the workers can do"
    assert relaxation_of(trial(WHOLE, 1.8, 20.0, 1)) == inf, "too few queries to know it"


def test_variability_is_that_of_gaps_and_sizes_and_more_where_they_come_in_clumps():
    poisson = Workload.parse("poisson", "fixed:10", seed=1).stream(1000.0, duration_s=60)
    assert variability(poisson.arrival_s, poisson.size) == pytest.approx(1.0, rel=0.35)
    bursts = Workload.parse("bursts", "fixed:10", seed=1).stream(1000.0, duration_s=60)
    assert variability(bursts.arrival_s, bursts.size) > 5


def test_a_long_steady_run_with_few_misses_is_sustained():
    found = sustained(run(miss=0.01), TARGET)
    assert found.held
    assert not found.lacks
    assert found.miss_low < 0.01 < found.miss_high < 0.05
    assert found.relaxation_times > 1000


@pytest.mark.parametrize(
    ("log", "lacks"),
    [
        (run(duration_s=40), "60 s"),
        (run(rate_qps=50), "5,000 queries"),
        (run(busy=0.985), "30 relaxation times"),
        (run(miss=0.048, duration_s=60), "an interval below the allowed miss rate"),
    ],
)
def test_a_run_that_lacks_something_is_undecided_and_says_what(log: RunLog, lacks: str):
    found = sustained(log, TARGET)
    assert found.verdict is Holding.UNDECIDED
    assert lacks in found.lacks
    assert found.to_json()["lacks"] == list(found.lacks)


def test_a_latency_that_rises_is_not_sustained_even_if_the_target_was_met():
    steady = run()
    growing = replace(steady, finish_s=steady.finish_s + 0.05 * steady.arrival_s / 70)
    found = sustained(growing, TARGET)
    assert found.verdict is Holding.UNDECIDED
    assert found.rising
    assert "a latency that does not rise" in found.lacks
    slightly = replace(steady, finish_s=steady.finish_s + 0.001 * steady.arrival_s / 70)
    assert sustained(slightly, TARGET).held, "a rise of 1 % of the target does not matter"


def test_a_run_that_missed_or_did_not_serve_all_is_not_met():
    assert sustained(run(miss=0.06), TARGET).verdict is Holding.NOT_MET
    assert sustained(fakes.shed(run(), 1), TARGET).verdict is Holding.NOT_MET


def test_the_trend_test_stands_autocorrelation():
    rng = np.random.default_rng(3)
    walks = np.array([np.convolve(rng.normal(size=3000), np.ones(300), "valid") for _ in range(200)])
    flagged = sum(trend(w + 100)[0] > 2.33 for w in walks)
    assert flagged <= 8
    rising = np.arange(1000.0) + rng.normal(size=1000)
    assert trend(rising)[0] > 2.33
    assert trend(-rising)[0] < -2.33


def test_a_plan_is_as_long_as_the_rule_asks():
    calm = run()
    assert planned_s(calm) == 60.0
    assert planned_s(run(rate_qps=20.0, duration_s=200)) == pytest.approx(250.0)
    near = run(busy=0.98)
    assert planned_s(near) == pytest.approx(PLANNED * relaxation_of(near))


@pytest.mark.parametrize("queue", QUEUES[:3], ids=lambda q: q.name)
def test_points_below_capacity_are_accepted_and_points_above_it_rejected(queue):
    full = capacity_qps(queue, 500_000)
    below, above = (accepted(queue, share * full, range(30)) for share in (0.95, 1.03))
    assert below["sustained"] >= 25
    assert above["sustained"] <= 1
    assert above["former"] > above["sustained"], "short trials from an empty node pass above it"
