"""Bounds where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deeprecsys.bounds.bounds import Bound, BoundKind, capacity, planning_estimate
from deeprecsys.bounds.path import Path, bounds_of, o_drop, o_fcfs
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.target import Target, percentile
from deeprecsys.simulate.table import Tabulated
from deeprecsys.workload.sizes import parse
from tests.simulate.compiled import simulate_fast

CORES, QUERIES = 16, 100_000
TIMES_S = 0.3e-3 + 0.05e-3 * np.arange(1, 701)
# SLA in ms; O_fcfs, static, best fixed batch over k / E[s(n)]: roughly (facts §6), and with this seed.
SMALL_CHECK = [
    (10, (0.80, 0.68, 0.70), (0.803, 0.684, 0.701)),
    (25, (0.94, 0.83, 0.90), (0.932, 0.816, 0.889)),
    (50, (0.98, 0.87, 0.97), (0.970, 0.856, 0.955)),
]


@pytest.mark.parametrize(("sla_ms", "facts", "ours"), SMALL_CHECK)
def test_the_small_check(sla_ms: int, facts: tuple[float, ...], ours: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    size = parse("mlperf").of(rng.random(QUERIES), np.zeros(QUERIES))
    arrival_s = np.cumsum(rng.exponential(1, QUERIES))
    target = Target(latency_s=sla_ms / 1e3)
    whole = CORES / float(TIMES_S[size - 1].mean())
    profile = Tabulated(LatencyProfile("x", (Point(1, 1, (TIMES_S[0],)), Point(1, 700, (TIMES_S[-1],)))))

    def meets(batch_size: int, rate: float) -> bool:
        log = simulate_fast(Static(batch_size), arrival_s / rate, size, profile, CORES)
        return percentile(log.latency_s, 0.95) <= target.latency_s

    def highest(batch_size: int) -> float:
        low, high = 0.0, 1.2 * whole
        while high - low > 1e-3 * whole:
            middle = (low + high) / 2
            low, high = (middle, high) if meets(batch_size, middle) else (low, middle)
        return low / whole

    bounds = bounds_of(TIMES_S, CORES, target, arrival_s, size)
    static = highest(Static.baseline(700, CORES).batch_size)
    best = max(highest(b) for b in (50, 59, 70, 100, 140, 200, 234, 250, 300, 350, 500))
    found = (bounds[BoundKind.O_FCFS].rate_qps / whole, static, best)
    np.testing.assert_allclose(found, ours, atol=0.003)
    np.testing.assert_allclose(found, facts, atol=0.016)
    assert best < bounds[BoundKind.O_FCFS].rate_qps / whole < bounds[BoundKind.CAPACITY].rate_qps / whole
    # The estimate comes within a few per cent of O_fcfs.
    assert bounds[BoundKind.ESTIMATE].rate_qps == pytest.approx(bounds[BoundKind.O_FCFS].rate_qps, rel=0.03)


def test_capacity_and_fraction_name_the_bound() -> None:
    bound = Bound(BoundKind.CAPACITY, capacity(0.01, 16))
    assert (bound.name, bound.rate_qps) == ("capacity", 1600)
    assert bound.fraction(800) == {"bound": "capacity", "value": 0.5}
    assert Bound(BoundKind.CAPACITY, 1600, coalescing=True).name == "capacity_coalescing"
    assert math.isnan(Bound(BoundKind.O_FCFS, 0.0).fraction(1)["value"])


def test_planning_estimate_of_one_size() -> None:
    theta = math.log(20) / 0.1
    found = planning_estimate([0.02], [1.0], 2, Target(latency_s=0.1))
    assert found == pytest.approx(theta / (math.exp(theta * 0.01) - 1))
    assert planning_estimate([0.02, np.inf], [0.5, 0.5], 2, Target(latency_s=0.1)) == 0
    assert planning_estimate([1e9], [1.0], 2, Target(latency_s=0.1)) == 0


def test_o_fcfs_of_an_m_d_1_queue() -> None:
    """p95 of the M/D/1 sojourn at the rate found is the target (Crommelin's distribution of the wait)."""
    rng = np.random.default_rng(3)
    n, service_s = 400_000, 1.0
    path = Path.of(np.cumsum(rng.exponential(1, n)), np.ones(n), np.array([service_s]), np.array([service_s]))
    target = Target(latency_s=6.0)
    rate = o_fcfs(path, 1, target)
    wait_s, terms = target.latency_s - service_s, np.arange(0, 6)
    shift = rate * (wait_s - terms * service_s)
    factorial = np.array([math.factorial(i) for i in terms])
    within = (1 - rate * service_s) * float(np.sum((-shift) ** terms / factorial * np.exp(shift)))
    assert within == pytest.approx(0.95, abs=0.005)


def test_o_drop_abandons_exactly_the_share_that_may_be_late() -> None:
    """Queries at one instant: those that are kept must all fit into one target."""
    arrival_s = np.full(100, 1.0)
    one = np.array([1.0])
    for slots, rate in ((95, np.inf), (94, 0.0)):
        path = Path.of(arrival_s, np.ones(100), one, one)
        assert o_drop(path, 1, Target(latency_s=float(slots))) == rate


def test_o_drop_leaves_out_the_large() -> None:
    """4 % of the queries are most of the work: without them the others fill the server on their own."""
    n = 50_000
    rng = np.random.default_rng(4)
    size = np.where(rng.random(n) < 0.04, 100, 1)
    work = 0.01 * np.arange(1, 101)
    path = Path.of(np.cumsum(rng.exponential(1, n)), size, work, work)
    drop, fcfs = (
        o_drop(path, 1, Target(latency_s=10.0)),
        o_fcfs(path, 1, Target(latency_s=10.0)),
    )
    assert drop == pytest.approx(1 / (0.96 * 0.01), rel=0.05)
    assert fcfs < 0.3 * drop


@pytest.mark.parametrize(
    ("arrival_s", "size", "message"),
    [
        ([1.0, 0.5], [1, 1], "rising"),
        ([-1.0, 0.5], [1, 1], "rising"),
        ([1.0], [2], "size"),
        ([1.0], [0], "size"),
        ([], [], "path"),
        ([1.0, 2.0], [1], "path"),
    ],
)
def test_bad_paths_are_refused(arrival_s: list[float], size: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Path.of(arrival_s, size, np.ones(1), np.ones(1))
