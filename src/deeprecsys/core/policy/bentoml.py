"""What BentoML's adaptive batching does in essence, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.policy.base import (
    WHOLE_BATCH,
    BatchDecision,
    Hold,
    LineView,
    Policy,
    PolicyState,
    Take,
    View,
)
from deeprecsys.core.policy.linear_time import LinearTime
from deeprecsys.core.query import Batch

TICK_S = 1e-3
"""Seconds between two checks of whether to wait longer."""


@dataclass(frozen=True, slots=True)
class BentoML(Policy):
    """Wait for more queries while that costs those in line less than the overhead of a batch.

    Overhead and time per item come from a least-squares line through the batches that have finished. Whole
    queries share a batch of at most `batch_size` items. BentoML answers 429 to queries that will be late;
    here all are served, since a capacity counts only then.
    """

    name = "bentoml"
    knobs = (WHOLE_BATCH,)
    searched = False
    merges_queries = True
    keeps_whole = True

    batch_size: int

    def begin(self) -> _State:
        return _State(self.batch_size)


class _State(PolicyState):
    """The batch times learnt in one run."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._time = LinearTime()

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        batch_s, item_s = self._time.coefficients()
        waited_s = max(now_s - line.newest_s, 0.0)
        costs_s = line.slices * (waited_s + TICK_S + item_s)
        if line.items < self._batch_size and costs_s <= batch_s:
            return Hold(now_s + TICK_S)
        return Take(self._batch_size, merge=True, split=False)

    def finished(self, batch: Batch, took_s: float) -> None:
        self._time.learn(batch.items, took_s)
