"""All bounds of one case at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deeprecsys.bounds.bound import Bound, BoundKind
from deeprecsys.bounds.path import Path, o_drop, o_fcfs
from deeprecsys.bounds.rates import capacity, planning_estimate
from deeprecsys.bounds.work import coalesced_work, least_span, least_work, mean_work, pmf_of
from deeprecsys.core.target import Target


def bounds_of(
    times_s: ArrayLike,
    cores: int,
    target: Target,
    arrival_s: ArrayLike,
    size: ArrayLike,
    *,
    coalescing: bool = False,
    rate_qps: float | None = None,
) -> dict[BoundKind, Bound]:
    """Capacity, O_fcfs, O_drop and the planning estimate of one sample path on `cores` cores.

    Args:
        times_s: [N] s(1), s(2), … in seconds (`work.batch_times`), N at least the largest query; beyond
            it, batches that only cross-query batching can fill.
        cores: workers.
        target: what the rates must meet.
        arrival_s, size: the sample path; a capacity takes its sizes for their distribution.
        coalescing: bounds for policies that may put slices of several queries into one batch.
        rate_qps: the rate that the arrivals are at; by default their number over the time of the last.

    Capacity allows the share of queries that may be late to be run without regard to the target.
    """
    s = np.asarray(times_s, dtype=np.float64)
    pmf = pmf_of(size)
    if coalescing:
        work, late = (coalesced_work(s, len(pmf), limit) for limit in (target.latency_s, np.inf))
    else:
        work, late = (least_work(s, limit) for limit in (target.latency_s, np.inf))
    mean_s = mean_work(work, pmf, late, target.miss_rate)
    path = Path.of(arrival_s, size, work, least_span(s, cores), rate_qps)
    found = [
        capacity(mean_s, cores, coalescing=coalescing),
        o_fcfs(path, cores, target, coalescing=coalescing),
        o_drop(path, cores, target, coalescing=coalescing),
        planning_estimate(work, pmf, cores, target, coalescing=coalescing),
    ]
    return {b.kind: b for b in found}
