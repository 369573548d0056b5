"""When a capacity is sustained: one rule, for `tune`, `capacity` and `serve`.

A rate is *sustained* if it met the target in one uninterrupted run that was long enough (`planned_s`), whose
latency did not rise, and the interval of whose miss rate lies below what the target allows.
docs/design/0020-sustained.md has the reasoning, and `benchmarks/search/sustained.py` what the rule accepts
and rejects.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.runlog import RunLog, summarise
from deeprecsys.core.target import Target
from deeprecsys.search.intervals import dispersion, miss_bounds

LEAST_S, LEAST_QUERIES, RELAXATIONS = 60.0, 5000, 30.0
"""The least length of a run, in seconds, in queries, and in relaxation times of the queue."""
PLANNED = 120.0
"""Relaxation times of a run that can decide: with fewer than 59 no interval lies below 5 %, as a run is worth
no more independent queries than these."""
CONFIDENCE = 0.9
"""Confidence of the interval of the miss rate, two-sided: its upper end is too low in 5 % of runs."""
PARTS = 50
"""Parts of a run over which the variability of the work that arrives is taken."""
DISPERSION_BLOCKS, BLOCKS = 20, 10
"""Blocks of a run by which its misses are seen to come in clumps, and whose mean latencies are tested for a
trend."""
RISING = 2.33
"""Standard deviations of Kendall's S above which latencies rise: one-sided, 1 %."""
LAG = 0.4
"""The highest correlation of neighbouring blocks that the test for a trend allows for."""
RISE = 0.05
"""Share of the target below which the rise of the latency over a run does not matter."""


class Holding(StrEnum):
    """What a run says of a rate."""

    SUSTAINED = "sustained"
    NOT_MET = "not met"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Sustained:
    """One uninterrupted run, judged.

    Attributes:
        seconds, queries: offered.
        relaxation_times: of the queue at that load, in the run; 0 where the workers could not follow, None
            where there was no one run.
        trend: standard deviations by which the latencies of successive blocks rise (Mann and Kendall).
        rising: whether they rise by more than chance, and by an amount that matters.
        miss_rate, miss_low, miss_high: share of late queries after the warm-up, and its interval.
        lacks: what is missing to `sustained`, in words.
    """

    verdict: Holding
    seconds: float
    queries: int
    relaxation_times: float | None
    trend: float | None
    rising: bool
    miss_rate: float
    miss_low: float
    miss_high: float
    lacks: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        return self.verdict is Holding.SUSTAINED

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "seconds": self.seconds,
            "queries": self.queries,
            "relaxation_times": self.relaxation_times,
            "trend": self.trend,
            "rising": self.rising,
            "miss_rate": self.miss_rate,
            "miss_interval": [self.miss_low, self.miss_high],
            "lacks": list(self.lacks),
        }


def relaxation_s(utilisation: float, work_s: float, variability: float, workers: int) -> float:
    """Seconds in which a queue of c workers forgets how it began: 2 ρ (c_a² + c_s²) E[S] / (c (1 - ρ)²).

    The relaxation time of reflected Brownian motion, 2 σ² / m², for the work per worker of a G/G/c queue in
    heavy traffic: drift m = 1 - ρ, variance σ² = ρ (c_a² + c_s²) E[S] / c (Harrison, Brownian Motion and
    Stochastic Flow Systems; Whitt, Management Science 35, 1989). Of M/M/1, where it is known, this is 5 %
    short at a utilisation of 90 %. Infinite where the workers cannot follow.

    Args:
        utilisation: ρ, of all workers.
        work_s: E[S], worker-seconds of a query.
        variability: c_a² + c_s², of the gaps between arrivals and of the work of a query.
        workers: c.
    """
    if utilisation >= 1:
        return inf
    return 2 * utilisation * variability * work_s / (workers * (1 - utilisation) ** 2)


def relaxation_of(log: RunLog) -> float:
    """The relaxation time of the queue of a run, live or simulated, in seconds.

    Utilisation and work are those of its batches; the work of a query is taken as proportional to its items,
    which for a batch time that grows with the batch is at least its variability.
    """
    n = len(log.arrival_s)
    if n < 2 * PARTS:
        return inf
    busy_s = log.busy_s if log.occupied_s is None else log.occupied_s
    span_s = float(log.arrival_s[-1])
    return relaxation_s(
        busy_s / (log.workers * span_s), busy_s / n, variability(log.arrival_s, log.size), log.workers
    )


