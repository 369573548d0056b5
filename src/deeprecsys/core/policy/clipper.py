"""What Clipper does: additive increase, multiplicative decrease of the batch size, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.policy.base import (
    ITEMS,
    LATENCY,
    BatchDecision,
    Knob,
    LineView,
    Policy,
    PolicyState,
    Take,
    View,
)
from deeprecsys.core.query import Batch

BACK_OFF = 0.9
"""Factor of the batch size after a batch that took too long (NSDI 2017, §4.3)."""


@dataclass(frozen=True, slots=True)
class Clipper(Policy):
    """Raise the largest batch by `step` items until a batch takes longer than `latency_s`.

    Then lower it by a tenth (NSDI 2017, §4.3). Whole queries share a batch; one larger than the limit runs
    alone. Nothing waits for a batch to fill.
    """

    name = "clipper"
    knobs = (LATENCY, Knob("step", lambda setting: 16, "STEP", check=ITEMS))
    searched = False
    merges_queries = True

    latency_s: float
    step: int = 16

    def begin(self) -> _State:
        return _State(self.latency_s, self.step)


class _State(PolicyState):
    """The largest batch of one run, as it changes."""

    def __init__(self, latency_s: float, step: int) -> None:
        self._latency_s, self._step = latency_s, step
        self._limit = float(step)

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        return Take(int(self._limit), merge=True, split=False)

    def finished(self, batch: Batch, took_s: float) -> None:
        if took_s > self._latency_s:
            self._limit = max(self._limit * BACK_OFF, 1.0)
        elif batch.items >= BACK_OFF * self._limit:  # nearly full: evidence that more would still do
            self._limit += self._step
