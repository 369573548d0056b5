"""Trials in virtual time in which a policy counts work as it will, and batches take what their items take."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.events import Arrive, Complete, Event, Finish, Start, Tick
from deeprecsys.core.policy import CPU, Policy
from deeprecsys.core.query import Batch, Query, Slice
from deeprecsys.core.work import item_at
from deeprecsys.workload.stream import Stream
from deeprecsys.workload.work import PoolWork


def latencies_s(
    policy: Policy, stream: Stream, true: PoolWork, seconds: Callable[[float], float], workers: int
) -> NDArray[np.float64]:
    """[n] seconds from arrival to completion of a stream's queries.

    Args:
        stream: its sizes are what the policy counts: items, or work at any share.
        true: the work that batches take; seconds: of a batch of so much work.
    """
    dispatcher = Dispatcher(policy, {CPU: workers})
    queries, items = stream.queries(), stream.items.tolist()
    running: list[tuple[float, int, Batch]] = []
    found = np.full(len(queries), np.nan)

    def work(s: Slice) -> float:
        """What a slice takes whose bounds are the policy's units."""
        q, first = s.query, true.first(s.query.features)
        bounds = [s.start, s.stop]
        if stream.work is not None:
            bounds = [item_at(stream.work.before, first, items[q.id], at, q.size) for at in bounds]
        return true.before[first + bounds[1]] - true.before[first + bounds[0]]

    def handle(event: Event, now_s: float) -> None:
        for command in dispatcher.handle(event, now_s):
            match command:
                case Start(batch):
                    took_s = seconds(sum(map(work, batch.slices)))
                    heappush(running, (now_s + took_s, batch.id, batch))
                case Complete(query):
                    found[query.id] = now_s - query.arrival_s

    waiting: list[Query] = queries[::-1]
    while waiting or running:
        due_s = waiting[-1].arrival_s if waiting else inf
        wake_s = dispatcher.wake_s
        if running and running[0][0] <= min(due_s, wake_s):
            now_s, _, batch = heappop(running)
            handle(Finish(batch), now_s)
        elif wake_s <= due_s:
            handle(Tick(), wake_s)
        else:
            handle(Arrive(waiting.pop()), due_s)
    return found
