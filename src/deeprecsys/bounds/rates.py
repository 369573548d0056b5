"""Bounds and estimates that need the distribution of sizes alone: capacity, and the planning estimate."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from deeprecsys.bounds.bound import Bound, BoundKind
from deeprecsys.core.target import Target


def capacity(mean_work_s: float, cores: int, *, coalescing: bool = False) -> Bound:
    """k / E[W]: no rate above it can last (docs/facts.md §6.1).

    Args:
        mean_work_s: E[W] of `work.mean_work`; with cross-query batching that of W_c.
        cores: workers.
        coalescing: whether the work was that of cross-query batching.
    """
    return Bound(BoundKind.CAPACITY, cores / mean_work_s, coalescing)


def planning_estimate(
    work_s: ArrayLike, pmf: ArrayLike, cores: int, target: Target, *, coalescing: bool = False
) -> Bound:
    """θ / (E[e^(θ W / k)] - 1), θ = -ln(miss rate) / SLA: about what a good policy carries; not a bound.

    The rate at which the waiting time of a single server k times as fast decays by e^-θ per second
    (the Cramér–Lundberg exponent of M/G/1), so that a wait as long as the target has the target's miss
    rate (docs/facts.md §6.4: θ = ln 20 / SLA for p95).
    """
    p = np.asarray(pmf, dtype=np.float64)
    work = np.asarray(work_s, dtype=np.float64)[: len(p)]
    theta = -math.log(target.miss_rate) / target.latency_s
    with np.errstate(over="ignore"):  # an exponential beyond all numbers leaves a rate of 0
        growth = float(p[p > 0] @ np.expm1(theta * work[p > 0] / cores))
    return Bound(BoundKind.ESTIMATE, float(theta / growth), coalescing)
