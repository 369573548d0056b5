"""A trial's time line in the Trace Event format, for Perfetto or chrome://tracing."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.report.breakdown import IN_LINE, spans
from deeprecsys.report.slices import Slices

SLOWEST = 20  # slowest queries in a trace
SAMPLE = 200  # other queries in it
POINTS = 4000
"""Counters are thinned to about this many points; peaks are kept."""

COUNTERS, WORKERS, QUERIES = 1, 2, 3
"""The trace's processes."""

Event = dict[str, Any]
_Tids = dict[tuple[str, int], int]


def trace_events(
    log: RunLog, slices: Slices | None = None, *, slowest: int = SLOWEST, sample: int = SAMPLE, seed: int = 0
) -> dict[str, Any]:
    """The trace as one JSON document. Times are microseconds from the trial's start.

    Each sampled query has a track with its time in line, computing and merging; its slices are shown in line
    and on the workers, joined by arrows. Batches that ran while the slowest queries were open are there too,
    as those waited behind them. Counters cover the whole trial.

    Args:
        log: the trial.
        slices: when its slices ran; without them there are queries and counters only.
        slowest: number of slowest queries.
        sample: number of other queries, drawn at random with `seed`.
    """
    slow, others = _sampled(log, slowest, sample, seed)
    tids = _tids(slices)
    events = [_meta("process_name", COUNTERS, 0, "load"), _meta("process_name", QUERIES, 0, "queries")]
    for order, q in enumerate([*slow.tolist(), *others.tolist()]):
        events += _query(log, q, order)
        own = np.flatnonzero(slices.query == q) if slices is not None else np.array([], np.intp)
        if slices is not None and len(own):
            events += _parts(slices, own, q + 1, float(log.arrival_s[q]))
            events += _slices(log, slices, own, tids)
        else:
            events += _halves(log, q)
    if slices is not None and len(slices):
        events += _workers(log, slices, slow, others, tids)
    events += _counters(log, slices)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "rate_qps": log.rate_qps,
            "queries": len(log.size),
            "warmup_s": log.warmup_s,
            "slowest_queries": [int(q) for q in slow],
            "sampled_queries": [int(q) for q in others],
            "seed": seed,
        },
    }


