"""The compiled event loop of policies with a fixed batch size. Loads numba: imported where a trial is run.

It repeats, in arrays, what `core.Dispatcher` decides for a fixed batch size and queries that go whole to a
second device, alone or merged, and what `simulate.driver` does with it; tests/simulate/test_fast.py compares
them event for event.

Running batches lie in one ring per device, by finish time. A new batch has the greatest number, so it
goes behind those that finish at the same instant, and the ring's order is the driver's order of events.
It is inserted from the back, where it nearly always belongs: with times that vary little that costs a
step or two, at worst one for each worker. The line is in order of arrival.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy.linear_time import KEEP
from deeprecsys.jit import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SERVED, SHED = 1, 2  # core.runlog.Status
SUMS = 5
"""Sums per device: weights, items, seconds, items², items x seconds, as in `LinearTime`."""
LEARNT = 2 * SUMS


class LoadArrays(NamedTuple):
    """The queries of a trial, one entry each; see `core.runlog.RunLog`."""

    arrival: Floats
    size: NDArray[np.int32]
    start: Floats
    finish: Floats
    status: NDArray[np.uint8]
    left: NDArray[np.int32]  # slices not yet scored


class Batches(NamedTuple):
    """The batches of a trial, by number; empty arrays where they are not kept.

    Attributes:
        device: 0 is the CPU, 1 the accelerator.
        start_s, finish_s: seconds.
    """

    query: NDArray[np.int32]
    items: NDArray[np.int32]
    device: NDArray[np.uint8]
    worker: NDArray[np.int32]
    start_s: Floats
    finish_s: Floats

    def first(self, count: int) -> Batches:
        """The first `count` batches."""
        return Batches(*(column[:count] for column in self))  # type: ignore[arg-type] # each as it was


def no_batches(room: int) -> Batches:
    """Arrays for a number of batches."""
    whole = (np.zeros(room, np.int32) for _ in range(3))
    return Batches(
        next(whole), next(whole), np.zeros(room, np.uint8), next(whole), np.zeros(room), np.zeros(room)
    )


class TimeArrays(NamedTuple):
    """Batch times (`simulate.table.Tables`) and the draws, one for each batch in order of start."""

    seconds: NDArray[np.float64]
    points: NDArray[np.int32]
    level_of: NDArray[np.int32]
    draws: Floats


@compiled
def quantile(seconds: Floats, row: int, last: int, u: float) -> float:
    """The time at quantile `u` of the `last` + 1 that begin at `row` (`table.Tabulated`)."""
    if last == 0:
        return seconds[row]  # type: ignore[no-any-return]
    place = u * last
    i = int(place)
    if i >= last:
        return seconds[row + i]  # type: ignore[no-any-return]
    return seconds[row + i] + (place - i) * (seconds[row + i + 1] - seconds[row + i])  # type: ignore[no-any-return]


@compiled
def enter(
    times: Floats, workers: Ints, base: int, mask: int, first: int, end: int, finish: float, worker: int
) -> None:
    """Insert a batch that starts now into its device's ring, behind all that finish no later."""
    i = end
    while i > first and times[base + ((i - 1) & mask)] > finish:
        times[base + (i & mask)] = times[base + ((i - 1) & mask)]
        workers[base + (i & mask)] = workers[base + ((i - 1) & mask)]
        i -= 1
    times[base + (i & mask)] = finish
    workers[base + (i & mask)] = worker


@compiled
def record(
    kept: Batches, batch: int, query: int, items: int, device: int, worker: int, start: float, end: float
) -> None:
    kept.query[batch], kept.items[batch] = query, items
    kept.device[batch], kept.worker[batch] = device, worker
    kept.start_s[batch], kept.finish_s[batch] = start, end


# The predictions of `core.policy.Earliest`: the same sums in the same order, so the same bits.
@compiled
def learn(learnt: Floats, device: int, items: int, took_s: float) -> None:
    """Add the time of a batch of a device."""
    at = device * SUMS
    learnt[at] = KEEP * learnt[at] + 1.0
    learnt[at + 1] = KEEP * learnt[at + 1] + items
    learnt[at + 2] = KEEP * learnt[at + 2] + took_s
    learnt[at + 3] = KEEP * learnt[at + 3] + items * items
    learnt[at + 4] = KEEP * learnt[at + 4] + items * took_s


