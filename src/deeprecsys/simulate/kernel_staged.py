"""The compiled event loop of `UserFirst`: a query that is cut has a user stage, which its slices wait for.

Like `simulate.kernel` it repeats in arrays what `core.Dispatcher` decides and `simulate.driver` does;
tests/simulate/test_fast.py compares them event for event. Queries wait in order of arrival. One whose stage
has run came before all that have not begun, so its slices go first, in order of arrival among their like.
"""

from __future__ import annotations

import numpy as np

from deeprecsys.core.profile import LEAST_SHARE
from deeprecsys.jit import compiled
from deeprecsys.simulate.kernel import SERVED, SHED, Batches, LoadArrays, TimeArrays, enter, quantile, record


@compiled
def run_staged(
    load: LoadArrays,
    service: TimeArrays,
    kept: Batches,
    workers: int,
    batch_size: int,
    stage_s: float,
    staged_s: float,
    most_queries: int,
    most_items: int,
) -> tuple[float, int]:
    """Follow every query to its end; fills `load` (and `kept`); returns worker-seconds and number of batches.

    Of a batch that is a user stage, `kept.items` is 0.
    """
    arrival, size, start, finish, status, left = load
    seconds, points, level_of, draws = service
    queries, keep, spread = len(arrival), len(kept.query) > 0, len(draws) > 0
    _, levels, rows, width = seconds.shape
    times = seconds.reshape(-1)
    ring = 2  # length of the ring, a power of two
    while ring <= workers:
        ring *= 2
    ring_finish, ring_worker = np.zeros(ring), np.zeros(ring, np.int64)  # by finish time
    head, tail = 0, 0  # of the ring; the difference is running
    runs, holds = np.zeros(workers, np.int64), np.zeros(workers, np.int64)  # each worker's query, and items
    idle = np.arange(workers - 1, -1, -1)  # a stack: worker 0 starts first
    ended = np.full(workers, -np.inf)  # when a worker's last batch did
    free = workers
    part = np.zeros(queries, np.int32)  # the next slice of a query whose stage has run
    ready = np.zeros(workers + 1, np.int64)  # such queries that have slices waiting, the first of them last
    ready_count = 0
    room = len(ready)
    line, waiting = 0, 0  # the first query that has not begun, and items that wait
    batch, opened, arrived, busy_s = 0, 0, 0, 0.0
    line_end = 0
    order = np.zeros(queries, np.int32)  # the line: queries that were let in
    while True:
        due = arrival[arrived] if arrived < queries else np.inf
        next_finish = head & (ring - 1)
        if head < tail and ring_finish[next_finish] <= due:
            now = ring_finish[next_finish]
            worker = ring_worker[next_finish]
            head += 1
            ended[worker] = now
            idle[free] = worker
            free += 1
            query = runs[worker]
            if holds[worker] == 0:  # its slices are in the line now
                if ready_count == room:
                    longer = np.zeros(2 * room, np.int64)
                    longer[:room] = ready
                    ready, room = longer, 2 * room
                i = ready_count
                while i > 0 and ready[i - 1] < query:
                    ready[i] = ready[i - 1]
                    i -= 1
                ready[i] = query
                ready_count += 1
            else:
                left[query] -= 1
                if left[query] == 0:
                    finish[query], status[query] = now, SERVED
                    opened -= 1
        elif arrived < queries:
            now, items = due, size[arrived]
            if opened >= most_queries or (free == 0 and waiting + items > most_items):
                status[arrived] = SHED
                arrived += 1
                continue
            opened += 1
            left[arrived] = (items + batch_size - 1) // batch_size
            waiting += items
            order[line_end] = arrived
            line_end += 1
            arrived += 1
        else:
            return busy_s, batch
        while free > 0 and (ready_count > 0 or line < line_end):
            free -= 1
            worker = idle[free]
            rested = 1 if ended[worker] < now else 0
            staged, items = ready_count > 0, 0
            if staged:
                query = ready[ready_count - 1]
                parts = (size[query] + batch_size - 1) // batch_size
                base = size[query] // parts
                items = base + (1 if part[query] < size[query] - base * parts else 0)
                part[query] += 1
                if part[query] == parts:
                    ready_count -= 1
            else:
                query = order[line]
                line += 1
                start[query] = now
                if left[query] == 1:
                    items = size[query]
            waiting -= items
            level = level_of[rested, tail - head + 1]
            row = ((rested * levels + level) * rows + items) * width
            u = draws[batch] if spread else 0.0
            if items == 0:
                took = stage_s
            else:
                took = quantile(times, row, points[rested, level] - 1, u)
                if staged:
                    took = max(took - staged_s, LEAST_SHARE * took)
            runs[worker], holds[worker] = query, items
            busy_s += took
            enter(ring_finish, ring_worker, 0, ring - 1, head, tail, now + took, worker)
            tail += 1
            if keep:
                record(kept, batch, query, items, 0, worker, now, now + took)
            batch += 1
