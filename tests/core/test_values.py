"""Targets, percentiles, run logs and latency profiles."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.errors import InputError, positive, unknown
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import RunLog, Status, summarise, warmup_s
from deeprecsys.core.target import Target, percentile


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.floats(0.01, 0.999))
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(values: list[float], q: float) -> None:
    found = percentile(np.array(values), q)
    assert found in values
    assert np.mean(np.array(values) <= found) >= q - 1e-12
    lower = [v for v in values if v < found]
    assert len(lower) / len(values) < q + 1e-12


def test_there_is_no_percentile_of_nothing() -> None:
    assert np.isnan(percentile(np.array([]), 0.5))


@pytest.mark.parametrize(
    ("latency", "quantile"), [(0, 0.9), (-1, 0.9), (0.1, 0), (0.1, 1), (float("nan"), 0.9)]
)
def test_targets_out_of_range_are_refused(latency: float, quantile: float) -> None:
    with pytest.raises(InputError, match="expected"):
        Target(latency, quantile)


def log_of(latency_s: list[float], status: list[int] | None = None, late_s: float = 0.0) -> RunLog:
    """One query a second."""
    n = len(latency_s)
    arrival = np.arange(n, dtype=float)
    return RunLog(
        rate_qps=1.0,
        arrival_s=arrival,
        size=np.ones(n, np.int32),
        issued_s=arrival + late_s,
        start_s=arrival,
        finish_s=arrival + np.array(latency_s),
        status=np.array(status or [Status.SERVED] * n, np.uint8),
        busy_s=n / 2,
        workers=1,
        warmup_s=0.0,
    )


def test_a_summary_counts_what_was_not_served_as_infinitely_late() -> None:
    status = [Status.SERVED] * 90 + [Status.SHED] * 4 + [Status.FAILED] * 3 + [Status.OPEN] * 3
    s = summarise(log_of([0.01] * 100, [int(x) for x in status]), Target(0.1))
    assert (s.offered, s.completed, s.shed, s.failed) == (100, 90, 4, 3)
    assert s.served == 0.9
    assert s.misses == 10
    assert s.p95_ms == float("inf")
    assert s.p50_ms == pytest.approx(10)
    assert s.mean_ms == pytest.approx(10)


def test_the_warm_up_is_left_out_of_latencies_and_not_of_what_was_served() -> None:
    log = replace(log_of([5.0] * 10 + [0.01] * 90), warmup_s=10.0)
    s = summarise(log, Target(0.1))
    assert (s.measured, s.misses, s.offered) == (90, 0, 100)
    assert s.max_ms == pytest.approx(10)


@pytest.mark.parametrize(
    ("late_s", "target_s", "void"),
    [(0.0004, 0.005, False), (0.0006, 0.005, True), (0.0049, 0.1, False), (0.0051, 0.1, True)],
)
def test_a_trial_with_a_late_source_is_void(late_s: float, target_s: float, void: bool) -> None:
    assert summarise(log_of([0.001] * 100, late_s=late_s), Target(target_s)).void is void


@given(st.floats(0.1, 1e4), st.floats(1e-3, 10))
def test_the_warm_up_is_never_more_than_a_third(duration: float, target: float) -> None:
    warm = warmup_s(duration, Target(target))
    assert 0 < warm <= duration / 3
    assert warm >= min(0.1 * duration, duration / 3)


PROFILE = LatencyProfile(
    "m",
    (
        Point(1, 1, (0.001,)),
        Point(1, 100, (0.010, 0.011, 0.014)),
        Point(4, 1, (0.002,)),
        Point(4, 100, (0.020,)),
    ),
)


def test_a_profile_interpolates_in_batch_size_and_takes_the_nearest_level() -> None:
    at_100 = (0.010 + 2 * 0.011 + 0.014) / 4
    assert PROFILE.seconds(1) == 0.001
    assert PROFILE.seconds(100) == pytest.approx(at_100)
    assert PROFILE.seconds(50) == pytest.approx(0.001 + (at_100 - 0.001) * 49 / 99)
    assert PROFILE.seconds(199) == pytest.approx(at_100 + (at_100 - 0.001))
    assert PROFILE.seconds(100, busy=3) == PROFILE.seconds(100, busy=9) == pytest.approx(0.020)
    assert PROFILE.seconds(100, u=0.5) == 0.011
    assert PROFILE.seconds(100, u=0.75) == pytest.approx(0.0125)


def test_a_profile_survives_its_file() -> None:
    assert LatencyProfile.from_json(json.loads(json.dumps(PROFILE.to_json()))) == PROFILE


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "expected a JSON object, got list"),
        ({"points": []}, "profile model: expected a str, got None"),
        ({"model": "m", "points": []}, "expected at least one"),
        ({"model": "m", "point": []}, "did you mean 'points'"),
        ({"model": "m", "format": "other/9", "points": []}, "profile format"),
        ({"model": "m", "points": [{"batch": 1, "secnds": [1]}]}, "did you mean 'seconds'"),
        ({"model": "m", "points": [{"batch": 1.5, "seconds": [1]}]}, "batch: expected a whole number"),
        ({"model": "m", "points": [{"batch": 1}]}, "seconds: expected a number"),
        ({"model": "m", "points": [{"batch": 0, "seconds": [1]}]}, "at least 1"),
        ({"model": "m", "points": [{"batch": 1, "seconds": [-1]}]}, "above 0, got -1"),
        ({"model": "m", "points": [{"batch": 1, "seconds": [2, 1]}]}, "rising quantiles"),
        (
            {"model": "m", "points": [{"batch": 2, "seconds": [1]}, {"batch": 1, "seconds": [1]}]},
            "rising order",
        ),
    ],
)
def test_a_bad_profile_gets_one_clear_line(document: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        LatencyProfile.from_json(document)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_told_the_nearest() -> None:
    assert "did you mean 'poisson'" in str(unknown("arrival process", "poison", ["poisson", "constant"]))
    assert "did you mean" not in str(unknown("arrival process", "zzz", ["poisson", "constant"]))


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_only_finite_numbers_above_zero_are_positive(value: float) -> None:
    with pytest.raises(InputError, match="rate: expected a number above 0"):
        positive("rate", value)
