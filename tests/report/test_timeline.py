"""The trace is valid Trace Event JSON, and says what the log says."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest

from deeprecsys.core.policy import DeepRecSched
from deeprecsys.core.runlog import Status
from deeprecsys.report.slices import Slices
from deeprecsys.report.timeline import POINTS, QUERIES, WORKERS, trace_events
from tests.report.trials import poisson, run

NEEDED = {  # by phase, besides name, ph, ts, pid and tid (Trace Event Format, Google)
    "X": {"dur", "cat", "args"},
    "b": {"id", "cat"},
    "e": {"id", "cat"},
    "s": {"id", "cat"},
    "f": {"id", "cat", "bp"},
    "C": {"args"},
    "M": {"args"},
}


def valid(trace: dict) -> list[dict]:
    """The events of a trace, checked against the format."""
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
    events = trace["traceEvents"]
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for e in events:
        assert {"name", "ph", "ts", "pid", "tid"} <= e.keys()
        assert e.keys() >= NEEDED[e["ph"]]
        assert isinstance(e["name"], str)
        assert isinstance(e["pid"], int)
        assert isinstance(e["tid"], int)
        assert isinstance(e["ts"], int | float)
        assert e["ts"] >= 0
        if e["ph"] == "X":
            assert e["dur"] >= 0
        if e["ph"] == "C":
            assert all(isinstance(v, int | float) for v in e["args"].values())
    for begin, end in (("b", "e"), ("s", "f")):
        opened = {(e["cat"], e["id"]): e["ts"] for e in events if e["ph"] == begin}
        closed = {(e["cat"], e["id"]): e["ts"] for e in events if e["ph"] == end}
        assert opened.keys() == closed.keys()
        assert all(opened[k] <= closed[k] for k in opened)
    nested(events)
    return events


def nested(events: list[dict]) -> None:
    """Spans of one thread contain each other or lie apart; the format knows nothing between."""
    tracks = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            tracks[e["pid"], e["tid"]].append((e["ts"], -e["dur"]))
    for spans in tracks.values():
        stack: list[float] = []
        for ts, minus in sorted(spans):
            while stack and stack[-1] <= ts + 2e-3:
                stack.pop()
            assert not stack or ts - minus <= stack[-1] + 2e-3
            stack.append(ts - minus)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_trace_is_valid(recorded: bool) -> None:
    log, batches = poisson(300, 5)
    slices = Slices.of(batches) if recorded else None
    trace = trace_events(log, slices, slowest=10, sample=30)
    events = valid(trace)
    queries = {e["args"]["query"] for e in events if e.get("cat") == "query"}
    assert len(queries) == 40
    slowest = set(np.argsort(-np.where(log.measured, log.latency_s, 0))[:10].tolist())
    assert set(trace["otherData"]["slowest_queries"]) == slowest <= queries
    for e in events:
        if e.get("cat") == "query":
            assert e["dur"] == pytest.approx(1e6 * log.latency_s[e["args"]["query"]], abs=0.01)


def test_parts_fill_their_query() -> None:
    log, batches = poisson(300, 5)
    events = valid(trace_events(log, Slices.of(batches)))
    filled = defaultdict(float)
    for e in events:
        if e.get("cat") == "part":
            filled[e["tid"]] += e["dur"]
    for e in events:
        if e.get("cat") == "query":
            assert filled[e["tid"]] == pytest.approx(e["dur"], abs=0.02)


def test_slices_of_sampled_queries_run_on_named_workers() -> None:
    arrival = np.arange(30) * 1e-3
    log, batches = run(arrival, [5, 90, 40] * 10, DeepRecSched(16, 80), {"cpu": 2, "gpu": 1})
    slices = Slices.of(batches)
    events = valid(trace_events(log, slices))
    named = {
        e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == WORKERS
    }
    assert sorted(named.values()) == ["cpu worker 0", "cpu worker 1", "gpu worker 0"]
    spans = [e for e in events if e["ph"] == "X" and e["pid"] == WORKERS]
    assert len(spans) == len(slices)
    assert {named[e["tid"]] for e in spans if e["args"]["items"] == 90} == {"gpu worker 0"}


def test_counters_start_and_end_empty_and_know_the_peak() -> None:
    log, batches = poisson(300, 60)
    events = valid(trace_events(log, Slices.of(batches)))
    series = defaultdict(list)
    for e in events:
        if e["ph"] == "C":
            series[e["name"]].append((e["ts"], e["args"][e["name"]]))
    assert series.keys() == {"items in line", "busy workers", "open queries"}
    for points in series.values():
        assert len(points) <= 1.1 * POINTS
        assert points[-1][1] == 0
        assert min(v for _, v in points) == 0
        assert [t for t, _ in points] == sorted(t for t, _ in points)
    assert max(v for _, v in series["busy workers"]) == 2


def test_the_sample_is_seeded() -> None:
    log, batches = poisson(200, 3)
    slices = Slices.of(batches)
    a, b, c = (trace_events(log, slices, sample=20, seed=s) for s in (1, 1, 2))
    assert a == b
    assert a != c


@pytest.mark.parametrize("served", [0, 1])
def test_hardly_anything_served(served: int) -> None:
    log, _ = run([0.0, 0.1, 0.2], [3, 4, 5])
    log.status[served:], log.finish_s[served:], log.start_s[served:] = Status.SHED, np.nan, np.nan
    events = valid(trace_events(log, None))
    assert sum(e["ph"] == "X" and e["pid"] == QUERIES and e["cat"] == "query" for e in events) == served


def test_an_empty_trial() -> None:
    log, batches = run([], [])
    valid(trace_events(log, Slices.of(batches)))
