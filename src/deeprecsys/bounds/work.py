"""The least core time that queries cost, from batch times s(1), s(2), … (docs/facts.md §6).

A table of batch times is an array [N] of seconds whose entry b - 1 is s(b); tables by query size are
arrays whose entry n - 1 belongs to queries of n items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile

Floats = NDArray[np.float64]


def batch_times(profile: LatencyProfile, largest: int, busy: int | None = None) -> Floats:
    """[largest] the mean s(1), s(2), … in seconds, while `busy` workers are busy.

    None takes the least over all levels that were measured: what is a bound then, is one however many
    workers are busy.
    """
    levels = profile.busy_levels if busy is None else [busy]
    return np.array([min(profile.seconds(b, k) for k in levels) for b in range(1, largest + 1)])


def least_work(times_s: ArrayLike, limit_s: float = np.inf) -> Floats:
    """[N] W(n): the least core time in which n items can be run, with every batch within `limit_s`.

    Exact, by dynamic programming over the size of one batch: W(n) = min over b of s(b) + W(n - b).
    Infinite where no batch is within the limit. Takes time in N².
    """
    s = _times(times_s)
    s = np.where(s <= limit_s, s, np.inf)
    work = np.zeros(len(s) + 1)
    for n in range(1, len(s) + 1):
        work[n] = (s[:n] + work[n - 1 :: -1]).min()
    return work[1:]


def coalesced_work(times_s: ArrayLike, largest: int, limit_s: float = np.inf) -> Floats:
    """[largest] W_c(n) = n · min s(b)/b in seconds: the least where batches may mix queries."""
    s = _times(times_s)
    per_item = np.where(s <= limit_s, s, np.inf) / np.arange(1, len(s) + 1)
    work: Floats = np.arange(1, largest + 1) * per_item.min()
    return work


def least_span(times_s: ArrayLike, cores: int) -> Floats:
    """[N] least seconds that a query takes, however it is cut over `cores` idle cores.

    Some core runs ceil(n / cores) items or more, so it is the least W of those. With s(b) rising, and
    two batches never faster than one of their length together, that is s(ceil(n / cores)).
    """
    work = least_work(times_s)
    from_here_on = np.minimum.accumulate(work[::-1])[::-1]
    n = np.arange(1, len(work) + 1)
    return from_here_on[-(-n // cores) - 1]


def pmf_of(size: ArrayLike) -> Floats:
    """[largest] the shares of queries of 1, 2, … items in a sample."""
    sizes = np.asarray(size, dtype=np.int64)
    if not len(sizes) or sizes.min() < 1:
        raise InputError("size: expected queries of at least 1 item")
    share: Floats = np.bincount(sizes)[1:] / len(sizes)
    return share


def mean_work(
    work_s: ArrayLike, pmf: ArrayLike, late_work_s: ArrayLike | None = None, late_share: float = 0.0
) -> float:
    """E[W] in seconds.

    Args:
        work_s: by size; at least as long as `pmf`.
        pmf: the probability of each size.
        late_work_s: what a query costs that need not meet the target, hence no limit on its batches.
        late_share: the share of queries that need not; those are taken where that saves the most.
    """
    p = np.asarray(pmf, dtype=np.float64)
    work = np.asarray(work_s, dtype=np.float64)
    if len(work) < len(p):
        raise InputError(f"work: expected a table up to size {len(p)}, got one up to {len(work)}")
    used = np.flatnonzero(p > 0)
    p, work = p[used], work[used]
    if late_work_s is None or late_share <= 0:
        return float(p @ work)
    late = np.asarray(late_work_s, dtype=np.float64)[used]
    order = np.argsort(late - work, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
    relaxed = np.clip(late_share - before, 0.0, p[order])
    kept = p[order] - relaxed
    kept[kept <= 1e-12] = 0.0  # what remains of a size by rounding must not count an infinite time
    return float(relaxed @ late[order] + kept[kept > 0] @ work[order][kept > 0])


def _times(times_s: ArrayLike) -> Floats:
    s = np.asarray(times_s, dtype=np.float64)
    if s.ndim != 1 or not len(s) or not (s > 0).all():
        raise InputError("batch times: expected one time above 0 for each batch size from 1 on")
    return s
