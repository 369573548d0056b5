"""Batches that several queries share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeprecsys.core.policy.adaptive import rising, share
from deeprecsys.core.policy.base import Forming, LineView, PolicyBase, Take, View


@dataclass(frozen=True, slots=True)
class Coalescing(PolicyBase):
    """Fill batches from the line by items, across queries, and never wait for more.

    A free worker takes what waits, spread over all that are free as in `Adaptive`, up to `batch_size` items.
    Small queries share a batch's overhead; a large one is cut where a batch is full.
    """

    batch_size: int
    finest: int

    def __post_init__(self) -> None:
        rising(self.finest, self.batch_size)

    @property
    def mixes(self) -> bool:
        return True

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
        return Take(share(line, view, self.finest, self.batch_size), merge=True)

    def describe(self) -> dict[str, Any]:
        return {
            "policy": "coalescing",
            "batch_size": self.batch_size,
            "finest": self.finest,
            "offload_above": None,
        }
