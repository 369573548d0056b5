"""Batch sizes that follow the state of the node: fine cuts while workers idle, few large ones under load."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.errors import InputError, at_least
from deeprecsys.core.policy.base import BATCH_SIZE, FINEST, BatchDecision, LineView, Policy, Take, View


@dataclass(frozen=True, slots=True)
class Adaptive(Policy):
    """Cut late: when a worker is free, by what waits then and how many workers are free to share it.

    What waits is spread over the idle workers, in batches of at least `finest` and at most `batch_size`
    items; a query's cuts are as equal as can be. A cut costs a batch's overhead, so a fine one is made only
    where cores would otherwise idle; once there is a line, each batch is of the size that makes the least
    total work (docs/facts.md §6). `finest` = `batch_size` is one batch size for all.
    """

    name = "adaptive"
    knobs = (BATCH_SIZE, FINEST)

    batch_size: int
    finest: int

    def __post_init__(self) -> None:
        at_least(1, "finest batch", self.finest)
        at_least(1, "batch size", self.batch_size)
        if self.finest > self.batch_size:
            raise InputError(
                f"finest batch: expected at most the batch size of {self.batch_size}, got {self.finest}"
            )

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        items = line.head.items
        size = share(line, view, self.finest, self.batch_size)
        return Take(-(-items // -(-items // size))) if items > size else Take()


def share(line: LineView, view: View, finest: int, coarsest: int) -> int:
    """What waits, spread over the workers that are free, within bounds: items of the next batch."""
    return min(max(-(-line.items // max(view.idle(line.device), 1)), finest), coarsest)
