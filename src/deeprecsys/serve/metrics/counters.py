"""A running server's counters: one set behind metrics, statistics and the page."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from deeprecsys.core.policy import GPU
from deeprecsys.node.service.backend import BatchRecord, OperatingPoint, QueryOutcome, QueryRecord, Reason
from deeprecsys.serve.metrics.histogram import FINE_S, SIZES, TIMES_S, Histogram

WINDOW_S = 60
POINTS_KEPT = 50
SAMPLES_KEPT = 24
SAMPLE_EVERY_S = 0.25
PENDING = 256
"""Events are counted when this many have come, or when the counters are read."""
REASONS = frozenset({"", *Reason, "bad_input", "cancelled", "released", "stopped"})
"""Reasons that are counted by name. Others are texts, some with a client's values, and count as `OTHER`."""
OTHER = "other"
_UNANSWERED_KEPT = 4096  # queries that ended and whose reply is not encoded yet


@dataclass(slots=True)
class Second:
    """What happened within one second.

    Attributes:
        items: of served queries; scored: of batches; offloaded: of batches of accelerators.
        rows: of tables, that were replaced.
    """

    at: int
    offered: int
    items: int
    batches: int
    scored: int
    offloaded: int
    latency_s: Histogram
    batch_items: Histogram
    not_served: Counter[str]
    rows: int = 0

    @classmethod
    def empty(cls) -> Second:
        return cls(-1, 0, 0, 0, 0, 0, Histogram(FINE_S), Histogram(SIZES), Counter())

    def begin(self, at: int) -> None:
        """Clear all for the second that begins at `at`."""
        self.at, self.offered, self.items, self.batches, self.scored, self.offloaded = at, 0, 0, 0, 0, 0
        self.rows = 0
        self.latency_s.clear()
        self.batch_items.clear()
        self.not_served.clear()


class LoadRecord(NamedTuple):
    """A load of weights: why it was refused, "" if it was not; when it ended, on the monotonic clock."""

    version: str
    refused: str
    seconds: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class QueryTimeline:
    """One query's times in seconds: waiting, running, merging and encoding its scores."""

    id: int
    items: int
    slices: int
    finish_s: float
    queue_s: float
    run_s: float
    merge_s: float


@dataclass(slots=True)
class Duration:
    """Number and total time of something that was done repeatedly."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


class ModelCounters:
    """One model's counters since the start of the server, and of each second of the last minute."""

    def __init__(self) -> None:
        self.queue_s, self.run_s, self.merge_s = Histogram(TIMES_S), Histogram(TIMES_S), Histogram(TIMES_S)
        self.latency_s = Histogram(TIMES_S)
        self.batch_items, self.query_items = Histogram(SIZES), Histogram(SIZES)
        self.slices = Histogram(SIZES[:8])
        self.ended: Counter[tuple[str, str]] = Counter()  # by outcome and reason
        self.served, self.failed = Duration(), Duration()
        self.compute, self.fill, self.encode = Duration(), Duration(), Duration()
        self.batches: dict[int, Duration] = {}  # by items
        self.device_batches: Counter[str] = Counter()
        self.device_items: Counter[str] = Counter()
        self.items = self.not_finite = 0
        self.loads: Counter[str] = Counter()  # by result
        self.last_load: LoadRecord | None = None
        self.rows_written = 0
        self.last_unix_s = 0.0
        self.points: deque[OperatingPoint] = deque(maxlen=POINTS_KEPT)
        self.point_changes = 0
        self.samples: deque[QueryTimeline] = deque(maxlen=SAMPLES_KEPT)
        self._sampled_s = float("-inf")
        self._seconds = [Second.empty() for _ in range(WINDOW_S + 1)]
        self._unanswered: dict[int, QueryRecord] = {}

    def second(self, now_s: float) -> Second:
        """The counters of the second that `now_s` lies in."""
        at = int(now_s)
        found = self._seconds[at % len(self._seconds)]
        if found.at != at:
            found.begin(at)
        return found

    def last(self, seconds: int, now_s: float) -> list[Second]:
        """The last whole seconds in which anything happened, oldest first."""
        now = int(now_s)
        return sorted((s for s in self._seconds if now - seconds <= s.at < now), key=lambda s: s.at)

    def query_ended(self, r: QueryRecord) -> None:
        reason = r.reason if r.reason in REASONS else OTHER
        self.ended[r.outcome, reason] += 1
        second = self.second(r.finish_s if r.finish_s == r.finish_s else r.arrival_s)
        second.offered += 1
        if r.outcome is not QueryOutcome.SERVED:
            second.not_served[reason or r.outcome] += 1
            if r.outcome is QueryOutcome.FAILED:
                self.failed.add(max(0.0, r.finish_s - r.arrival_s) if r.finish_s == r.finish_s else 0.0)
            return
        latency = r.finish_s - r.arrival_s
        self.queue_s.observe(r.start_s - r.arrival_s)
        self.run_s.observe(r.finish_s - r.start_s)
        self.latency_s.observe(latency)
        self.query_items.observe(r.items)
        self.slices.observe(r.slices)
        self.served.add(latency)
        self.compute.add(r.compute_s)
        self.items += r.items
        self.last_unix_s = time.time() - (time.monotonic() - r.finish_s)
        second.items += r.items
        second.latency_s.observe(latency)
        if len(self._unanswered) >= _UNANSWERED_KEPT:
            del self._unanswered[next(iter(self._unanswered))]
        self._unanswered[r.id] = r

    def answered(self, query: int, fill_s: float, scored_s: float, encoded_s: float) -> None:
        self.fill.add(fill_s)
        self.encode.add(encoded_s - scored_s)
        r = self._unanswered.pop(query, None)
        if r is None:
            return
        merge_s = max(0.0, encoded_s - r.finish_s)
        self.merge_s.observe(merge_s)
        if encoded_s >= self._sampled_s + SAMPLE_EVERY_S:
            self._sampled_s = encoded_s
            queue_s, run_s = r.start_s - r.arrival_s, r.finish_s - r.start_s
            self.samples.append(QueryTimeline(r.id, r.items, r.slices, r.finish_s, queue_s, run_s, merge_s))

    def batch_ended(self, r: BatchRecord) -> None:
        self.batch_items.observe(r.items)
        self.batches.setdefault(r.items, Duration()).add(r.ended_s - r.started_s)
        self.device_batches[r.device] += 1
        self.device_items[r.device] += r.items
        second = self.second(r.ended_s)
        second.batches += 1
        second.scored += r.items
        second.offloaded += r.items if r.device == GPU else 0
        second.batch_items.observe(r.items)


