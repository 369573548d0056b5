"""What a trial shows of the true miss rate, and whether the machine ran at its own speed meanwhile.

One late query makes late neighbours, so n queries are worth n / d independent ones, d being the dispersion.
On shared hardware other work can halve a core's speed for seconds. The same policy at about the same rate
does the same work, so the time per item shows such a trial. docs/design/0003-capacity-search.md has the
reasoning.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCKS = 10
"""A trial is cut into this many blocks of consecutive queries (batch means)."""
FEW_MISSES = 10
"""With fewer misses than this their own clustering shows nothing: that of the latencies stands for it."""
MOST_LAG = 0.6
"""The highest correlation of neighbouring blocks that is allowed for."""
SLOW = 1.15
"""Times the median time per item of comparable trials: above it a trial was slowed down from outside."""
NEAR = 0.15
"""Trials are comparable if their rates differ by less than this, relative."""
LEAST = 3
"""The least number of comparable trials."""


def dispersion(latency_s: NDArray[np.float64], target_s: float, most: int = BLOCKS) -> float:
    """How many queries of a trial are worth one independent one, from 1 to a block's length.

    The variance of block means over what it would be if queries were independent, times a factor for what
    correlation is left between neighbouring blocks (Law and Kelton, batch means).

    Args:
        latency_s: latencies in order of arrival, seconds; infinite where unserved.
        target_s: a query later than this is a miss.
        most: blocks; more where the trial is longer than that many times what its queue remembers.
    """
    n = len(latency_s)
    blocks = min(most, n // 2)
    if blocks < 2:
        return 1.0
    missed = latency_s > target_s
    x = missed.astype(float) if missed.sum() >= FEW_MISSES else np.minimum(latency_s, 3 * target_s)
    length = n // blocks
    means = x[n - blocks * length :].reshape(blocks, length).mean(axis=1)
    variance = float(x.var())
    if variance <= 0:  # all alike: beyond what can be seen if all are late, else no dependence to speak of
        return n / blocks if missed.all() else 1.0
    gaps = means - means.mean()
    square = float(gaps @ gaps)
    lag = min(max(float(gaps[1:] @ gaps[:-1]) / square, 0.0), MOST_LAG) if square > 0 else 0.0
    ratio = length * square / (blocks - 1) / variance * (1 + lag) / (1 - lag)
    return float(min(max(ratio, 1.0), n / blocks))


def miss_bounds(miss_rate: float, worth: float, confidence: float) -> tuple[float, float]:
    """Two-sided interval of a miss rate seen in a sample worth `worth` independent queries.

    Clopper and Pearson's, which never covers less than it says, for a count that need not be whole.
    """
    from scipy.special import betaincinv  # a tenth of what a command takes to start

    tail = (1 - confidence) / 2
    late, good = miss_rate * worth, (1 - miss_rate) * worth
    low = float(betaincinv(late, good + 1, tail)) if late > 0 else 0.0
    high = float(betaincinv(late + 1, good, 1 - tail)) if good > 0 else 1.0
    return low, high


def student(confidence: float, degrees: float) -> float:
    """Two-sided quantile of Student's t."""
    from scipy.special import stdtrit  # a tenth of what a command takes to start

    return float(stdtrit(max(degrees, 1.0), 0.5 + confidence / 2))


class Pace(NamedTuple):
    """A trial's rate, and its worker-seconds per item; nan where those are not known."""

    rate_qps: float
    seconds_per_item: float


def slow(one: Pace, others: Iterable[Pace]) -> bool:
    """Whether a trial's items took clearly longer than those of other trials at about its rate."""
    like = [p.seconds_per_item for p in others if abs(log(p.rate_qps / one.rate_qps)) < NEAR]
    return len(like) >= LEAST and one.seconds_per_item > SLOW * float(np.median(like))
