"""Deadline order: queries that are late already wait behind those that can still be in time."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.policy.base import (
    BATCH_SIZE,
    CPU,
    LATENCY,
    WHOLE,
    BatchDecision,
    Defer,
    LineView,
    Placement,
    Policy,
    PolicyState,
    Take,
    View,
)
from deeprecsys.core.policy.linear_time import LinearTime
from deeprecsys.core.query import Batch, Query


@dataclass(frozen=True, slots=True)
class Deadline(Policy):
    """Queries in order of the time by which they must have started; late ones go last.

    A query is due to start at arrival + `latency_s` - the time of its longest batch, which is learnt from
    batches as they finish. One that has not started by then is late whatever is done: it is deferred until
    nothing else waits, so that one late query does not make the next late too. All are served. The slowest
    queries pay for the lower p95: compare p99 as well.
    """

    name = "deadline"
    knobs = (BATCH_SIZE, LATENCY)
    searched = False

    batch_size: int
    latency_s: float

    def begin(self) -> _State:
        return _State(self)


class _State(PolicyState):
    """The batch times learnt in one run."""

    def __init__(self, policy: Deadline) -> None:
        self._batch_size, self._latency_s = policy.batch_size, policy.latency_s
        self._time = LinearTime()

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, WHOLE, query.arrival_s + self._latency_s - self._longest_s(query.size))

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        part = line.head
        if not line.deferred and now_s > part.query.arrival_s + self._latency_s - self._longest_s(part.items):
            return Defer()
        items = part.items
        if items <= self._batch_size:
            return Take()
        return Take(-(-items // -(-items // self._batch_size)))

    def _longest_s(self, items: int) -> float:
        return self._time.seconds(min(items, self._batch_size))

    def finished(self, batch: Batch, took_s: float) -> None:
        self._time.learn(batch.items, took_s)
