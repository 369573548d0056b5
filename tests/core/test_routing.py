"""A router's account, and that the router which simulations compile is the one that runs live."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

import numpy as np
import pytest

from deeprecsys.core.deadlines import Forecast, LateBudget
from deeprecsys.core.errors import InputError
from deeprecsys.core.routing import FEW, MOST, Kind, Router, choose
from deeprecsys.simulate.fleet import ROUTERS, run_fleet
from deeprecsys.workload.sizes import parse

WITHIN_S, QUANTILE, MACHINES, QUERIES = 0.03, 0.95, 32, 60_000


def kind(slow: float, workers: int, batch: int = 64) -> Kind:
    forecast = Forecast([slow * (0.5e-3 + n * 4e-5) for n in range(1025)], batch, False, LateBudget(0.05))
    sizes = parse("production").of(np.random.default_rng(0).random(4000), np.zeros(4000)).tolist()
    return Kind(forecast, workers, workers / float(np.mean([forecast.work_s(n) for n in sizes])))


KINDS = (kind(1.0, 16), kind(2.0, 8))
ALL_QPS = MACHINES * sum(k.capacity_qps for k in KINDS)
SIZES = parse("production").of(np.random.default_rng(1).random(QUERIES), np.zeros(QUERIES))
UNIT_S = np.cumsum(np.random.default_rng(2).exponential(size=QUERIES))


def late(router: str, load: float, weights: tuple[float, float] | None = None) -> float:
    """The share of late queries on 64 machines of two kinds, one four times as fast as the other."""
    log = run_fleet(
        KINDS, [MACHINES] * 2, UNIT_S / (load * ALL_QPS), SIZES, router, within_s=WITHIN_S, weights=weights
    )
    return float((log.latency_s[QUERIES // 5 :] > WITHIN_S).mean())


def test_it_carries_more_than_the_best_weighted_split() -> None:
    """By weights, 0.943 of what all workers can do is the most (at 4.2 : 1, a search over twelve found)."""
    assert late("weighted", 0.97, (4.2, 1.0)) > 1 - QUANTILE
    assert late("power of two", 0.85) > 1 - QUANTILE
    assert late("round robin", 0.5) > 1 - QUANTILE
    assert late("completion", 0.97) < 0.01


def test_the_live_router_makes_the_choices_of_the_simulated_one() -> None:
    count, arrival_s = 4000, UNIT_S[:4000] / (0.9 * ALL_QPS)
    log = run_fleet(KINDS, [MACHINES] * 2, arrival_s, SIZES[:count], within_s=WITHIN_S, seed=5)
    draws: Iterator[float] = iter(np.random.default_rng(5).random((count, MOST)).ravel().tolist())
    router = Router(KINDS, [0] * MACHINES + [1] * MACHINES, lambda: next(draws))
    open_: list[tuple[float, int, int]] = []
    for i, (at_s, items) in enumerate(zip(arrival_s.tolist(), SIZES[:count].tolist(), strict=True)):
        while open_ and open_[0][0] <= at_s:
            router.completed(*heapq.heappop(open_)[1:])
        m = router.route(items, WITHIN_S)
        assert m == log.machine[i], i
        heapq.heappush(open_, (at_s + float(log.latency_s[i]), m, items))


def test_more_machines_are_looked_at_only_while_none_is_in_time() -> None:
    kinds, speed, alone = [0] * 5, [1.0] * 5, [0.01]
    ahead = [0.5, 0.4, 0.3, 0.2, 0.0]
    assert choose(range(5), FEW, kinds, ahead, speed, alone, 1.0) == 2
    assert choose(range(5), FEW, kinds, ahead, speed, alone, 0.25) == 3, "the first that is in time"
    assert choose(range(5), FEW, kinds, ahead, speed, alone, 0.005) == 4, "none is: the least late"


def test_what_others_send_is_known_from_the_headroom() -> None:
    one = Kind(KINDS[0].forecast, 4, 100.0)
    uniform = np.random.default_rng(3).random
    router = Router([one], [0, 0], uniform)
    router.reported(0, headroom=0.1, own_share=0.3)  # others use six tenths
    sent = [router.route(64, math.inf) for _ in range(3000)]
    work_s = router._ahead_s
    assert work_s[1] / work_s[0] == pytest.approx(1 / 0.4, rel=0.05)
    for m in sent:
        router.completed(m, 64)
    assert router._ahead_s == [0.0, 0.0]


def test_an_unknown_router_is_refused() -> None:
    with pytest.raises(InputError, match="router"):
        run_fleet(KINDS, [1, 1], UNIT_S[:2], SIZES[:2], "nearest")
    assert "completion" in ROUTERS
