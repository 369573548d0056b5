"""A fleet's day: its load, its routers, and that windows stand for the day."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import DeepRecSched
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.paper.fleet_day import DAY_S, MachineKind, Pool, day, handfuls
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.table import Tabulated
from deeprecsys.workload.arrivals import Diurnal
from tests.search.queues import wait_tail

SERVICE_S = 0.01


def constant(seconds: float = SERVICE_S) -> Tabulated:
    return Tabulated(LatencyProfile("x", (Point(1, 1, (seconds,)),)))


def pool(load: float = 0.6, machines: int = 4, workers: int = 2, span_s: float = 40.0) -> Pool:
    kind = MachineKind("a", constant(), workers, DeepRecSched(1), machines)
    return Pool("x", (kind,), load * machines * workers / SERVICE_S, np.ones(1, np.int32), span_s)


def test_a_flat_day_of_random_routes_is_m_d_c() -> None:
    log = day(pool(0.8, span_s=100.0), windows=4, diurnal=Diurnal(1.0, DAY_S), router="random", seed=1)
    waited = log.quantile_s(0.95) / SERVICE_S - 1
    assert wait_tail(1.6, 2, waited) == pytest.approx(0.05, rel=0.15)
    assert log.utilisation.mean() == pytest.approx(0.8, rel=0.02)


def test_the_load_follows_the_day() -> None:
    log = day(pool(0.5), windows=12, diurnal=Diurnal(2.5, DAY_S))
    by_window = np.bincount(log.window, minlength=12)
    assert by_window.max() / by_window.min() == pytest.approx(2.4, rel=0.1)
    assert np.argmin(by_window) in (0, 11)


def test_windows_stand_for_the_day() -> None:
    """Against one long run of a day so short that it can be run whole, yet long for the queue."""
    day_s = 20_000.0
    rate = 0.6 * 2 / SERVICE_S
    at = Diurnal(2.5, day_s).times(np.random.default_rng(3), rate, int(rate * day_s))
    whole = run(DeepRecSched(1), at, np.ones(len(at), np.int32), constant(), 2)
    sampled = day(pool(machines=10, span_s=100.0), windows=24, router="random", seed=2)
    for q in (0.95, 0.99):
        assert sampled.quantile_s(q) == pytest.approx(
            float(np.quantile(whole.latency_s, q, method="inverted_cdf")), rel=0.05
        )


def test_routers_that_know_more_wait_less() -> None:
    fast, slow = (
        MachineKind("fast", constant(), 4, DeepRecSched(1), 2, 4.0),
        MachineKind("slow", constant(), 1, DeepRecSched(1), 2),
    )
    p = Pool("x", (fast, slow), 0.7 * 10 / SERVICE_S, np.ones(1, np.int32), 30.0)
    p95 = {r: day(p, windows=4, router=r).quantile_s(0.95) for r in ("random", "weighted", "least-loaded")}
    assert p95["least-loaded"] < p95["weighted"] < p95["random"]


def test_a_slower_machine_is_the_usual_one_on_a_slower_clock() -> None:
    log = day(pool(0.3, machines=200, span_s=2.0), windows=2, variation=0.2, seed=5)
    least = [log.latency_s[log.machine == m].min() for m in range(200)]
    assert np.std(np.log(least)) == pytest.approx(0.2, rel=0.15)
    assert np.exp(np.mean(np.log(least))) == pytest.approx(SERVICE_S, rel=0.05)


def test_policies_that_share_a_seed_meet_the_same_queries() -> None:
    a, b = day(pool(), seed=4), day(pool(), seed=4)
    assert np.array_equal(a.latency_s, b.latency_s)
    assert not np.array_equal(a.latency_s, day(pool(), seed=5).latency_s)


def test_all_machines_are_their_own_handful() -> None:
    log = day(pool(machines=3), windows=2)
    assert np.all(handfuls(log, 3, 0.95, 5) == 0)
    assert np.any(handfuls(log, 1, 0.95, 20) != 0)


@pytest.mark.parametrize("change", [{"windows": 0}, {"router": "nearest"}])
def test_bad_input_is_refused(change: dict) -> None:
    with pytest.raises(InputError):
        day(pool(), **change)
