"""Goodput in overload is the rate of a steady state, whatever the length of the run."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.device import Limits
from deeprecsys.core.policy import Deadline, Policy, Static
from deeprecsys.core.runlog import RunLog, Steady
from deeprecsys.core.target import Target
from deeprecsys.simulate.driver import simulate

SERVICE_S, WORKERS = 0.008, 2
CAPACITY_QPS = WORKERS / SERVICE_S
TARGET = Target(latency_s=0.1)
SHORT, LONG = (Limits(queries=n, bytes_per_item=1, slices=n) for n in (20, 200))
"""Lines in which a query waits for 0.08 s at most, within the target, and for 0.8 s."""


def overload(
    seconds: float,
    excess: float = 3.0,
    seed: int = 0,
    policy: Policy | None = None,
    limits: Limits | None = None,
) -> RunLog:
    """So many seconds of `excess` times what the workers can do, followed until all is answered."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / (excess * CAPACITY_QPS), int(excess * CAPACITY_QPS * seconds)))
    ones = np.ones(len(arrivals), int)
    return simulate(
        policy or Static(1),
        arrivals,
        ones,
        lambda items, busy, u: SERVICE_S,
        WORKERS,
        seed=seed,
        limits=limits,
    )


def steady(log: RunLog) -> Steady:
    found = Steady.of(log, TARGET)
    assert found is not None
    return found


@pytest.mark.parametrize("excess", [1.5, 3.0])
@pytest.mark.parametrize(
    ("policy", "limits"),
    [(Static(1), SHORT), (Deadline(1, TARGET.latency_s), None), (Static(1), None), (Static(1), LONG)],
    ids=["refuses in time", "late ones last", "all in order", "refuses too late"],
)
def test_ten_seconds_tell_the_goodput_and_the_throughput_of_a_minute(
    policy: Policy, limits: Limits | None, excess: float
) -> None:
    minute = steady(overload(60, excess, 99, policy, limits))
    for seed in range(3):
        found = steady(overload(10, excess, seed, policy, limits))
        assert found.goodput_qps == pytest.approx(minute.goodput_qps, rel=0.05)
        assert found.throughput_qps == pytest.approx(minute.throughput_qps, rel=0.05)


def test_a_line_that_refuses_in_time_has_the_goodput_of_its_workers() -> None:
    """Every query that is taken waits for less than the target, and no worker is ever idle: M/D/c/K at 3."""
    found = steady(overload(10, limits=SHORT))
    assert found.goodput_qps == pytest.approx(CAPACITY_QPS, rel=0.01)
    assert found.throughput_qps == pytest.approx(CAPACITY_QPS, rel=0.01)


@pytest.mark.parametrize("limits", [None, LONG])
def test_without_a_refusal_in_time_goodput_is_nothing_and_throughput_is_the_workers(
    limits: Limits | None,
) -> None:
    log = overload(10, limits=limits)
    assert np.count_nonzero(log.latency_s <= TARGET.latency_s) > 20, (
        "the first are in time: the node was empty"
    )
    assert steady(log).goodput_qps == 0
    assert steady(log).throughput_qps == pytest.approx(CAPACITY_QPS, rel=0.01)


def test_below_capacity_goodput_is_the_rate_of_those_in_time() -> None:
    log = overload(30, excess=0.5)
    assert steady(log).goodput_qps == pytest.approx(len(log.size) / 30, rel=0.03)


def test_a_run_of_less_than_a_target_has_no_steady_state() -> None:
    assert Steady.of(overload(0.05), TARGET) is None
