"""The rate at which the miss rate crosses what the target allows, estimated from all trials together.

Near the crossing the logarithm of a queue's tail is close to linear in the load (the decay rate of
P(W > t) is; Asmussen, Applied Probability and Queues, ch. XIII), so the logit of the miss rate is taken as
linear in log rate, and trials far from the crossing count for less. The interval is the set of rates that
a quasi-likelihood ratio does not reject: it stays honest when no trial missed, or all did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.tune.interval import BLOCKS, student

# A weak prior on the slope d logit(miss) / d log(rate), which two far-apart trials cannot tell: an M/G/1
# whose tail is 5 % has log(20) / (1 - utilisation), so 3 at least, and 300 at a utilisation of 99 %.
SLOPE, SLOPE_SPREAD = 20.0, 1.2
SLOPES = (1.5, 1500.0)
REACH = 2.5
"""Trials whose fitted logit is further than this from the crossing's count for less than half."""
FREE = 3.0
"""Degrees of freedom lent to the belief that blocks show all the scatter there is; few trials cannot tell."""
GRID_X, GRID_SLOPE, ZOOMS = 121, 31, 4

Array = NDArray[np.float64]


class Sample(NamedTuple):
    """What one trial showed."""

    rate_qps: float
    miss_rate: float
    queries: float
    dispersion: float


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where the miss rate crosses what is allowed."""

    rate_qps: float
    low_qps: float
    high_qps: float
    slope: float
    """d logit(miss rate) / d log(rate)."""
    trials: float
    """The sum of the weights: how many trials near the crossing there were."""
    weight: Array
    """Of each sample, between 0 and 1."""

    @property
    def half_width(self) -> float:
        """Of the interval, relative: half the logarithm of its ratio."""
        return (self.lower_gap + self.upper_gap) / 2

    @property
    def lower_gap(self) -> float:
        """How far the interval reaches below the crossing, relative."""
        return float(np.log(self.rate_qps / self.low_qps)) if self.low_qps > 0 else float("inf")

    @property
    def upper_gap(self) -> float:
        """How far the interval reaches above the crossing, relative."""
        return float(np.log(self.high_qps / self.rate_qps))


def crossing(samples: Sequence[Sample], allowed: float, confidence: float) -> Crossing:
    """Fit all trials of one policy.

    Args:
        samples: at least one; two sides of the crossing should be among them.
        allowed: the miss rate at the crossing.
        confidence: of the interval, two-sided.
    """
    x, m, n, d = (np.array(column, dtype=float) for column in zip(*samples, strict=True))
    x = np.log(x)
    weight = np.ones(len(x))
    centre, slope, low, high = _fit(x, m, n / np.maximum(d, 1), allowed, 4.0)
    for _ in range(2):
        weight = 1 / (1 + (slope * (x - centre) / REACH) ** 4)
        spread = float(np.average(d, weights=weight * n))
        worth = weight * n / max(spread, 1.0)
        # Trials are independent of each other, so their scatter about the fit shows what blocks cannot.
        p = _expit(np.log(allowed / (1 - allowed)) + slope * (x - centre))
        p = np.clip(p, allowed / 4, 1 - allowed / 4)
        excess = float((worth * (m - p) ** 2 / (p * (1 - p))).sum())
        free = max(float(weight.sum()) - 2, 0.0)
        scatter = max(1.0, (excess + FREE) / (free + FREE))
        t = student(confidence, (BLOCKS - 1) * float(weight.sum()))
        centre, slope, low, high = _fit(x, m, worth / scatter, allowed, t * t)
    return Crossing(
        float(np.exp(centre)), float(np.exp(low)), float(np.exp(high)), slope, float(weight.sum()), weight
    )


def _expit(eta: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(eta / 2)))


def _fit(
    x: Array, m: Array, worth: Array, allowed: float, threshold: float
) -> tuple[float, float, float, float]:
    """Best centre and slope, and the interval of the centre, on a grid that is refined around them."""
    base = np.log(allowed / (1 - allowed))
    lo, hi = float(x.min()) - 1.0, float(x.max()) + 1.0
    slope_lo, slope_hi = np.log(SLOPES[0]), np.log(SLOPES[1])
    for _ in range(ZOOMS):
        centres = np.linspace(lo, hi, GRID_X)
        slopes = np.linspace(slope_lo, slope_hi, GRID_SLOPE)
        eta = base + np.exp(slopes)[None, :, None] * (x[None, None, :] - centres[:, None, None])
        loss = np.logaddexp(0, eta) - m * eta  # -log likelihood of one query
        deviance = 2 * loss @ worth + ((slopes - np.log(SLOPE)) / SLOPE_SPREAD)[None, :] ** 2
        best = np.unravel_index(int(deviance.argmin()), deviance.shape)
        inside = deviance <= deviance[best] + threshold
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        low, high = centres[rows[0]], centres[rows[-1]]
        open_low, open_high = rows[0] == 0, rows[-1] == GRID_X - 1
        step, slope_step = centres[1] - centres[0], slopes[1] - slopes[0]
        lo, hi = low - step, high + step
        slope_lo = max(slopes[columns[0]] - slope_step, np.log(SLOPES[0]))
        slope_hi = min(slopes[columns[-1]] + slope_step, np.log(SLOPES[1]))
    return (
        float(centres[best[0]]),
        float(np.exp(slopes[best[1]])),
        -np.inf if open_low else float(lo),
        np.inf if open_high else float(hi),
    )
