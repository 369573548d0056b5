"""Bounds on a sample path: how far one sequence of queries could be sped up (docs/facts.md §6.2 and §6.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.bounds.bounds import Bound, BoundKind, capacity, planning_estimate
from deeprecsys.bounds.work import coalesced_work, least_span, least_work, mean_work, pmf_of
from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import after_stage
from deeprecsys.core.target import Target, percentile

TOLERANCE = 1e-4
"""Relative error of the rates found, which are never below the true ones."""
_TICKS = float(1 << 60)
"""Ticks into which a path is divided for the exact count of late queries."""
_ROUNDING = 1 + 1e-9
"""Factor of the target that keeps rounding from making a query late."""
_IDLE = 1e-6
"""Share of the saturation rate below which a path has no rate that meets the target."""

Floats = NDArray[np.float64]


class Path(NamedTuple):
    """A sequence of queries.

    Attributes:
        arrival_s: [n] rising, from 0 on.
        work_s: [n] least core time of each query (`work.least_work` of its size).
        span_s: [n] least latency of each query on an idle node (`work.least_span`).
        rate_qps: the rate that the arrivals are at.
    """

    arrival_s: Floats
    work_s: Floats
    span_s: Floats
    rate_qps: float

    @classmethod
    def of(
        cls,
        arrival_s: ArrayLike,
        size: ArrayLike,
        work_s: Floats,
        span_s: Floats,
        rate_qps: float | None = None,
    ) -> Path:
        """The path of queries of given sizes, work and span by table.

        Raises:
            InputError: no queries, arrivals that fall or are negative, a size that no table has.
        """
        at, n = np.asarray(arrival_s, dtype=np.float64), np.asarray(size, dtype=np.int64)
        if at.ndim != 1 or not len(at) or at.shape != n.shape:
            raise InputError("path: expected arrivals, and one size for each")
        if at[0] < 0 or at[-1] <= 0 or (np.diff(at) < 0).any():
            raise InputError("arrivals: expected rising times from 0 on")
        if n.min() < 1 or n.max() > min(len(work_s), len(span_s)):
            raise InputError(f"size: expected 1 to {min(len(work_s), len(span_s))} items, as in the table")
        rate = rate_qps if rate_qps is not None else len(at) / float(at[-1])
        return cls(at, work_s[n - 1], span_s[n - 1], rate)


def o_fcfs(path: Path, cores: int, target: Target) -> float:
    """The highest rate at which one first-come-first-served server, `cores` times as fast, meets the target.

    A query ends no sooner than its span allows. Latencies only grow with the rate, so bisection is exact.
    """
    late_s = target.latency_s * _ROUNDING
    w = path.work_s / cores
    never = (path.span_s > late_s) | (w > late_s)
    w = np.where(np.isfinite(w), w, 0.0)  # what cannot be on time does not delay others
    done = np.cumsum(w)

    def misses(speed: float) -> int:
        arrival = path.arrival_s / speed
        end = done + np.maximum.accumulate(arrival - (done - w))
        return int(np.count_nonzero((end - arrival > late_s) | never))

    return _highest(path, misses, int(np.count_nonzero(never)), cores, target)


def o_drop(path: Path, cores: int, target: Target) -> float:
    """The highest rate at which such a server, free to abandon the share of queries that may be late,
    serves all others in time.

    The least number of late queries is exact (`bounds.late`), to times rounded in favour of the bound
    to a part in 10^18 of the path.
    """
    from deeprecsys.bounds.late import late_jobs  # loads numba

    late_s = target.latency_s * _ROUNDING
    possible = (path.span_s <= late_s) & (path.work_s / cores <= late_s)
    arrival, w = path.arrival_s[possible], path.work_s[possible] / cores
    never = len(path.work_s) - len(w)
    enough = _allowed(len(path.work_s), target) + 1

    def misses(speed: float) -> int:
        release_s = arrival / speed
        tick_s = (float(release_s[-1]) + float(w.sum()) + late_s) / _TICKS
        release = np.floor(release_s / tick_s).astype(np.int64)
        work = np.maximum(np.floor(w / tick_s), 1).astype(np.int64)
        return never + int(late_jobs(release, work, int(late_s / tick_s) + 2, enough - never))

    if never >= enough:
        return 0.0
    return _highest(path, misses, never, cores, target) if len(w) else np.inf


def _allowed(queries: int, target: Target) -> int:
    """The number of queries that may be late, by the rule of `core.target.percentile`."""
    return queries - 1 - int(percentile(np.arange(queries), target.quantile))


def _highest(path: Path, misses: Callable[[float], int], never: int, cores: int, target: Target) -> float:
    """The rate from which on there are too many misses, by bisection; from above."""
    allowed = _allowed(len(path.arrival_s), target)
    if never > allowed:
        return 0.0
    if misses(np.inf) <= allowed:
        return np.inf
    work = path.work_s[np.isfinite(path.work_s)]
    full = cores / float(work.mean()) / path.rate_qps  # about the speed that keeps all cores busy
    low = high = full
    while misses(low) > allowed:
        low /= 2
        if low < _IDLE * full:  # queries that arrive at one instant do so at any speed
            return 0.0
    while misses(high) <= allowed:
        high *= 2
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if misses(middle) <= allowed else (low, middle)
    return float(path.rate_qps * high)


def bounds_of(
    times_s: ArrayLike,
    cores: int,
    target: Target,
    arrival_s: ArrayLike,
    size: ArrayLike,
    *,
    coalescing: bool = False,
    rate_qps: float | None = None,
    stage_s: float = 0.0,
    staged_s: float = 0.0,
) -> dict[BoundKind, Bound]:
    """Capacity, O_fcfs, O_drop and the planning estimate of one sample path on `cores` cores.

    Args:
        times_s: [N] s(1), s(2), … in seconds (`work.batch_times`), N at least the largest query; beyond
            it, batches that only cross-query batching can fill.
        arrival_s, size: the sample path; a capacity takes its sizes for their distribution.
        coalescing: bounds for policies that may put slices of several queries into one batch.
        rate_qps: the rate that the arrivals are at; by default their number over the time of the last.
        stage_s, staged_s: of a profile, for policies that may run a query's user stage first.

    Capacity allows the share of queries that may be late to be run without regard to the target.
    """
    s = np.asarray(times_s, dtype=np.float64)
    pmf = pmf_of(size)
    if coalescing:
        work, late = (coalesced_work(s, len(pmf), limit) for limit in (target.latency_s, np.inf))
    else:
        work, late = (least_work(s, limit) for limit in (target.latency_s, np.inf))
    span = least_span(s, cores)
    if stage_s:
        rest = np.array([after_stage(t, staged_s) for t in s.tolist()])
        work = np.minimum(work, stage_s + least_work(rest, target.latency_s))
        late = np.minimum(late, stage_s + least_work(rest))
        span = np.minimum(span, stage_s + least_span(rest, cores))
    mean_s = mean_work(work, pmf, late, target.miss_rate)
    path = Path.of(arrival_s, size, work, span, rate_qps)
    found = {
        BoundKind.CAPACITY: capacity(mean_s, cores),
        BoundKind.O_FCFS: o_fcfs(path, cores, target),
        BoundKind.O_DROP: o_drop(path, cores, target),
        BoundKind.ESTIMATE: planning_estimate(work, pmf, cores, target),
    }
    return {kind: Bound(kind, rate, coalescing) for kind, rate in found.items()}
