"""Order by deadline: whoever cannot make it any more lets the others pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeprecsys.core.errors import at_least, positive
from deeprecsys.core.policy.linear_time import LinearTime
from deeprecsys.core.policy.base import (
    CPU,
    WHOLE,
    Defer,
    Forming,
    LineView,
    Placement,
    PolicyBase,
    Take,
    View,
)
from deeprecsys.core.query import Batch, Query


@dataclass(frozen=True, slots=True)
class Deadline(PolicyBase):
    """Queries in order of the time by which they must have started; the late ones go last.

    A query is due to start at arrival + `latency_s` - the time of its longest batch, which is learnt from
    batches as they finish. One that has not started by then is late whatever is done: it is deferred until
    nothing else waits, so that one late query does not make the next late too. All are served. What it
    wins at p95 the slowest queries pay for: look at p99 beside it.
    """

    batch_size: int
    latency_s: float

    def __post_init__(self) -> None:
        at_least(1, "batch size", self.batch_size)
        positive("latency", self.latency_s)

    def begin(self) -> _Ordered:
        return _Ordered(self)

    def describe(self) -> dict[str, Any]:
        return {
            "policy": "deadline",
            "batch_size": self.batch_size,
            "latency_ms": 1e3 * self.latency_s,
            "offload_above": None,
        }


class _Ordered:
    """Deadline order in one run."""

    def __init__(self, policy: Deadline) -> None:
        self._batch_size, self._latency_s = policy.batch_size, policy.latency_s
        self._time = LinearTime()

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, WHOLE, query.arrival_s + self._latency_s - self._longest_s(query.size))

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
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
