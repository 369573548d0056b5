"""Why: the slowest queries, and where the time of all goes, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.core.target import Target
from deeprecsys.report.breakdown import Breakdown, Group, breakdown, everyone, slowest
from deeprecsys.report.slices import Slices

BURST = 1.3
"""Items arriving at this many times the mean rate are mentioned."""
SLOW = 1.5
"""A batch that took this many times the median of its size is mentioned."""
LATE = 0.05
"""Lateness of the load source above this share of the latency is mentioned."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The work of other queries on the same device that was in line before a query and ran first."""

    slices: int
    items: int
    queries: int


def overview(log: RunLog, slices: Slices | None = None) -> list[str]:
    """How all queries and the slowest ones spent their time, in a few sentences."""
    parts = breakdown(log, slices)
    rest, tail = everyone(log, parts), slowest(log, parts)
    if rest is None or tail is None:
        return ["No query was served after the warm-up: there is nothing to explain."]
    sentences = [
        f"The slowest 5 % of queries spent {_shares(tail, parts.split)}; "
        f"over all queries it is {_shares(rest, parts.split, short=True)}."
    ]
    sentences.append(f"Their mean size is {tail.items:,.0f} items, that of all queries {rest.items:,.0f}.")
    if lost := int(np.count_nonzero(log.measured & (log.status != Status.SERVED))):
        sentences.append(f"{lost:,} of {int(log.measured.sum()):,} measured queries were not served.")
    return sentences


def explain(
    log: RunLog, slices: Slices | None = None, target: Target | None = None, count: int = 5
) -> list[str]:
    """The slowest served queries after the warm-up, slowest first, a few sentences each.

    Slow queries come in groups with one cause: of queries that were open at the same time only the slowest is
    explained.

    Args:
        log: the trial.
        slices: when its slices ran; without them the explanation has less detail.
        target: decides which queries are late, and how far back bursts are looked for.
        count: number of queries, at most.
    """
    parts = breakdown(log, slices)
    keep = np.flatnonzero(log.measured & (log.status == Status.SERVED))
    order = keep[np.argsort(-log.latency_s[keep], kind="stable")]
    chosen: list[int] = []
    for q in order.tolist():
        if len(chosen) == count:
            break
        if all(log.finish_s[q] < log.arrival_s[t] or log.arrival_s[q] > log.finish_s[t] for t in chosen):
            chosen.append(q)
    return [_story(q, log, slices, parts, target) for q in chosen]


def waited_behind(query: int, log: RunLog, slices: Slices) -> Wait:
    """The work of other queries that started before the first slice of a query."""
    own = slices.query == query
    if not own.any():
        return Wait(0, 0, 0)
    first = slices.posted_s[own].min()
    device = slices.device[own][0]
    ahead = (
        ~own
        & (slices.device == device)
        & (slices.posted_s > log.arrival_s[query])
        & (slices.posted_s <= first)
        & (log.arrival_s[np.minimum(slices.query, len(log.size) - 1)] <= log.arrival_s[query])
    )
    return Wait(int(ahead.sum()), int(slices.items[ahead].sum()), len(np.unique(slices.query[ahead])))


def _story(query: int, log: RunLog, slices: Slices | None, parts: Breakdown, target: Target | None) -> str:
    size = int(log.size[query])
    own = np.flatnonzero(slices.query == query) if slices is not None else np.array([], int)
    cut = f", {_count(len(own), 'slice')}" if len(own) else ""
    total_ms = 1e3 * float(log.latency_s[query])
    queue, compute, merge = _shown(query, parts, total_ms)
    digits = _digits(total_ms)
    spent = [f"{queue:.{digits}f} {_queue_words(query, log, slices)}" if queue else ""]
    spent.append(f"{compute:.{digits}f} {_compute_words(slices, own)}")
    spent.append(f"{merge:.{digits}f} waiting for its last slice" if merge else "")
    sentences = [
        f"Query {query} ({_count(size, 'item')}{cut}) took {total_ms:.{digits}f} ms: "
        + ", ".join(t for t in spent if t)
        + ".",
        _size_words(size, log.size[log.measured]),
        _burst_words(query, log, target),
        _slow_words(slices, own),
        _others_words(query, log, target),
        _late_words(query, log),
    ]
    return " ".join(s for s in sentences if s)