@compiled
def line_of(learnt: Floats, device: int) -> tuple[float, float]:
    """Seconds per batch and seconds per item; device 1 is taken to be flat while one length is known."""
    at = device * SUMS
    n = learnt[at]
    if n == 0:
        return 0.0, 0.0
    x, y = learnt[at + 1] / n, learnt[at + 2] / n
    variance = learnt[at + 3] / n - x * x
    if variance <= 1e-9 * x * x:
        return (y, 0.0) if device == 1 else (0.0, y / x)
    slope = min(max((learnt[at + 4] / n - x * y) / variance, 0.0), y / x)
    return y - slope * x, slope


@compiled
def ahead_s(
    learnt: Floats, device: int, batch_s: float, item_s: float, waiting: int, running: int, workers: int
) -> float:
    """Seconds until a query's turn comes on a device."""
    n = learnt[device * SUMS]
    items = learnt[device * SUMS + 1] / n if n else 0.0
    took_s = learnt[device * SUMS + 2] / n if n else 0.0
    waiting_s = batch_s * waiting / max(items, 1.0) + item_s * waiting
    return (waiting_s + took_s * running / 2) / max(workers, 1)


@compiled
def prefers_accelerator(
    learnt: Floats,
    size: int,
    batch_size: int,
    workers: tuple[int, int],
    idle: NDArray[np.int64],
    waiting: NDArray[np.int64],
) -> bool:
    """Whether a query will be done sooner on device 1, whole, than cut on device 0.

    Args:
        idle, waiting: [2] idle workers, and items in line.
    """
    batch_s, item_s = line_of(learnt, 1)
    away_s = ahead_s(learnt, 1, batch_s, item_s, waiting[1], workers[1] - idle[1], workers[1])
    away_s += batch_s + item_s * size
    batch_s, item_s = line_of(learnt, 0)
    parts = (size + batch_size - 1) // batch_size
    longest = (size + parts - 1) // parts
    work_s = batch_s * parts + item_s * size
    own_s = max(work_s / max(workers[0], 1), batch_s + item_s * longest)
    return away_s < ahead_s(learnt, 0, batch_s, item_s, waiting[0], workers[0] - idle[0], workers[0]) + own_s


