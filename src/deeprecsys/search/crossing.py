"""The rate at which the miss rate crosses what the target allows, estimated from all trials together.

The logit of the miss rate is taken as linear in log rate (Asmussen, Applied Probability and Queues, XIII).
In trials that are short compared with the queue's memory it is that of reflected Brownian motion begun at 0
(Harrison, Brownian Motion and Stochastic Flow Systems, §3.6). docs/design/0003-capacity-search.md has the
reasoning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.search.intervals import BLOCKS, student

# A weak prior on the slope d logit(miss) / d log(rate), which two far-apart trials cannot tell: an M/G/1
# whose tail is 5 % has log(20) / (1 - utilisation), so 3 at least, and 300 at a utilisation of 99 %.
SLOPE, SLOPE_SPREAD = 20.0, 1.2
SLOPES = (1.5, 1500.0)
REACH = 2.5
"""Trials whose fitted logit is further than this from the crossing's count for less than half."""
OVERLOAD = 0.5
"""A trial in which more than this share was late says nothing of a steady state."""
FREE = 3.0
"""Degrees of freedom of the prior that blocks show all the scatter; few trials cannot show more."""
LONG = 300.0
"""Length (see `RateSample.end`) from which how a trial began no longer matters."""
NODES = 6
GRID_X, GRID_SLOPE, ZOOMS, FINE = 61, 17, 10, 12

Array = NDArray[np.float64]


BEYOND = 4.0
"""A crossing lies within this factor of the rates that were tried."""


class RateSample(NamedTuple):
    """What one trial showed."""

    rate_qps: float
    miss_rate: float
    queries: float
    dispersion: float
    begin: float = float("inf")
    """When its measured part began and ended, in units of the wait that the target leaves room for."""
    end: float = float("inf")


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
    """Weight of each sample, between 0 and 1."""

    @property
    def half_width(self) -> float:
        """Relative half-width of the interval: half the logarithm of its ratio."""
        return (self.lower_gap + self.upper_gap) / 2

    @property
    def lower_gap(self) -> float:
        """How far the interval reaches below the crossing, relative."""
        return float(np.log(self.rate_qps / self.low_qps)) if self.low_qps > 0 else float("inf")

    @property
    def upper_gap(self) -> float:
        """How far the interval reaches above the crossing, relative."""
        return float(np.log(self.high_qps / self.rate_qps))


def crossing(samples: Sequence[RateSample], allowed: float, confidence: float) -> Crossing:
    """Fit all trials of one policy.

    Args:
        samples: at least one; two sides of the crossing should be among them.
        allowed: the miss rate at the crossing.
        confidence: of the interval, two-sided.
    """
    x, m, n, d, begin, end = (np.array(column, dtype=float) for column in zip(*samples, strict=True))
    x = np.log(x)
    curve = _Curve(allowed, begin, end)
    weight = np.ones(len(x))
    centre, slope, low, high = _fit(x, m, n / np.maximum(d, 1), curve, 4.0)
    for _ in range(2):
        weight = curve.weight(slope * (x - centre), np.full(len(x), slope))
        for side in (x <= centre, x > centre):
            if side.any():  # nothing nearer is known: it must do
                weight[side & (np.abs(x - centre) == np.abs(x - centre)[side].min())] = 1.0
        # One dispersion for all that are not overloaded: a trial's own goes up and down with its misses.
        calm = (m < OVERLOAD) | (m == m.min())
        spread = np.where(calm, float(np.average(d[calm], weights=(weight * n)[calm] + 1e-9)), d)
        worth = weight * np.minimum(n / np.maximum(spread, 1.0), curve.most_worth(slope))
        # Trials are independent of each other, so their scatter about the fit shows what blocks cannot.
        p = curve(slope * (x - centre), np.full(len(x), slope))
        near = (p > allowed / 10) & (p < OVERLOAD)
        q = np.maximum(p, allowed / 4)
        excess = float((worth * (m - p) ** 2 / (q * (1 - q)))[near].sum())
        free = max(float(weight[near].sum()) - 2, 0.0)
        scatter = max(1.0, (excess + FREE) / (free + FREE))
        t = student(confidence, (BLOCKS - 1) * float(weight.sum()))
        centre, slope, low, high = _fit(x, m, worth / scatter, curve, t * t)
    # A fit to trials that are all far off can point anywhere: beyond what was tried it is no estimate.
    centre = float(np.clip(centre, x.min() - np.log(BEYOND), x.max() + np.log(BEYOND)))
    low, high = min(low, centre), max(high, centre)
    return Crossing(
        float(np.exp(centre)), float(np.exp(low)), float(np.exp(high)), slope, float(weight.sum()), weight
    )


