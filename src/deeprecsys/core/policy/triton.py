"""What Triton's dynamic batcher does, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeprecsys.core.errors import at_least, not_negative
from deeprecsys.core.policy.base import Forming, Hold, LineView, PolicyBase, Take, View


@dataclass(frozen=True, slots=True)
class Triton(PolicyBase):
    """Merge whole queries up to a maximum batch; wait at most a maximum delay for it to fill.

    Triton refuses a request that is larger than `max_batch_size`. Here it runs alone and whole, since a
    capacity counts only where every query is served.
    """

    batch_size: int
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, "batch size", self.batch_size)
        not_negative("delay", self.delay_s)

    @property
    def mixes(self) -> bool:
        return True

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
        until_s = line.head.query.arrival_s + self.delay_s
        if line.items < self.batch_size and now_s < until_s:
            return Hold(until_s)
        return Take(self.batch_size, merge=True, split=False)

    def describe(self) -> dict[str, Any]:
        return {
            "policy": "triton",
            "batch_size": self.batch_size,
            "delay_ms": 1e3 * self.delay_s,
            "offload_above": None,
        }
