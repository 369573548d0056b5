"""Shortest query first: a policy in one file.

deeprecsys simulate --profile wnd.json --policy examples/policies/shortest_first.py:ShortestFirst
deeprecsys tune wnd --policy examples/policies/shortest_first.py:ShortestFirst
deeprecsys serve wnd --policy examples/policies/shortest_first.py:ShortestFirst
"""

from dataclasses import dataclass

from deeprecsys.core.policy import BATCH_SIZE, CPU, Placement, Policy, View
from deeprecsys.core.query import Query


@dataclass(frozen=True, slots=True)
class ShortestFirst(Policy):
    """Cut queries into batches of one size; of those that wait, the one with the fewest items goes first.

    The mean latency is the least of all orders, and large queries pay for it under load.
    """

    name = "shortest-first"
    knobs = (BATCH_SIZE,)

    batch_size: int

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, self.batch_size, due_s=query.size)
