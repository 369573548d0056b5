"""Where a query's time goes: in line, computing, and waiting for its last slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.core.target import percentile
from deeprecsys.report.slices import Slices

QUANTILES = (0.5, 0.75, 0.9, 0.99)
"""Query sizes are grouped at these quantiles."""
SLOWEST = 0.05
"""The slowest queries are this share of all."""

IN_LINE, COMPUTING, LAST_SLICE = "in line", "computing", "last slice"
"""The parts of a query's time: none of its slices is on a worker; some are; only the last one is."""

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
        items: their mean size.
        queue_s, compute_s, merge_s: means, seconds.
        by_size: whether it is one of those that sizes divide the queries into.
    """

    label: str
    queries: int
    items: float
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
        _from_slices(log, slices, on_worker, merge)
    compute = np.maximum(on_worker - merge, 0.0)
    served = np.isfinite(latency)
    return Breakdown(
        queue_s=np.where(served, np.maximum(latency - compute - merge, 0.0), np.nan),
        compute_s=np.where(served, compute, np.nan),
        merge_s=np.where(served, merge, np.nan),
        split=slices is not None,
    )


class Span(NamedTuple):
    """A stretch of a query's time, of one part; seconds."""

    part: str
    start_s: float
    end_s: float


def spans(arrival_s: float, posted_s: Sequence[float], heard_s: Sequence[float]) -> list[Span]:
    """What became of a query's time, from its arrival to its last slice's result: consecutive spans.

    Args:
        posted_s: when each of its slices was given to a worker, rising.
        heard_s: when the result of each was received.
    """
    last_alone_s = sorted(heard_s)[-2] if len(heard_s) > 1 else np.inf
    found, now = [], arrival_s
    for posted, heard in zip(posted_s, heard_s, strict=True):
        if posted > now:
            found.append(Span(IN_LINE, now, posted))
            now = posted
        if heard > now:
            alone = min(max(last_alone_s, now), heard)
            found += [Span(COMPUTING, now, alone), Span(LAST_SLICE, alone, heard)]
            now = heard
    return [span for span in found if span.end_s > span.start_s]


def _from_slices(log: RunLog, slices: Slices, on_worker: _Seconds, merge: _Seconds) -> None:
    """Fill in, per query, how long any slice was on a worker, and how long only the last one."""
    order = np.lexsort((slices.posted_s, slices.query))
    query, arrival = slices.query[order], log.arrival_s.tolist()
    bounds = np.flatnonzero(np.diff(query, prepend=-1, append=-1))
    posted, heard = slices.posted_s[order].tolist(), slices.heard_s[order].tolist()
    for first, stop in pairwise(bounds.tolist()):
        q = int(query[first])
        if q >= len(merge):
            continue
        lasted = {COMPUTING: 0.0, LAST_SLICE: 0.0, IN_LINE: 0.0}
        for part, start, end in spans(arrival[q], posted[first:stop], heard[first:stop]):
            lasted[part] += end - start
        on_worker[q], merge[q] = lasted[COMPUTING] + lasted[LAST_SLICE], lasted[LAST_SLICE]


def by_size(log: RunLog, parts: Breakdown) -> list[Group]:
    """Mean parts by size, from the smallest queries to the largest, measured and served queries only."""
    keep = _counted(log)
    size = log.size[keep]
    if not len(size):
        return []
    edges = sorted({int(percentile(size, q)) for q in QUANTILES} | {int(size.max())})
    found = [keep & (log.size > low) & (log.size <= high) for low, high in pairwise([0, *edges])]
    groups = []
    for chosen, high in zip(found, edges, strict=True):
        if chosen.any():
            least = int(log.size[chosen].min())
            label = f"{least:,} items" if least == high else f"{least:,}–{high:,} items"
            groups.append(_group(label, log, parts, chosen, by_size=True))
    return groups


def slowest(log: RunLog, parts: Breakdown) -> Group | None:
    """Mean parts of the queries slower than the percentile; of all that are as slow as it where none is.

    Only queries that were measured and served count.
    """
    keep, latency = _counted(log), log.latency_s
    limit = percentile(latency[keep], 1 - SLOWEST)
    slower = keep & (latency > limit)
    chosen = slower if slower.any() else keep & (latency == limit)
    return _group(f"slowest {100 * SLOWEST:g} %", log, parts, chosen) if chosen.any() else None


def everyone(log: RunLog, parts: Breakdown) -> Group | None:
    """Mean parts of all queries that were measured and served."""
    keep = _counted(log)
    return _group("all queries", log, parts, keep) if keep.any() else None


def _counted(log: RunLog) -> NDArray[np.bool_]:
    return np.asarray(log.measured & (log.status == Status.SERVED))


def _group(
    label: str, log: RunLog, parts: Breakdown, chosen: NDArray[np.bool_], by_size: bool = False
) -> Group:
    values = (log.size, parts.queue_s, parts.compute_s, parts.merge_s)
    items, queue, compute, merge = (float(np.mean(v[chosen])) for v in values)
    return Group(label, int(chosen.sum()), items, queue, compute, merge, by_size)
