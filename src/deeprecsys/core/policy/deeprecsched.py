"""The paper's policy: one batch size on the cores, large queries whole on the accelerator."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.policy.base import BATCH_SIZE, CPU, GPU, OFFLOAD_ABOVE, Placement, Policy, View
from deeprecsys.core.query import Query


@dataclass(frozen=True, slots=True)
class DeepRecSched(Policy):
    """Cut queries into batches over the cores, offload large ones whole (paper §IV).

    Queries of more than `offload_above` items go to the accelerator uncut; None keeps all on the CPU,
    0 sends all away.
    """

    name = "deeprecsched"
    knobs = (BATCH_SIZE, OFFLOAD_ABOVE._replace(default=lambda setting: None))
    keeps_whole = True

    batch_size: int
    offload_above: int | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        return (CPU,) if self.offload_above is None else (CPU, GPU)

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        if self.offload_above is not None and query.size > self.offload_above:
            return Placement(GPU, query.size)
        return Placement(CPU, self.batch_size)