def _sampled(log: RunLog, slowest: int, sample: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The slowest served queries after the warm-up, and a random sample of the other served ones."""
    served = np.flatnonzero(log.status == Status.SERVED)
    measured = served[log.measured[served]]
    slow = measured[np.argsort(-log.latency_s[measured], kind="stable")][:slowest]
    rest = np.setdiff1d(served, slow)
    chosen = np.random.default_rng(seed).choice(rest, min(sample, len(rest)), replace=False)
    return slow, np.sort(chosen)


def _query(log: RunLog, q: int, order: int) -> list[Event]:
    """One query's track, with the whole of it."""
    arrival, finish, size = float(log.arrival_s[q]), float(log.finish_s[q]), int(log.size[q])
    args = {"query": q, "items": size, "latency_ms": 1e3 * (finish - arrival)}
    sort = _meta("thread_sort_index", QUERIES, q + 1, "")
    return [
        _meta("thread_name", QUERIES, q + 1, f"query {q} ({size} items)"),
        {**sort, "args": {"sort_index": order}},
        _span(f"query {q}", "query", QUERIES, q + 1, arrival, finish, args),
    ]


def _halves(log: RunLog, q: int) -> list[Event]:
    """What is known of a query's parts without its slices."""
    arrival, start, finish = (float(t[q]) for t in (log.arrival_s, log.start_s, log.finish_s))
    return [
        _span(IN_LINE, "part", QUERIES, q + 1, arrival, start, {}),
        _span("on workers", "part", QUERIES, q + 1, start, finish, {}),
    ]


def _slices(log: RunLog, slices: Slices, own: NDArray[np.intp], tids: _Tids) -> list[Event]:
    """A query's slices while in line, and an arrow from the query to each on its worker."""
    events: list[Event] = []
    for i in own.tolist():
        q, first = int(slices.query[i]), int(slices.start[i])
        arrival = _us(float(log.arrival_s[q]))
        here = {"pid": QUERIES, "tid": q + 1, "id": f"{q}.{first}"}
        line = {**here, "cat": "line", "name": "slice in line"}
        flow = {**here, "cat": "slice", "name": "slice"}
        there = {"pid": WORKERS, "tid": tids[str(slices.device[i]), int(slices.worker[i])], "bp": "e"}
        args = {"query": q, "first": first, "stop": int(slices.stop[i])}
        events += [
            {**line, "ph": "b", "ts": arrival, "args": args},
            {**line, "ph": "e", "ts": _us(float(slices.posted_s[i]))},
            {**flow, "ph": "s", "ts": arrival},
            {**flow, **there, "ph": "f", "ts": _us(float(slices.started_s[i]))},
        ]
    return events


def _parts(slices: Slices, own: NDArray[np.intp], tid: int, arrival_s: float) -> list[Event]:
    """Queue, compute and merge of one query as consecutive spans."""
    order = own[np.argsort(slices.posted_s[own], kind="stable")]
    found = spans(arrival_s, slices.posted_s[order].tolist(), slices.heard_s[order].tolist())
    joined = (list(group) for _, group in groupby(found, key=lambda span: span.part))
    return [_span(g[0].part, "part", QUERIES, tid, g[0].start_s, g[-1].end_s, {}) for g in joined]


def _workers(
    log: RunLog, slices: Slices, slow: NDArray[np.intp], others: NDArray[np.intp], tids: _Tids
) -> list[Event]:
    """Batches on their workers: of sampled queries, and those that ran while the slowest ones were open."""
    sampled = np.isin(slices.query, np.concatenate([slow, others]))
    shown = sampled.copy()
    for q in slow:
        shown |= (slices.heard_s > log.arrival_s[q]) & (slices.posted_s < log.finish_s[q])
    events = [_meta("process_name", WORKERS, 0, "workers")]
    events += [_meta("thread_name", WORKERS, tid, f"{d} worker {w}") for (d, w), tid in tids.items()]
    members: dict[int, list[int]] = {}
    for i in np.flatnonzero(np.isin(slices.batch, slices.batch[shown])).tolist():
        members.setdefault(int(slices.batch[i]), []).append(i)
    for batch, parts in members.items():
        i = parts[0]
        queries = sorted({int(slices.query[k]) for k in parts})
        start, end = float(slices.started_s[i]), float(slices.ended_s[i])
        args = {
            "batch": batch,
            "items": int(slices.items[parts].sum()),
            "queries": queries,
            "dispatch_us": _us(start - float(slices.posted_s[i])),
            "report_us": _us(float(slices.heard_s[i]) - end),
        }
        name = f"query {queries[0]}" if len(queries) == 1 else f"{len(queries)} queries"
        cat = "sampled" if sampled[parts].any() else "other"
        tid = tids[str(slices.device[i]), int(slices.worker[i])]
        events.append(_span(name, cat, WORKERS, tid, start, end, args))
    return events


def _counters(log: RunLog, slices: Slices | None) -> list[Event]:
    """Items in line, busy workers and open queries over the whole trial."""
    served = log.status == Status.SERVED
    last = log.duration_s
    gone = np.where(np.isfinite(log.finish_s), log.finish_s, last)
    kept = log.status != Status.SHED
    counters = {"open queries": (log.arrival_s[kept], gone[kept], np.ones(int(kept.sum())))}
    if slices is not None and len(slices):
        arrival = log.arrival_s[slices.query]
        counters["items in line"] = (arrival, slices.posted_s, slices.items.astype(float))
        one = np.unique(slices.batch, return_index=True)[1]
        counters["busy workers"] = (slices.started_s[one], slices.ended_s[one], np.ones(len(one)))
    else:
        counters["queries in line"] = (log.arrival_s[served], log.start_s[served], np.ones(int(served.sum())))
    return [
        {"ph": "C", "name": name, "pid": COUNTERS, "tid": 0, "ts": _us(at), "args": {name: round(value, 6)}}
        for name, (up, down, amount) in counters.items()
        for at, value in zip(*thinned(*level(up, down, amount), POINTS), strict=True)
    ]


def level(
    up: NDArray[np.float64], down: NDArray[np.float64], amount: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The level over time of amounts from `up` to `down`: rising times, the level from each on."""
    at = np.concatenate([up, down])
    change = np.concatenate([amount, -amount])
    times, where = np.unique(at, return_inverse=True)
    return times, np.cumsum(np.bincount(where, weights=change, minlength=len(times)))


def thinned(
    at: NDArray[np.float64], value: NDArray[np.float64], points: int
) -> tuple[list[float], list[float]]:
    """At most about `points` points: the last and the greatest of each stretch of time."""
    if len(at) <= points:
        return at.tolist(), value.tolist()
    edges = np.searchsorted(at, np.linspace(at[0], at[-1], points // 2 + 1)[1:-1])
    keep: set[int] = set()
    for part in np.split(np.arange(len(at)), edges):
        if len(part):
            keep |= {int(part[-1]), int(part[np.argmax(value[part])])}
    index = np.array(sorted(keep))
    return at[index].tolist(), value[index].tolist()


def _tids(slices: Slices | None) -> _Tids:
    """A thread number for every worker that ran anything."""
    if slices is None:
        return {}
    workers = sorted(set(zip(slices.device.tolist(), slices.worker.tolist(), strict=True)))
    return {worker: tid for tid, worker in enumerate(workers, 1)}


def _meta(name: str, pid: int, tid: int, value: str) -> Event:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": {"name": value}}


def _span(name: str, cat: str, pid: int, tid: int, start_s: float, end_s: float, args: Event) -> Event:
    """A complete event; rounding never makes its duration negative."""
    at, track = _us(start_s), {"pid": pid, "tid": tid}
    lasted = max(_us(end_s) - at, 0.0)
    return {"ph": "X", "name": name, "cat": cat, **track, "ts": at, "dur": lasted, "args": args}


def _us(seconds: float) -> float:
    return round(1e6 * seconds, 3)
