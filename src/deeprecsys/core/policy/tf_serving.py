"""What TensorFlow Serving's batching with large-batch splitting does, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.errors import not_negative
from deeprecsys.core.policy.base import BATCH_SIZE, BatchDecision, Hold, Knob, LineView, Policy, Take, View


@dataclass(frozen=True, slots=True)
class TFServing(Policy):
    """Batches of exactly the maximum size, cut across queries; a part-filled one leaves after a timeout."""

    name = "tf-serving"
    knobs = (BATCH_SIZE, Knob("timeout_s", lambda setting: 0.0, "TIMEOUT_MS", check=not_negative))
    searched = False
    merges_queries = True

    batch_size: int
    timeout_s: float = 0.0

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        until_s = line.head.query.arrival_s + self.timeout_s
        if line.items < self.batch_size and now_s < until_s:
            return Hold(until_s)
        return Take(self.batch_size, merge=True)
