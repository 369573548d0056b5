"""What Clipper does: additive increase, multiplicative decrease of the batch size, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeprecsys.core.errors import at_least, positive
from deeprecsys.core.policy.base import CPU, WHOLE, Forming, LineView, Placement, PolicyBase, Take, View
from deeprecsys.core.query import Batch, Query

BACK_OFF = 0.9


@dataclass(frozen=True, slots=True)
class Clipper(PolicyBase):
    """Raise the largest batch by `step` items until a batch takes longer than the latency objective.

    Then lower it by a tenth (NSDI 2017, §4.3). Whole queries share a batch; one larger than the limit runs
    alone. Nothing waits for a batch to fill.
    """

    latency_s: float
    step: int = 16

    def __post_init__(self) -> None:
        positive("latency", self.latency_s)
        at_least(1, "step", self.step)

    @property
    def mixes(self) -> bool:
        return True

    def begin(self) -> _Climbing:
        return _Climbing(self.latency_s, self.step)

    def describe(self) -> dict[str, Any]:
        return {
            "policy": "clipper",
            "batch_size": None,
            "latency_ms": 1e3 * self.latency_s,
            "step": self.step,
            "offload_above": None,
        }


class _Climbing:
    """The limit of one run, as it moves."""

    def __init__(self, latency_s: float, step: int) -> None:
        self._latency_s, self._step = latency_s, step
        self._limit = float(step)

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, WHOLE)

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
        return Take(int(self._limit), merge=True, split=False)

    def finished(self, batch: Batch, took_s: float) -> None:
        if took_s > self._latency_s:
            self._limit = max(self._limit * BACK_OFF, 1.0)
        elif batch.items >= BACK_OFF * self._limit:  # nearly full: evidence that more would still do
            self._limit += self._step
