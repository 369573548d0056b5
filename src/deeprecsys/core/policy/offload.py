"""The paper's offload, with queries that share a batch of the accelerator."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.policy.base import (
    BATCH_SIZE,
    CPU,
    DEVICE_BATCH,
    GPU,
    OFFLOAD_ABOVE,
    SLICE,
    WHOLE,
    BatchDecision,
    LineView,
    Placement,
    Policy,
    Take,
    View,
)
from deeprecsys.core.query import Query


@dataclass(frozen=True, slots=True)
class Offload(Policy):
    """`DeepRecSched` whose accelerator merges whole queries that wait into one batch.

    An accelerator's time rises slowly with the batch, so two queries in one batch take less of it than one
    after the other. It never waits for more: what waits when it is free is merged, in order, up to
    `device_batch` items; a query that is larger runs alone.
    """

    name = "offload"
    knobs = (BATCH_SIZE, OFFLOAD_ABOVE, DEVICE_BATCH)
    merges_queries = True

    batch_size: int
    offload_above: int
    device_batch: int

    @property
    def devices(self) -> tuple[str, ...]:
        return (CPU, GPU)

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        if query.size > self.offload_above:
            return Placement(GPU, WHOLE)
        return Placement(CPU, self.batch_size)

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        return merged(line, self.device_batch)


def merged(line: LineView, device_batch: int) -> BatchDecision:
    """What a worker takes: on the CPU the head, on the accelerator what waits, up to a maximum, whole."""
    if line.device == CPU:
        return SLICE
    return Take(device_batch, merge=True, split=False)
