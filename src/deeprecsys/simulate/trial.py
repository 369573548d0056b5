"""Trials in virtual time: a seeded load at a rate, and one path of queries at any rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy import Policy
from deeprecsys.core.runlog import RunLog, Status, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.simulate.driver import Services
from deeprecsys.simulate.fast import run

ENOUGH = 200
"""Fewer queries than this show nothing of the long run."""
_SPREAD = 0x5E41  # the random stream of service times, apart from that of the load

Load = tuple[NDArray[np.float64], NDArray[np.int32]]
"""Rising arrivals in seconds, and sizes in items."""


VirtualLoad = Callable[[float, float, int], Load]
"""A seeded source: the queries that arrive at a rate before a time in seconds. One seed is one path, scaled
to the rate."""
PathLoad = Callable[[float], Load]
"""The queries of one path, arriving at a rate."""


@dataclass(frozen=True)
class VirtualNode:
    """Workers whose batch times come from a profile; calling it runs a trial (`search.probes.Trial`).

    Attributes:
        service: batch times, for all devices or for each.
        load: where the queries come from.
        target: sets the warm-up.
    """

    service: Services
    workers: int | Mapping[str, int]
    load: VirtualLoad
    target: Target | None = None

    def __call__(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        spread = int(np.random.SeedSequence([seed, _SPREAD]).generate_state(1)[0])
        return run(
            policy, *self.load(rate_qps, duration_s, seed), self.service, self.workers,
            rate_qps=rate_qps, seed=spread, warmup_s=warmup_s(duration_s, self.target),
        )  # fmt: skip


@dataclass(frozen=True)
class SamplePath:
    """One path of queries on one node, at any rate; calling it runs it (`search.rank.PathTrial`).

    Attributes:
        service: batch times, for all devices or for each.
        load: the queries.
        target: sets the warm-up.
        seed: of the spread of batch times, the same for all policies and rates.
    """

    service: Services
    workers: int | Mapping[str, int]
    load: PathLoad
    target: Target | None = None
    seed: int = 0

    def __call__(self, policy: Policy, rate_qps: float) -> RunLog:
        arrival_s, size = self.load(rate_qps)
        return run(
            policy, arrival_s, size, self.service, self.workers,
            rate_qps=rate_qps, seed=self.seed, warmup_s=warmup_s(float(arrival_s[-1]), self.target),
        )  # fmt: skip


def stable(log: RunLog) -> bool | None:
    """Whether the workers could follow the arrivals of a run in virtual time.

    Unstable is a load (`RunLog.load`) of 1 or more whose last quarter of queries waited clearly longer than
    its second: bursts may bring a load above 1 for a while, and a line near saturation grows now and then,
    but not from quarter to quarter without end. None where the run is too short to tell.
    """
    if len(log.arrival_s) < ENOUGH:
        return None
    shed = bool((log.status == Status.SHED).any())
    waits = np.array([float(np.nanmean(part)) for part in np.array_split(log.start_s - log.arrival_s, 4)])
    grew = bool(waits[3] > 1.5 * waits[1] and waits[3] > waits[2])
    return not (log.load >= 1.0 and (grew or shed))
