"""Closed loop, without a dispatcher: batch after batch on given workers, for s(b) and for scores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import NodeError
from deeprecsys.core.policy import CPU
from deeprecsys.node.runtime.mailbox import COMPUTES, MAX_SLICES, READS, RUNS, SliceAddress
from deeprecsys.node.runtime.workers import Down, Replied, Workers
from deeprecsys.node.trial import no_collection
from deeprecsys.workload.work import PoolWork

PATIENCE_S = 60.0
"""The longest time that a batch may take."""
SHARE_CHOICES, SHARE_REPEATS = 4096, 15
"""Rows of the pool among which those with few and with many ids are chosen, whose times tell what look-ups
take; how often each batch is timed."""


def measure_batches(
    workers: Workers,
    batch: int,
    busy: int,
    repeats: int,
    seed: int,
    rest_s: float = 0.0,
    device: str = CPU,
    max_query: int | None = None,
    work: PoolWork | None = None,
    staged: bool = False,
) -> NDArray[np.float64]:
    """Times of at least `repeats` batches of `batch` items, with `busy` workers of a device kept busy.

    The time is the dispatcher's: from posting the batch to receiving its reply, so that it holds the wake-up
    and the hop, which a schedule pays for too. The first batch of each worker is left out.

    With `rest_s` above 0, worker 0 rests before each of its batches for an exponential time of that mean, and
    only its batches are timed: what a batch takes after idleness, while the others are busy.

    A batch of more than `max_query` items is of several queries, on slots that are not shared; one of none is
    a user stage. With `staged`, what such a stage gave is read. With `work`, `batch` are units of it, and a
    query has as many items as that takes.

    Raises:
        NodeError: a worker died, or a batch failed or took too long.
    """
    rng = np.random.default_rng((seed, batch, busy))
    times: list[float] = []
    posted: dict[int, float] = {}
    fresh = set(range(busy))
    resting_until: float | None = None
    clock = time.monotonic
    most = most_items = max_query or max(batch, 1)
    sizes = [min(most, batch - at) for at in range(0, max(batch, 1), most)]
    stage = READS if staged else RUNS if not batch else COMPUTES

    def post(worker: int) -> None:
        parts = []
        for k, n in enumerate(sizes):
            handle = int(rng.integers(0, 1 << 63))
            items = n if work is None or not n else work.items(handle, most_items, n)
            parts.append(SliceAddress(worker + k * busy, handle, 0, items, stage))
        posted[worker] = clock()
        workers.post(device, worker, parts)

    with no_collection(clean=False):  # called hundreds of times for one profile
        for worker in range(busy):
            post(worker)
        deadline = clock() + PATIENCE_S
        while posted or resting_until is not None:
            wait_s = 1.0 if resting_until is None else resting_until - clock()
            for reply in _replies(workers, wait_s, f"a batch of {batch}"):
                now = clock()
                started = posted.pop(reply.worker)
                rests = rest_s > 0 and reply.worker == 0
                if reply.worker in fresh:
                    fresh.discard(reply.worker)
                elif rests or rest_s == 0:
                    times.append(now - started)
                if len(times) < repeats:
                    if rests:
                        resting_until = now + float(rng.exponential(rest_s))
                    else:
                        post(reply.worker)
                    deadline = now + PATIENCE_S
            if resting_until is not None and clock() >= resting_until:
                resting_until = None
                post(0)
            _check_patience(deadline, f"a batch of {batch}")
    return np.asarray(times)


def lookup_share(workers: Workers, work: PoolWork, items: int, seed: int) -> float:
    """The share of the time that an average item adds to a batch which its look-ups take, in [0, 1].

    The ratio of two slopes. That of look-ups: of batches of as many slices of one item each, which have few
    or many ids. That of items: of a batch of `items` and one of a quarter. Batches take turns, and of each
    the least time counts.
    """
    rows = np.random.default_rng((seed, items)).integers(0, work.span, SHARE_CHOICES).tolist()
    rows.sort(key=lambda row: work.ids(row, 1))
    few, many = rows[:MAX_SLICES], rows[-MAX_SLICES:]
    counts, first = (max(1, items // 4), items), rows[len(rows) // 2]
    batches = [
        *([SliceAddress(slot, row, 0, 1) for slot, row in enumerate(some)] for some in (few, many)),
        *([SliceAddress(0, first, 0, count)] for count in counts),
    ]
    least = [inf] * len(batches)
    with no_collection(clean=False):
        for _ in range(SHARE_REPEATS):
            for k, parts in enumerate(batches):
                began = time.monotonic()
                workers.post(CPU, 0, parts)
                while not any(True for _ in _replies(workers, PATIENCE_S, "a batch")):
                    _check_patience(began + PATIENCE_S, "a batch")
                least[k] = min(least[k], time.monotonic() - began)
    ids = sum(work.ids(row, 1) for row in many) - sum(work.ids(row, 1) for row in few)
    lookup_s = max((least[1] - least[0]) / max(ids, 1), 0.0)
    more = max(counts[1] - counts[0], 1)
    surplus = (work.ids(first, counts[1]) - work.ids(first, counts[0])) / more - work.item.expected
    item_s = (least[3] - least[2]) / more - lookup_s * surplus
    return min(lookup_s * work.item.expected / item_s, 1.0) if item_s > 0 else 0.0


def score_queries(
    workers: Workers, slots: NDArray[np.float32], features: Sequence[int], sizes: Sequence[int]
) -> list[NDArray[np.float32]]:
    """Each query's scores, [size, outputs], each whole in one batch: to compare engines, not to time them.

    Args:
        slots: the node's scores by slot; CPU worker i writes to slot i.
        features: each query's handle; sizes: its items.

    Raises:
        NodeError: a worker died, or a query failed or took too long.
    """
    found: dict[int, NDArray[np.float32]] = {}
    running: dict[int, int] = {}  # worker -> query
    waiting = list(range(len(sizes)))[::-1]

    def post(worker: int) -> None:
        running[worker] = q = waiting.pop()
        workers.post(CPU, worker, (SliceAddress(worker, int(features[q]), 0, int(sizes[q])),))

    for worker in range(min(workers.counts[CPU], len(sizes))):
        post(worker)
    deadline = time.monotonic() + PATIENCE_S
    while running:
        for reply in _replies(workers, min(1.0, PATIENCE_S), "a query"):
            q = running.pop(reply.worker)
            found[q] = slots[reply.worker, : int(sizes[q])].copy()
            if waiting:
                post(reply.worker)
            deadline = time.monotonic() + PATIENCE_S
        _check_patience(deadline, "a query")
    return [found[q] for q in range(len(sizes))]


def _replies(workers: Workers, wait_s: float, what: str) -> Iterator[Replied]:
    """Replies as they come.

    Raises:
        NodeError: a worker died, or one of its slices failed.
    """
    for news in workers.news(wait_s):
        if isinstance(news, Down):
            raise NodeError(f"{news.device} worker {news.worker} died while it ran {what}: {news.why}")
        if isinstance(news, Replied):
            if news.reply.errors:
                raise NodeError(f"{what} failed: {news.reply.errors[0][1]}")
            yield news


def _check_patience(deadline_s: float, what: str) -> None:
    if time.monotonic() > deadline_s:
        raise NodeError(f"{what} took longer than {PATIENCE_S:.0f} s")
