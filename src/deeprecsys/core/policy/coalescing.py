"""Batches that several queries share."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.policy.adaptive import Adaptive, share
from deeprecsys.core.policy.base import BatchDecision, LineView, Take, View


@dataclass(frozen=True, slots=True)
class Coalescing(Adaptive):
    """Fill batches from the line by items, across queries, and never wait for more.

    A free worker takes what waits, spread over all that are free as in `Adaptive`, up to `batch_size` items.
    Small queries share a batch's overhead; a large one is cut where a batch is full.
    """

    name = "coalescing"
    merges_queries = True

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        return Take(share(line, view, self.finest, self.batch_size), merge=True)
