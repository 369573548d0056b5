"""Where a query's time goes: in line, computing, and waiting for its last slice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.core.target import percentile
from deeprecsys.report.slices import Slices

QUANTILES = (0.5, 0.75, 0.9, 0.99)
"""Query sizes are grouped at these quantiles."""
SLOWEST = 0.05
"""The slowest queries are this share of all."""

_Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Every query's latency in three parts that add up to it; seconds, nan where it was not served.

    Attributes:
        queue_s: none of its slices was on a worker.
        compute_s: at least one was, and more than one was still to be scored (or it has only one).
        merge_s: only its last slice was still being scored.
        split: whether slices were recorded; if not, `compute_s` has everything from the first slice's start.
    """

    queue_s: _Seconds
    compute_s: _Seconds
    merge_s: _Seconds
    split: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Some queries, and their mean parts.

    Attributes:
        label: which.
        queries: how many.
        queue_s, compute_s, merge_s: means, seconds.
        by_size: whether it is one of those that sizes divide the queries into.
    """

    label: str
    queries: int
    queue_s: float
    compute_s: float
    merge_s: float
    by_size: bool = False

    @property
    def latency_s(self) -> float:
        return self.queue_s + self.compute_s + self.merge_s

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of the mean latency."""
        total = self.latency_s or 1.0
        return self.queue_s / total, self.compute_s / total, self.merge_s / total


def breakdown(log: RunLog, slices: Slices | None = None) -> Breakdown:
    """The parts of every query's latency; exact from slices, coarse without them."""
    latency = np.where(log.status == Status.SERVED, log.finish_s - log.arrival_s, np.nan)
    on_worker, merge = log.finish_s - log.start_s, np.zeros(len(latency))
    if slices is not None and len(slices):
        _from_slices(slices, on_worker, merge)
    compute = np.maximum(on_worker - merge, 0.0)
    served = np.isfinite(latency)
    return Breakdown(
        queue_s=np.where(served, np.maximum(latency - compute - merge, 0.0), np.nan),
        compute_s=np.where(served, compute, np.nan),
        merge_s=np.where(served, merge, np.nan),
        split=slices is not None,
    )


def _from_slices(slices: Slices, on_worker: _Seconds, merge: _Seconds) -> None:
    """Fill in, per query, how long any slice was on a worker, and how long only the last one."""
    order = np.lexsort((slices.posted_s, slices.query))
    query = slices.query[order]
    bounds = np.flatnonzero(np.diff(query, prepend=-1, append=-1))
    posted, heard = slices.posted_s[order].tolist(), slices.heard_s[order].tolist()
    for first, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        q = int(query[first])
        if q >= len(merge):
            continue
        total, end, second, last_posted = 0.0, -np.inf, -np.inf, 0.0
        for p, h in zip(posted[first:stop], heard[first:stop], strict=True):
            total += max(h - max(p, end), 0.0)
            if h >= end:
                second, end, last_posted = end, h, p
            else:
                second = max(second, h)
        on_worker[q] = total
        merge[q] = end - max(second, last_posted) if stop - first > 1 else 0.0


def by_size(log: RunLog, parts: Breakdown) -> list[Group]:
    """Mean parts by size, from the smallest queries to the largest, measured and served queries only."""
    keep = _counted(log)
    size = log.size[keep]
    if not len(size):
        return []
    edges = sorted({int(percentile(size, q)) for q in QUANTILES} | {int(size.max())})
    groups, low = [], 1
    for high in edges:
        chosen = keep & (log.size >= low) & (log.size <= high)
        if chosen.any():
            least = int(log.size[chosen].min())
            label = f"{least:,} items" if least == high else f"{least:,}–{high:,} items"
            groups.append(replace(_group(label, parts, chosen), by_size=True))
        low = high + 1
    return groups


def slowest(log: RunLog, parts: Breakdown, share: float = SLOWEST) -> Group | None:
    """Mean parts of the slowest queries that were measured and served."""
    chosen = slowest_queries(log, share)
    return _group(f"slowest {100 * share:g} %", parts, chosen) if chosen.any() else None


def slowest_queries(log: RunLog, share: float = SLOWEST) -> NDArray[np.bool_]:
    """[queries] whether a query is among the slowest of those that were measured and served.

    Those slower than the percentile; where all are as slow as it, all of them.
    """
    keep = _counted(log)
    latency = log.latency_s
    chosen = keep & (latency > percentile(latency[keep], 1 - share))
    return chosen if chosen.any() or not keep.any() else keep & (latency == latency[keep].max())


def everyone(log: RunLog, parts: Breakdown) -> Group | None:
    """Mean parts of all queries that were measured and served."""
    keep = _counted(log)
    return _group("all queries", parts, keep) if keep.any() else None


def _counted(log: RunLog) -> NDArray[np.bool_]:
    return np.asarray(log.measured & (log.status == Status.SERVED))


def _group(label: str, parts: Breakdown, chosen: NDArray[np.bool_]) -> Group:
    queue, compute, merge = (
        float(np.mean(p[chosen])) for p in (parts.queue_s, parts.compute_s, parts.merge_s)
    )
    return Group(label, int(chosen.sum()), queue, compute, merge)
