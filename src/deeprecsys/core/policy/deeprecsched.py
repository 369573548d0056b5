"""The paper's policies: one batch size for all queries, whatever the state of the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeprecsys.core.errors import at_least
from deeprecsys.core.policy.base import CPU, GPU, Placement, PolicyBase, View
from deeprecsys.core.query import Query


@dataclass(frozen=True, slots=True)
class Static(PolicyBase):
    """The baseline: one batch size for good, all work on the CPU, one first-come-first-served line."""

    batch_size: int

    def __post_init__(self) -> None:
        at_least(1, "batch size", self.batch_size)

    @classmethod
    def baseline(cls, largest_query: int, cores: int) -> Static:
        """The usual choice: the largest query spread over all cores (paper §V; docs/facts.md §4)."""
        return cls(batch_size=-(-largest_query // cores))

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, self.batch_size)

    def describe(self) -> dict[str, Any]:
        return {"policy": "static", "batch_size": self.batch_size, "offload_above": None}


@dataclass(frozen=True, slots=True)
class DeepRecSched(PolicyBase):
    """The paper's policy (§IV): cut queries into batches over the cores, offload large ones whole.

    Queries of more than `offload_above` items go to the accelerator uncut; None keeps all on the CPU,
    0 sends all away.
    """

    batch_size: int
    offload_above: int | None = None

    def __post_init__(self) -> None:
        at_least(1, "batch size", self.batch_size)
        if self.offload_above is not None:
            at_least(0, "offload above", self.offload_above)

    @property
    def devices(self) -> tuple[str, ...]:
        return (CPU,) if self.offload_above is None else (CPU, GPU)

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        if self.offload_above is not None and query.size > self.offload_above:
            return Placement(GPU, query.size)
        return Placement(CPU, self.batch_size)

    def describe(self) -> dict[str, Any]:
        return {
            "policy": "deeprecsched",
            "batch_size": self.batch_size,
            "offload_above": self.offload_above,
        }
