"""Beyond the paper's offload: queries that share a device batch, and the device that will be done first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from deeprecsys.core.errors import at_least
from deeprecsys.core.policy.linear_time import LinearTime
from deeprecsys.core.policy.base import (
    CPU,
    GPU,
    SLICE,
    WHOLE,
    Forming,
    LineView,
    Placement,
    PolicyBase,
    Rules,
    Take,
    View,
)
from deeprecsys.core.query import Batch, Query, cut


@dataclass(frozen=True, slots=True)
class _Offloading(PolicyBase):
    """The knobs of a policy whose accelerator merges whole queries."""

    NAME: ClassVar[str]

    batch_size: int
    offload_above: int
    device_batch: int

    def __post_init__(self) -> None:
        at_least(1, "batch size", self.batch_size)
        at_least(0, "offload above", self.offload_above)
        at_least(1, "device batch", self.device_batch)

    @property
    def devices(self) -> tuple[str, ...]:
        return (CPU, GPU)

    @property
    def mixes(self) -> bool:
        return True

    def describe(self) -> dict[str, Any]:
        return {
            "policy": self.NAME,
            "batch_size": self.batch_size,
            "offload_above": self.offload_above,
            "device_batch": self.device_batch,
        }


@dataclass(frozen=True, slots=True)
class Offload(_Offloading):
    """`DeepRecSched` whose accelerator merges whole queries that wait into one batch.

    An accelerator's time rises slowly with the batch, so two queries in one batch take less of it than one
    after the other. It never waits for more: what waits when it is free is merged, in order, up to
    `device_batch` items; a query that is larger runs alone.
    """

    NAME: ClassVar[str] = "offload"

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        if query.size > self.offload_above:
            return Placement(GPU, WHOLE)
        return Placement(CPU, self.batch_size)

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
        return merged(line, self.device_batch)


@dataclass(frozen=True, slots=True)
class Earliest(_Offloading):
    """Send a query where it will be done first: CPU workers, or the accelerator.

    Queries of more than `offload_above` items may go to either device, smaller ones stay on the CPU: a
    small query is done soon on an idle accelerator too, but takes more of its time than it is worth.
    Both devices' s(b) are learnt, as lines, from batches as they finish. What is predicted: the work that
    was placed on the device and is not done, spread over its workers, and the query's own time after it.
    The accelerator merges what waits, as in `Offload`.
    """

    NAME: ClassVar[str] = "earliest"

    def begin(self) -> Rules:
        return _Predicted(self)


class _Predicted:
    """`Earliest` in one run."""

    def __init__(self, policy: Earliest) -> None:
        self._policy = policy
        # Hopeful of the accelerator: what is thought slow is never tried, and never learnt to be fast.
        self._time = {CPU: LinearTime(), GPU: LinearTime(flat=True)}

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        p = self._policy
        if query.size > p.offload_above:
            on_gpu_s = self._ahead_s(GPU, view) + self._time[GPU].seconds(query.size)
            if on_gpu_s < self._ahead_s(CPU, view) + self._on_cpu_s(query, view):
                return Placement(GPU, WHOLE)
        return Placement(CPU, p.batch_size)

    def _on_cpu_s(self, query: Query, view: View) -> float:
        """What a query takes once its turn on the CPU has come: its work on all workers, or one slice."""
        parts = cut(query, self._policy.batch_size)
        batch_s, item_s = self._time[CPU].coefficients()
        work_s = batch_s * len(parts) + item_s * query.size
        return max(work_s / max(view.workers(CPU), 1), batch_s + item_s * parts[0].items)

    def _ahead_s(self, device: str, view: View) -> float:
        """Until a query's turn comes: what waits in batches as they have been, and half of what runs."""
        time, waiting = self._time[device], view.waiting_items(device)
        items, took_s = time.mean()
        batch_s, item_s = time.coefficients()
        running = view.workers(device) - view.idle(device)
        waiting_s = batch_s * waiting / max(items, 1.0) + item_s * waiting
        return (waiting_s + took_s * running / 2) / max(view.workers(device), 1)

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
        return merged(line, self._policy.device_batch)

    def finished(self, batch: Batch, took_s: float) -> None:
        self._time[batch.device].learn(batch.items, took_s)


def merged(line: LineView, device_batch: int) -> Forming:
    """What a worker takes: on the CPU the head, on the accelerator what waits, up to a maximum, whole."""
    if line.device == CPU:
        return SLICE
    return Take(device_batch, merge=True, split=False)