def variability(arrival_s: NDArray[np.float64], size: NDArray[np.int32]) -> float:
    """c_a² + c_s² of a load: of gaps and sizes, or, where gaps or sizes come in clumps, the index of
    dispersion of the work that arrives in parts of the load (Fendick and Whitt, Proc. IEEE 77, 1989)."""
    gaps = np.diff(arrival_s)
    apart = float(gaps.var() / gaps.mean() ** 2 + size.var() / size.mean() ** 2)
    edges = np.linspace(arrival_s[0], arrival_s[-1], PARTS + 1)
    work, _ = np.histogram(arrival_s, edges, weights=size)
    clumped = float(work.var(ddof=1) / work.mean() / size.mean())
    return max(apart, clumped)


def planned_s(log: RunLog) -> float:
    """How long a run is to be at the load of a run, usually a simulated one: seconds, infinite at
    saturation."""
    return max(LEAST_S, LEAST_QUERIES / log.rate_qps, PLANNED * relaxation_of(log))


def trend(latency_s: NDArray[np.float64]) -> tuple[float, float]:
    """How much the latencies of a run rise: standard deviations of Kendall's S, and seconds over the run.

    Mann and Kendall's test of the means of blocks, its variance raised by what correlation neighbouring
    blocks have besides the trend.
    """
    if len(latency_s) < 2 * BLOCKS:
        return 0.0, 0.0
    means = np.array([part.mean() for part in np.array_split(latency_s, BLOCKS)])
    later, earlier = np.triu_indices(BLOCKS, 1)[::-1]
    score = float(np.sign(means[later] - means[earlier]).sum())
    slope = float(np.median((means[later] - means[earlier]) / (later - earlier)))  # Theil and Sen
    ranks = np.argsort(np.argsort(means - slope * np.arange(BLOCKS))).astype(float)
    gaps = ranks - ranks.mean()
    lag = min(max(float(gaps[1:] @ gaps[:-1] / (gaps @ gaps)), 0.0), LAG)
    deviation = sqrt(BLOCKS * (BLOCKS - 1) * (2 * BLOCKS + 5) / 18 * (1 + lag) / (1 - lag))
    return score / deviation, slope * (BLOCKS - 1)


def sustained(log: RunLog, target: Target) -> Sustained:
    """What one uninterrupted run says of its rate.

    Batch means alone take too small an interval from a run in which few queries were late: there the misses
    show little of how they clump. A run is therefore worth no more independent queries than it has relaxation
    times.
    """
    summary, latency = summarise(log, target), log.latency_s[log.measured]
    seconds, queries = float(log.arrival_s[-1]) if len(log.arrival_s) else 0.0, len(log.arrival_s)
    relaxation = relaxation_of(log)
    times = seconds / relaxation if relaxation > 0 else inf
    missed = summary.miss_rate if summary.measured else 1.0
    worth = min(summary.measured / dispersion(latency, target.latency_s, DISPERSION_BLOCKS), times)
    low, high = miss_bounds(missed, worth, CONFIDENCE)
    met = summary.meets(target)
    z, rise_s = trend(latency) if met else (0.0, 0.0)
    rising = z > RISING and rise_s > RISE * target.latency_s
    # A load drawn for 60 s has its last arrival a little before.
    wanted = {
        f"{LEAST_S:.0f} s": seconds + 10 * seconds / max(queries, 1) >= LEAST_S,
        f"{LEAST_QUERIES:,} queries": queries >= LEAST_QUERIES,
        f"{RELAXATIONS:.0f} relaxation times": times >= RELAXATIONS,
        "a latency that does not rise": not rising,
        "an interval below the allowed miss rate": high < target.miss_rate,
    }
    lacks = tuple(words for words, given in wanted.items() if not given) if met else ()
    verdict = Holding.NOT_MET if not met else Holding.UNDECIDED if lacks else Holding.SUSTAINED
    return Sustained(verdict, seconds, queries, times, z, rising, missed, low, high, lacks)