@compiled
def run(
    load: LoadArrays,
    service: TimeArrays,
    kept: Batches,
    workers: tuple[int, int],
    batch_size: int,
    offload_above: int,
    device_batch: int,
    predict: bool,
    most_slices: int,
    most_queries: int,
    most_items: int,
) -> tuple[float, int]:
    """Follow every query to its end; fills `load` (and `kept`); returns worker-seconds and number of batches.

    A query of more than `offload_above` items goes to device 1, uncut; with `predict` only where it will be
    done sooner there. Device 1 merges what waits up to `device_batch` items, 0 for one query at a time; of
    such a batch `kept.query` is the first. Lines are bounded as in `core.dispatcher.Limits`.
    Arrays of two devices are flat: that of device 1 follows that of device 0.
    One loop and few helpers: arrays that cross a call are counted, which costs as much as the event.
    """
    arrival, size, start, finish, status, left = load
    seconds, points, level_of, draws = service
    queries, most_workers = len(arrival), max(workers)
    keep, spread = len(kept.query) > 0, len(draws) > 0
    _, levels, rows, width = seconds.shape
    times = seconds.reshape(-1)
    ring = 2  # length of one device's ring, a power of two
    while ring <= most_workers:
        ring *= 2
    ring_finish, ring_worker = np.zeros(2 * ring), np.zeros(2 * ring, np.int64)  # by finish time
    head, tail = np.zeros(2, np.int64), np.zeros(2, np.int64)  # of the rings; the difference is running
    # Of each worker's batch: the query, or of device 1 the place in line of its first; how many; its number.
    runs, many = np.zeros(2 * most_workers, np.int64), np.zeros(2 * most_workers, np.int64)
    number = np.zeros(2 * most_workers, np.int64)
    began, holds = np.zeros(2 * most_workers), np.zeros(2 * most_workers, np.int64)  # its start, its items
    learnt = np.zeros(LEARNT)
    ended = np.full(2 * most_workers, -np.inf)  # when a worker's last batch did
    idle, idle_top = np.zeros(2 * most_workers, np.int64), np.array(workers)  # stacks: worker 0 starts first
    for d in range(2):
        for i in range(workers[d]):
            idle[d * most_workers + i] = workers[d] - 1 - i
    line = np.zeros((2 if workers[1] else 1) * queries, np.int32)  # indices of queries
    line_head, line_tail = np.zeros(2, np.int64), np.zeros(2, np.int64)
    part, last_part = 0, 0  # of the query at the head of the CPU's line: its next slice, its last
    base, longer = 0, 0  # items of its slices, and how many of them have one more
    waiting = np.zeros(2, np.int64)  # items
    batch, opened, arrived, busy_s = 0, 0, 0, 0.0
    while True:
        device = 0  # whose batch finishes next; batches of one instant go by their numbers
        if head[1] < tail[1]:
            on_cpu, on_gpu = head[0] & (ring - 1), ring + (head[1] & (ring - 1))
            if head[0] == tail[0] or ring_finish[on_gpu] < ring_finish[on_cpu]:
                device = 1
            elif ring_finish[on_gpu] == ring_finish[on_cpu]:
                first_on_gpu = number[most_workers + ring_worker[on_gpu]] < number[ring_worker[on_cpu]]
                device = 1 if first_on_gpu else 0
        due = arrival[arrived] if arrived < queries else np.inf
        next_finish = device * ring + (head[device] & (ring - 1))
        if head[device] < tail[device] and ring_finish[next_finish] <= due:
            now = ring_finish[next_finish]
            worker = ring_worker[next_finish]
            slot = device * most_workers + worker
            head[device] += 1
            ended[slot] = now
            idle[device * most_workers + idle_top[device]] = worker
            idle_top[device] += 1
            if predict:
                learn(learnt, device, holds[slot], now - began[slot])
            if device == 0:
                query = runs[worker]
                left[query] -= 1
                if left[query] == 0:
                    finish[query], status[query] = now, SERVED
                    opened -= 1
            else:
                for place in range(runs[slot], runs[slot] + many[slot]):
                    query = line[queries + place]
                    left[query] = 0
                    finish[query], status[query] = now, SERVED
                opened -= many[slot]
        elif arrived < queries:
            now, items = due, size[arrived]
            device = 1 if items > offload_above else 0
            if predict and device == 1:
                away = prefers_accelerator(learnt, items, batch_size, workers, idle_top, waiting)
                device = 1 if away else 0
            waits = idle_top[device] == 0  # then only is there a line
            if opened >= most_queries or (waits and waiting[device] + items > most_items):
                status[arrived] = SHED
                arrived += 1
                continue
            opened += 1
            left[arrived] = 1 if device == 1 else (items + batch_size - 1) // batch_size
            waiting[device] += items
            line[device * queries + line_tail[device]] = arrived
            line_tail[device] += 1
            arrived += 1
        else:
            return busy_s, batch
        while idle_top[device] > 0 and line_head[device] < line_tail[device]:
            idle_top[device] -= 1
            worker = idle[device * most_workers + idle_top[device]]
            slot = device * most_workers + worker
            place = line_head[device]
            query = line[device * queries + place]
            if device == 1:
                items, taken = 0, 0
                while line_head[1] < line_tail[1] and taken < most_slices:
                    following = line[queries + line_head[1]]
                    if taken > 0 and items + size[following] > device_batch:
                        break
                    start[following] = now
                    items += size[following]
                    line_head[1] += 1
                    taken += 1
                runs[slot], many[slot] = place, taken
            else:
                if part == 0:  # cut it, as core.query.cut does; none of it is scored, so `left` is all
                    start[query] = now
                    base = size[query] // left[query]
                    longer = size[query] - base * left[query]
                    last_part = left[query] - 1
                items = base + (1 if part < longer else 0)
                if part == last_part:
                    line_head[0] += 1
                    part = 0
                else:
                    part += 1
                runs[worker] = query
            waiting[device] -= items
            rested = 1 if ended[slot] < now else 0
            table = 2 * device + rested  # of workers that had no rest, or that were idle
            level = level_of[table, tail[device] - head[device] + 1]
            row = ((table * levels + level) * rows + items) * width
            u = draws[batch] if spread else 0.0
            took = quantile(times, row, points[table, level] - 1, u)
            busy_s += took
            number[slot] = batch
            if predict:
                began[slot], holds[slot] = now, items
            first, end = head[device], tail[device]
            enter(ring_finish, ring_worker, device * ring, ring - 1, first, end, now + took, worker)
            tail[device] += 1
            if keep:
                record(kept, batch, query, items, device, worker, now, now + took)
            batch += 1
