"""Rank policies in virtual time, by their capacity on one sample path.

A simulator can run the same queries at any rate, so two policies differ by what they do and by nothing else.
That ranks candidates with a tenth of the queries that an interval for each would take; the interval is
then found for the best alone (`search.capacity`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.query import Query, cut
from deeprecsys.core.runlog import RunLog
from deeprecsys.core.target import Target, percentile
from deeprecsys.search.events import Cost
from deeprecsys.search.history import UNREACHABLE, Evaluation, Score, Search

TOLERANCE = 2e-3
"""Relative width of the last bracket of a capacity on a path."""
MOST_STEPS = 60
IDLE_SHARE = 0.01
"""Share of the hinted rate at which nothing queues."""


PathTrial = Callable[[Policy, float], RunLog]
"""Runs one sample path, always the same, at any rate, in virtual time."""


def capacity_on_path(
    meets: Callable[[float], bool],
    hint_qps: float,
    *,
    floor_qps: float | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """The highest rate at which the target is met, to a relative `tolerance`; 0 where there is none.

    Args:
        meets: whether the path at a rate meets the target with every query served. Latencies are taken to
            grow with the rate; where a policy makes them dip, one of the crossings is found.
        hint_qps: about where to look.
        floor_qps: a rate worth beating: 0 is returned at once for a policy that does not meet the target
            there.
    """
    positive("hint", hint_qps)
    if floor_qps is not None and not meets(floor_qps):
        return 0.0
    low = floor_qps or 0.0
    high = max(hint_qps, low * (1 + 4 * tolerance))
    for _ in range(MOST_STEPS):
        if not meets(high):
            break
        low, high = high, high * 1.25
    while low == 0.0:
        rate = high / 1.25
        if meets(rate):
            low = rate
        elif rate < 1e-4 * hint_qps:
            return 0.0
        else:
            high = rate
    while high - low > tolerance * low:
        middle = sqrt(low * high)
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low


class Ranking:
    """Capacities on one sample path, and their cost. A policy at a rate is run once.

    Args:
        path: runs the path.
        target: what to meet.
        hint_qps: about what the node can do.
    """

    def __init__(self, path: PathTrial, target: Target, hint_qps: float) -> None:
        self._path, self._target, self._hint_qps = path, target, positive("hint", hint_qps)
        self._met: dict[tuple[Policy, float], bool] = {}
        self.best_latency_s = inf
        self.cost = Cost()

    def finish(self, search: Search) -> None:
        """Run what the search asks for, to its end."""
        while (policy := search.ask()) is not None:
            search.tell(policy, self.score(policy, search.floor_qps))

    def score(self, policy: Policy, floor_qps: float | None = None) -> Score:
        """The capacity on the path, or that there is none, or none above the floor."""

        def meets(rate_qps: float) -> bool:
            if (policy, rate_qps) not in self._met:
                self._met[policy, rate_qps] = self._run(policy, rate_qps).carries(self._target)
            return self._met[policy, rate_qps]

        found = capacity_on_path(meets, self._hint_qps, floor_qps=floor_qps)
        if found:
            return Score.exactly(found)
        if floor_qps is not None:
            return Score.below(floor_qps)
        idle = self._run(policy, IDLE_SHARE * self._hint_qps)
        latency_s = percentile(idle.latency_s[idle.measured], self._target.quantile)
        self.best_latency_s = min(self.best_latency_s, latency_s)
        return UNREACHABLE

    def _run(self, policy: Policy, rate_qps: float) -> RunLog:
        log = self._path(policy, rate_qps)
        self.cost = self.cost.with_trial(len(log.size) / rate_qps, len(log.size))
        return log


def rank(ranking: Ranking, search: Search, first: Policy) -> Evaluation:
    """Run a search in virtual time to its end, from a policy that is known: the evaluation of that policy.

    The best policy is `search.best`.
    """
    known = Evaluation(first, ranking.score(first))
    search.tell(known.policy, known.score)
    ranking.finish(search)
    return known


def mean_work_s(profile: LatencyProfile, batch_size: int, sizes: NDArray[np.int32], busy: int) -> float:
    """Mean worker-seconds per query, cut at `batch_size`, while `busy` workers are busy.

    Args:
        sizes: a sample of query sizes.
    """
    values, counts = np.unique(sizes, return_counts=True)
    work = [
        sum(profile.seconds(s.items, busy) for s in cut(Query(0, int(n), 0.0), batch_size)) for n in values
    ]
    return float(np.average(work, weights=counts))


def saturation_qps(profile: LatencyProfile, batch_size: int, sizes: NDArray[np.int32], workers: int) -> float:
    """The rate at which all workers would be busy all the time: workers / E[work] (docs/facts.md §6.1)."""
    return workers / mean_work_s(profile, batch_size, sizes, workers)
