"""What BentoML's adaptive batching does in essence, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeprecsys.core.errors import at_least
from deeprecsys.core.policy.linear_time import LinearTime
from deeprecsys.core.policy.base import (
    CPU,
    WHOLE,
    Forming,
    Hold,
    LineView,
    Placement,
    PolicyBase,
    Take,
    View,
)
from deeprecsys.core.query import Batch, Query

TICK_S = 1e-3
"""How long it waits for more before it looks again."""


@dataclass(frozen=True, slots=True)
class BentoML(PolicyBase):
    """Wait for more queries while that costs those in line less than the overhead of a batch.

    Overhead and time per item come from a least-squares line through the batches that have finished. Whole
    queries share a batch of at most `batch_size` items. BentoML answers 429 to queries that will be late;
    here all are served, since a capacity counts only then.
    """

    batch_size: int

    def __post_init__(self) -> None:
        at_least(1, "batch size", self.batch_size)

    @property
    def mixes(self) -> bool:
        return True

    def begin(self) -> _Waiting:
        return _Waiting(self.batch_size)

    def describe(self) -> dict[str, Any]:
        return {"policy": "bentoml", "batch_size": self.batch_size, "offload_above": None}


class _Waiting:
    """The dispatcher in one run."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._time = LinearTime()

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, WHOLE)

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
        batch_s, item_s = self._time.coefficients()
        waited_s = max(now_s - line.newest_s, 0.0)
        costs_s = line.slices * (waited_s + TICK_S + item_s)
        if line.items < self._batch_size and costs_s <= batch_s:
            return Hold(now_s + TICK_S)
        return Take(self._batch_size, merge=True, split=False)

    def finished(self, batch: Batch, took_s: float) -> None:
        self._time.learn(batch.items, took_s)
