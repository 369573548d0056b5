"""Offload by prediction: a query goes to the device that will complete it first."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.policy.base import CPU, GPU, WHOLE, BatchDecision, LineView, Placement, PolicyState, View
from deeprecsys.core.policy.linear_time import LinearTime
from deeprecsys.core.policy.offload import Offload, merged
from deeprecsys.core.query import Batch, Query, cut


@dataclass(frozen=True, slots=True)
class Earliest(Offload):
    """Send a query where it will be done first: CPU workers, or the accelerator.

    Queries of more than `offload_above` items may go to either device, smaller ones stay on the CPU: a
    small query is done soon on an idle accelerator too, but takes more of its time than it is worth.
    Both devices' s(b) are learnt, as lines, from batches as they finish. What is predicted: the work that
    was placed on the device and is not done, spread over its workers, and the query's own time after it.
    The accelerator merges what waits, as in `Offload`.
    """

    name = "earliest"

    def begin(self) -> PolicyState:
        return _State(self)


class _State(PolicyState):
    """The batch times learnt in one run."""

    def __init__(self, policy: Earliest) -> None:
        self._policy = policy
        # Optimistic about the accelerator: a device that is thought slow is never tried, and stays so.
        self._time = {CPU: LinearTime(), GPU: LinearTime(flat=True)}

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        p = self._policy
        if query.size > p.offload_above:
            on_gpu_s = self._ahead_s(GPU, view) + self._time[GPU].seconds(query.size)
            if on_gpu_s < self._ahead_s(CPU, view) + self._on_cpu_s(query, view):
                return Placement(GPU, WHOLE)
        return Placement(CPU, p.batch_size)

    def _on_cpu_s(self, query: Query, view: View) -> float:
        """Seconds of a query once its turn on the CPU has come: its work on all workers, or one slice."""
        parts = cut(query, self._policy.batch_size)
        batch_s, item_s = self._time[CPU].coefficients()
        work_s = batch_s * len(parts) + item_s * query.size
        return max(work_s / max(view.workers(CPU), 1), batch_s + item_s * parts[0].items)

    def _ahead_s(self, device: str, view: View) -> float:
        """Seconds until a query's turn: what waits, in batches of the mean length, and half of what runs."""
        time, waiting = self._time[device], view.waiting_items(device)
        items, took_s = time.mean()
        batch_s, item_s = time.coefficients()
        running = view.workers(device) - view.idle(device)
        waiting_s = batch_s * waiting / max(items, 1.0) + item_s * waiting
        return (waiting_s + took_s * running / 2) / max(view.workers(device), 1)

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        return merged(line, self._policy.device_batch)

    def finished(self, batch: Batch, took_s: float) -> None:
        self._time[batch.device].learn(batch.items, took_s)