class Counters:
    """The counters of all models; a `QueryListener`.

    Events are kept and counted together: on a core whose caches the workers have emptied, code that runs for
    many queries at once costs a fraction of what it costs query by query.
    """

    def __init__(self) -> None:
        self._models: dict[str, ModelCounters] = {}
        self._pending: list[tuple[str, Callable[..., None], tuple[Any, ...]]] = []

    def of(self, model: str) -> ModelCounters:
        """A model's counters, up to now."""
        self._count()
        return self._of(model)

    def query_ended(self, record: QueryRecord) -> None:
        self._keep(record.model, ModelCounters.query_ended, record)

    def batch_ended(self, record: BatchRecord) -> None:
        self._keep(record.model, ModelCounters.batch_ended, record)

    def point_changed(self, model: str, point: OperatingPoint) -> None:
        found = self._of(model)
        found.point_changes += bool(found.points)
        found.points.append(point)

    def answered(self, model: str, query: int, fill_s: float, scored_s: float, encoded_s: float) -> None:
        """A query's reply is ready to be sent.

        Args:
            fill_s: time that its inputs took to be written into the seat.
            scored_s: when its scores came; encoded_s: when they were encoded.
        """
        self._keep(model, ModelCounters.answered, query, fill_s, scored_s, encoded_s)

    def not_finite(self, model: str) -> None:
        """A query's scores were refused, as they were not finite."""
        self._of(model).not_finite += 1

    def load_ended(self, model: str, record: LoadRecord) -> None:
        """Weights were loaded, or refused."""
        found = self._of(model)
        found.loads["refused" if record.refused else "loaded"] += 1
        found.last_load = record

    def rows_written(self, model: str, rows: int) -> None:
        """Rows of tables were replaced."""
        found = self._of(model)
        found.rows_written += rows
        found.second(time.monotonic()).rows += rows

    def _of(self, model: str) -> ModelCounters:
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = ModelCounters()
        return found

    def _keep(self, model: str, count: Callable[..., None], *event: Any) -> None:
        self._pending.append((model, count, event))
        if len(self._pending) >= PENDING:
            self._count()

    def _count(self) -> None:
        pending, self._pending = self._pending, []
        for model, count, event in pending:
            count(self._of(model), *event)
