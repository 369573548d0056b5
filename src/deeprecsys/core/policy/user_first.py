"""The paper's policy on the cores, with what depends on the user alone computed once for each query."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.policy.base import BATCH_SIZE, CPU, Placement, Policy, View
from deeprecsys.core.query import Query


@dataclass(frozen=True, slots=True)
class UserFirst(Policy):
    """Cut queries into batches over the cores; of those that are cut, the user stage runs before the slices.

    A query that is one batch computes the user's side in it, as under every other policy.
    """

    name = "user-first"
    knobs = (BATCH_SIZE,)
    keeps_whole = True
    user_first = True

    batch_size: int

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, self.batch_size, user_first=True)
