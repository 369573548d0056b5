"""The baseline: one batch size for all queries, whatever the state of the node."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.policy.base import BATCH_SIZE, CPU, Placement, Policy, View
from deeprecsys.core.query import Query


@dataclass(frozen=True, slots=True)
class Static(Policy):
    """One batch size for good, all work on the CPU, one first-come-first-served line."""

    name = "static"
    knobs = (BATCH_SIZE,)
    keeps_whole = True

    batch_size: int

    @classmethod
    def baseline(cls, largest_query: int, cores: int) -> Static:
        """The usual choice: the largest query spread over all cores (paper §V; docs/facts.md §4)."""
        return cls(batch_size=-(-largest_query // cores))

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, self.batch_size)
