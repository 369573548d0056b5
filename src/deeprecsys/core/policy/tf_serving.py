"""What TensorFlow Serving's batching with large-batch splitting does, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeprecsys.core.errors import at_least, not_negative
from deeprecsys.core.policy.base import Forming, Hold, LineView, PolicyBase, Take, View


@dataclass(frozen=True, slots=True)
class TFServing(PolicyBase):
    """Batches of exactly the maximum size, cut across queries; a part-filled one leaves after a timeout."""

    batch_size: int
    timeout_s: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, "batch size", self.batch_size)
        not_negative("timeout", self.timeout_s)

    @property
    def mixes(self) -> bool:
        return True

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
        until_s = line.head.query.arrival_s + self.timeout_s
        if line.items < self.batch_size and now_s < until_s:
            return Hold(until_s)
        return Take(self.batch_size, merge=True)

    def describe(self) -> dict[str, Any]:
        return {
            "policy": "tf-serving",
            "batch_size": self.batch_size,
            "timeout_ms": 1e3 * self.timeout_s,
            "offload_above": None,
        }
