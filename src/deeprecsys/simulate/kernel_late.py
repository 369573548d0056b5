"""The compiled event loop of policies that cut when a worker is free: `Adaptive` and `Coalescing`.

Like `simulate.kernel` it repeats in arrays what `core.Dispatcher` decides and `simulate.driver` does;
tests/simulate/test_fast.py compares them event for event. Queries wait in order of arrival on one device, so
a batch is a run of items from one place in that order to another.
"""

from __future__ import annotations

import numpy as np

from deeprecsys.jit import compiled
from deeprecsys.simulate.kernel import SERVED, SHED, Batches, LoadArrays, TimeArrays, enter, quantile, record


@compiled
def run_late(
    load: LoadArrays,
    service: TimeArrays,
    kept: Batches,
    workers: int,
    coarsest: int,
    finest: int,
    merge: bool,
    most_slices: int,
    most_queries: int,
    most_items: int,
) -> tuple[float, int]:
    """Follow every query to its end; fills `load` (and `kept`); returns worker-seconds and number of batches.

    A free worker takes what waits, spread over all that are free, at least `finest` and at most `coarsest`
    items: of the first query alone, in equal parts, or with `merge` across queries. In `load`, `left` counts
    items here. Of a batch that several queries share, `kept.query` is the first.
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
    # Of each worker's batch: the first query, the first item of that, and items.
    first_query, first_item = np.zeros(workers, np.int64), np.zeros(workers, np.int64)
    holds = np.zeros(workers, np.int64)
    idle = np.arange(workers - 1, -1, -1)  # a stack: worker 0 starts first
    ended = np.full(workers, -np.inf)  # when a worker's last batch did
    free = workers
    first, taken, waiting = 0, 0, 0  # the line: its first query, items of that already taken, items in all
    batch, opened, arrived, busy_s = 0, 0, 0, 0.0
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
            query, item, rest = first_query[worker], first_item[worker], holds[worker]
            while rest > 0:
                if status[query] != SHED:
                    scored = min(size[query] - item, rest)
                    left[query] -= scored
                    rest -= scored
                    if left[query] == 0:
                        finish[query], status[query] = now, SERVED
                        opened -= 1
                query += 1
                item = 0
        elif arrived < queries:
            now = due
            if opened >= most_queries or (free == 0 and waiting + size[arrived] > most_items):
                status[arrived] = SHED
                arrived += 1
                continue
            opened += 1
            left[arrived] = size[arrived]
            waiting += size[arrived]
            arrived += 1
        else:
            return busy_s, batch
        while free > 0 and waiting > 0:
            while status[first] == SHED:
                first += 1
            wanted = min(max((waiting + free - 1) // free, finest), coarsest)
            rest = size[first] - taken
            if not merge:
                parts = (rest + wanted - 1) // wanted
                wanted = (rest + parts - 1) // parts
            free -= 1
            worker = idle[free]
            first_query[worker], first_item[worker] = first, taken
            items, slices = 0, 0
            while items < wanted and waiting > 0 and slices < most_slices:
                if status[first] == SHED:
                    first += 1
                    continue
                more = min(size[first] - taken, wanted - items)
                if taken == 0:
                    start[first] = now
                items += more
                waiting -= more
                taken += more
                slices += 1
                if taken == size[first]:
                    first += 1
                    taken = 0
            holds[worker] = items
            table = 1 if ended[worker] < now else 0  # of workers without rest, or idle before
            level = level_of[table, tail - head + 1]
            u = draws[batch] if spread else 0.0
            row = ((table * levels + level) * rows + items) * width
            took = quantile(times, row, points[table, level] - 1, u)
            busy_s += took
            enter(ring_finish, ring_worker, 0, ring - 1, head, tail, now + took, worker)
            tail += 1
            if keep:
                record(kept, batch, first_query[worker], items, 0, worker, now, now + took)
            batch += 1
