"""What Triton's dynamic batcher does, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.errors import not_negative
from deeprecsys.core.policy.base import WHOLE_BATCH, BatchDecision, Hold, Knob, LineView, Policy, Take, View


@dataclass(frozen=True, slots=True)
class Triton(Policy):
    """Merge whole queries up to a maximum batch; wait at most a maximum delay for it to fill.

    Triton refuses a request that is larger than `max_batch_size`. Here it runs alone and whole, since a
    capacity counts only where every query is served.
    """

    name = "triton"
    knobs = (WHOLE_BATCH, Knob("delay_s", lambda setting: 0.0, "DELAY_MS", check=not_negative))
    searched = False
    merges_queries = True
    keeps_whole = True

    batch_size: int
    delay_s: float = 0.0

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        until_s = line.head.query.arrival_s + self.delay_s
        if line.items < self.batch_size and now_s < until_s:
            return Hold(until_s)
        return Take(self.batch_size, merge=True, split=False)
