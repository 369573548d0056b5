"""Trials, scores and landscapes made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.lib.searches import Sweep
from deeprecsys.core.policy import DeepRecSched, Policy
from deeprecsys.core.runlog import RunLog, Status, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.search.history import Score, Search

TARGET = Target(latency_s=0.1)


def log(
    rate_qps: float, duration_s: float, latency_s: Callable[[int], np.ndarray], busy: float = 0.5
) -> RunLog:
    """A run log of evenly spaced queries with the given latencies."""
    arrival = np.arange(max(int(rate_qps * duration_s), 1)) / rate_qps
    finish = arrival + latency_s(len(arrival))
    n = len(arrival)
    return RunLog(
        rate_qps=rate_qps,
        arrival_s=arrival,
        size=np.ones(n, dtype=np.int32),
        issued_s=arrival,
        start_s=arrival,
        finish_s=finish,
        status=np.full(n, Status.SERVED, dtype=np.uint8),
        busy_s=busy * duration_s,
        workers=1,
        warmup_s=warmup_s(duration_s, TARGET),
    )


class Cliff:
    """A node that meets the target up to `qps(policy)` and fails beyond, with independent misses."""

    def __init__(self, qps: Callable[[Policy], float], slope: float = 25.0) -> None:
        self.qps, self.slope = qps, slope
        self.ran: list[tuple[Policy, float, float, int]] = []

    def __call__(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        self.ran.append((policy, rate_qps, duration_s, seed))
        odds = 0.05 / 0.95 * (rate_qps / self.qps(policy)) ** self.slope
        miss = odds / (1 + odds)
        rng = np.random.default_rng([seed, int(rate_qps * 1e6) % 2**31])

        def latency(n: int) -> np.ndarray:
            return np.where(rng.random(n) < miss, 0.2, 0.05 * rng.random(n))

        return log(rate_qps, duration_s, latency, busy=min(rate_qps / self.qps(policy) * 0.8, 1.0))


def late(record: RunLog, by_s: float) -> RunLog:
    """The same trial, its source late."""
    return replace(record, issued_s=record.arrival_s + by_s)


def shed(record: RunLog, number: int) -> RunLog:
    """The same trial, its last queries shed."""
    status, finish = record.status.copy(), record.finish_s.copy()
    status[-number:], finish[-number:] = Status.SHED, np.nan
    return replace(record, status=status, finish_s=finish)


def drive(
    search: Search,
    qps: Callable[[Any], float],
    noise: float = 0.0,
    seed: int = 0,
    half: float = 0.02,
) -> list[Policy]:
    """Run a search over a landscape; what it asked for, in order."""
    rng = np.random.default_rng(seed)
    asked = []
    while (policy := search.ask()) is not None:
        assert search.ask() == policy, "asking changes nothing"
        asked.append(policy)
        found = qps(policy) * float(np.exp(noise * rng.standard_normal()))
        floor = search.floor_qps
        if floor is not None and found * (1 + half) < floor:
            search.tell(policy, Score(None, 0.0, floor))
        else:
            search.tell(policy, Score(found, found * (1 - half), found * (1 + half)))
        assert len(asked) < 1000
    return asked


def grid(batch_sizes, thresholds=()):
    """A sweep over all batch sizes on the CPU, then each with every offload threshold."""
    sizes = list(batch_sizes)
    return Sweep([*map(DeepRecSched, sizes), *(DeepRecSched(b, n) for b in sizes for n in thresholds)])