class _Curve:
    """The expected miss rate of each trial.

    Args:
        allowed: the miss rate at the crossing.
        begin, end: of the measured part of each trial (see `RateSample`).
    """

    def __init__(self, allowed: float, begin: Array, end: Array) -> None:
        self._allowed = allowed
        self._end = end
        self._short = np.flatnonzero(end < LONG)
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        self._weights = weights / 2
        begin, end = begin[self._short], end[self._short]
        self._times = begin + (end - begin) * (nodes[:, None] + 1) / 2  # nodes × short trials

    def __call__(self, u: Array, slope: Array) -> Array:
        """Miss rates where the load is exp(u / slope) times that at the crossing; the last axis is trials."""
        base = np.log(self._allowed / (1 - self._allowed))
        p = 0.5 * (1 + np.tanh((base + u) / 2))
        if len(self._short):
            p = np.broadcast_to(p, np.broadcast_shapes(p.shape, slope.shape)).copy()
            each = np.broadcast_to(slope, p.shape)[..., self._short]
            p[..., self._short] = self._transient(np.broadcast_to(u, p.shape)[..., self._short], each)
        return np.asarray(np.clip(p, 1e-9, 1 - 1e-9))

    def weight(self, u: Array, slope: Array) -> Array:
        """How much each trial is to count: the straight line holds near the crossing only."""
        p = self(u, slope)
        far = np.abs(np.log(p / (1 - p)) - np.log(self._allowed / (1 - self._allowed)))
        reach = np.full(far.shape, REACH)
        reach[self._short] *= 3  # the Brownian curve holds further
        return np.asarray(1 / (1 + (far / reach) ** 4))

    def most_worth(self, slope: float) -> Array:
        """How many independent looks each trial can be: its length over what one visit above x lasts.

        Never below 1: no variable between 0 and 1 varies more than one coin does.
        """
        ask = -np.log(self._allowed)
        most = np.full(len(self._end), np.inf)
        visit = 3 / ask**2  # twice the mean sojourn above x (as clumps count), in units of x^2 / variance
        most[self._short] = np.maximum(self._end[self._short] * 2 / (slope + ask) / visit, 1.0)
        return most

    def _transient(self, u: Array, slope: Array) -> Array:
        """P(W > x), averaged over the trial, of reflected Brownian motion that began at 0.

        In units of x and of x^2 / variance the drift is -a / 2 with a the stationary exponent, P = exp(-a).
        """
        from scipy.special import ndtr  # a tenth of what a command takes to start

        ask = -np.log(self._allowed)
        a = np.clip(ask - slope * np.expm1(u / slope), -60.0, 60.0)
        pace = 2 / (slope + ask)  # variance / x, by which the slope is what it is
        total = np.zeros(a.shape)
        for weight, time in zip(self._weights, self._times, strict=True):
            root = np.sqrt(pace * time)
            total += weight * (ndtr(-1 / root - a * root / 2) + np.exp(-a) * ndtr(-1 / root + a * root / 2))
        return total


def _fit(
    x: Array, m: Array, worth: Array, curve: _Curve, threshold: float
) -> tuple[float, float, float, float]:
    """Best centre and slope, and the interval of the centre: a grid, redrawn about what fits till it is fine.

    The interval is open (infinite) on a side where it goes further than all trials by a factor of e.
    """
    ends = least, most = float(x.min()) - 1.0, float(x.max()) + 1.0
    lo, hi = ends
    slope_lo, slope_hi = log_slopes = np.log(SLOPES)
    for _ in range(ZOOMS):
        centres, slopes = np.linspace(lo, hi, GRID_X), np.linspace(slope_lo, slope_hi, GRID_SLOPE)
        steep = np.exp(slopes)[None, :, None]
        p = curve(steep * (x[None, None, :] - centres[:, None, None]), steep)
        loss = -m * np.log(p) - (1 - m) * np.log1p(-p)  # -log likelihood of one query
        deviance = 2 * loss @ worth + ((slopes - np.log(SLOPE)) / SLOPE_SPREAD)[None, :] ** 2
        best = np.unravel_index(int(deviance.argmin()), deviance.shape)
        inside = deviance <= deviance[best] + threshold
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        low, high = float(centres[rows[0]]), float(centres[rows[-1]])
        step, slope_step = (hi - lo) / (GRID_X - 1), (slope_hi - slope_lo) / (GRID_SLOPE - 1)
        if len(rows) >= FINE and (rows[0] > 0 or low <= least) and (rows[-1] < GRID_X - 1 or high >= most):
            break
        lo, hi = low - 2 * step, high + 2 * step
        slope_lo = max(slopes[columns[0]] - 2 * slope_step, log_slopes[0])
        slope_hi = min(slopes[columns[-1]] + 2 * slope_step, log_slopes[1])
    return (
        float(centres[best[0]]),
        float(np.exp(slopes[best[1]])),
        low - step / 2 if low > least else -np.inf,
        high + step / 2 if high < most else np.inf,
    )