def _shown(query: int, parts: Breakdown, total_ms: float) -> list[float]:
    """The parts in milliseconds, rounded so that they add up to the rounded total."""
    digits = _digits(total_ms)
    exact = [1e3 * float(p[query]) for p in (parts.queue_s, parts.compute_s, parts.merge_s)]
    rounded = [round(x, digits) for x in exact]
    rounded[int(np.argmax(exact))] += round(total_ms, digits) - sum(rounded)
    return [round(x, digits) for x in rounded]


def _digits(total_ms: float) -> int:
    return 1 if total_ms >= 10 else 2 if total_ms >= 1 else 3


def _queue_words(query: int, log: RunLog, slices: Slices | None) -> str:
    if slices is None:
        return "waiting in line"
    wait = waited_behind(query, log, slices)
    if not wait.slices:
        return "waiting for a worker"
    return (
        f"waiting behind {_count(wait.slices, 'slice')} ({_count(wait.items, 'item')}) "
        f"of {_count(wait.queries, 'query')}"
    )


def _compute_words(slices: Slices | None, own: NDArray[np.intp]) -> str:
    if slices is None or not len(own):
        return "from its first slice's start to its last one's end"
    pairs = {(str(slices.device[i]), int(slices.worker[i])) for i in own}
    devices = sorted({d for d, _ in pairs})
    where = f" ({' and '.join(devices)})" if devices != ["cpu"] else ""
    return f"computing on {_count(len(pairs), 'worker')}{where}"


def _size_words(size: int, sizes: NDArray[np.int32]) -> str:
    if len(np.unique(sizes)) < 2:
        return ""
    no_smaller = float(np.mean(sizes >= size))
    for share in (0.001, 0.01, 0.02, 0.05, 0.1):
        if no_smaller <= share:
            return f"Its size is in the top {100 * share:g} %."
    return f"{100 * float(np.mean(sizes < size)):.0f} % of queries are smaller."


def _burst_words(query: int, log: RunLog, target: Target | None) -> str:
    arrival = float(log.arrival_s[query])
    window = min(target.latency_s if target else float(log.latency_s[query]), arrival)
    span = float(log.arrival_s[-1])
    if window <= 0 or span <= 0:
        return ""
    near = (log.arrival_s >= arrival - window) & (log.arrival_s < arrival)
    ratio = float(log.size[near].sum()) / window / (float(log.size.sum()) / span)
    if ratio < BURST or near.sum() < 2:
        return ""
    return f"In the {1e3 * window:.3g} ms before it, items arrived at {ratio:.1f} times the mean rate."


def _slow_words(slices: Slices | None, own: NDArray[np.intp]) -> str:
    if slices is None or not len(own):
        return ""
    took, items = slices.ended_s - slices.started_s, slices.items
    worst, slow = 0.0, 0
    for i in own:
        like = (np.abs(items - items[i]) <= 0.1 * items[i]) & (slices.device == slices.device[i])
        if like.sum() >= 10 and (median := float(np.median(took[like]))) > 0:
            ratio = float(took[i]) / median
            slow += ratio >= SLOW
            worst = max(worst, ratio)
    if not slow:
        return ""
    which = "It" if len(own) == 1 else f"{slow} of its {len(own)} slices" if slow > 1 else "One of its slices"
    most = "" if slow == 1 else "up to "
    return f"{which} ran {most}{worst:.1f} times as long as the median of that size."


def _others_words(query: int, log: RunLog, target: Target | None) -> str:
    if target is None:
        return ""
    with_it = (log.arrival_s <= log.finish_s[query]) & ~(log.finish_s < log.arrival_s[query])
    late = int(np.count_nonzero(with_it & (log.latency_s > target.latency_s)))
    late -= bool(log.latency_s[query] > target.latency_s)
    return f"{_count(late, 'query')} open at the same time missed the target too." if late > 0 else ""


def _late_words(query: int, log: RunLog) -> str:
    late = float(log.issued_s[query] - log.arrival_s[query])
    if not late > LATE * log.latency_s[query]:
        return ""
    return f"The load source itself was {1e3 * late:.2g} ms late with it."


def _shares(group: Group, split: bool, short: bool = False) -> str:
    queue, compute, merge = (f"{100 * s:.0f} %" for s in group.shares)
    if not split:
        return (
            f"{queue} and {compute}" if short else f"{queue} of their time in line and {compute} after that"
        )
    if short:
        return f"{queue}, {compute} and {merge}"
    return f"{queue} of their time in line, {compute} computing and {merge} waiting for their last slice"


def _count(n: int, what: str) -> str:
    if n == 1:
        return f"1 {what}"
    return f"{n:,} {what[:-1]}ies" if what.endswith("y") else f"{n:,} {what}s"
