"""Trials for the tests of the report: the dispatcher in virtual time, every batch's times kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deeprecsys.core.events import Command, Event, Finish, Start
from deeprecsys.core.policy import Policy, Static
from deeprecsys.core.runlog import RunLog
from deeprecsys.report.slices import BatchTimes
from deeprecsys.simulate.driver import ServiceTimes, simulate


def batch_s(items: int, busy: int, u: float) -> float:
    """A batch time with contention and a tail, seconds."""
    return (0.4e-3 + 30e-6 * items) * (1 + 0.1 * busy) * (1 + 0.3 * u + (4.0 if u > 0.998 else 0.0))


def run(
    arrival_s: list[float] | np.ndarray,
    size: list[int] | np.ndarray,
    policy: Policy | None = None,
    workers: int | dict[str, int] = 2,
    service: ServiceTimes = batch_s,
    seed: int = 0,
    warmup_s: float = 0.0,
) -> tuple[RunLog, list[BatchTimes]]:
    """One trial, and the times of its batches as a node would have recorded them."""
    posted: dict[int, float] = {}
    batches: list[BatchTimes] = []

    def watch(event: Event, now_s: float, commands: list[Command]) -> None:
        if isinstance(event, Finish):
            batches.append((event.batch, posted[event.batch.id], posted[event.batch.id], now_s, now_s))
        posted.update({c.batch.id: now_s for c in commands if isinstance(c, Start)})

    log = simulate(
        policy or Static(64), arrival_s, size, service, workers, seed=seed, warmup_s=warmup_s, observe=watch
    )
    return log, batches


def poisson(
    rate_qps: float, duration_s: float, seed: int = 0, policy: Policy | None = None, workers: int = 2
) -> tuple[RunLog, list[BatchTimes]]:
    """A trial under Poisson arrivals and heavy-tailed sizes."""
    rng = np.random.default_rng(seed)
    n = max(1, int(rate_qps * duration_s))
    arrival = np.cumsum(rng.exponential(1 / rate_qps, n))
    size = np.minimum(1000, np.ceil(rng.lognormal(4.6, 0.7, n))).astype(int)
    log, batches = run(arrival, size, policy, workers, seed=seed, warmup_s=0.1 * duration_s)
    return replace(log, rate_qps=rate_qps), batches
