"""Closed loop: batch after batch on a fixed number of workers measures s(b) through the node's own path."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import NodeError
from deeprecsys.node.runtime.mailbox import SliceAddress
from deeprecsys.node.runtime.pool import Down, Replied, WorkerPool
from deeprecsys.node.trial import no_collection

PATIENCE_S = 60.0


def measure_batches(
    pool: WorkerPool,
    batch: int,
    busy: int,
    repeats: int,
    seed: int,
    rest_s: float = 0.0,
    first: int = 0,
) -> NDArray[np.float64]:
    """Times of at least `repeats` batches of `batch` items, with exactly `busy` workers kept busy.

    The time is the dispatcher's: from posting the batch to hearing of its end, so that it holds the
    wake-up and the hop, which a schedule pays for too. The first batch of each worker is left out.

    With `rest_s` above 0, the first worker rests before each of its batches for an exponential time of that
    mean, and only its batches are timed: what a batch takes after idleness, while the others are busy.

    The workers are those from number `first` on.

    Raises:
        NodeError: a worker died, or a batch failed.
    """
    rng = np.random.default_rng((seed, batch, busy))
    times: list[float] = []
    posted: dict[int, float] = {}
    fresh = set(range(first, first + busy))
    resting_until: float | None = None
    clock = time.monotonic

    def post(worker: int) -> None:
        handle = int(rng.integers(0, 1 << 63))
        posted[worker] = clock()
        pool.post(worker, (SliceAddress(worker, handle, 0, batch),))

    with no_collection():
        for worker in range(first, first + busy):
            post(worker)
        deadline = clock() + PATIENCE_S
        while posted or resting_until is not None:
            wait_s = 1.0 if resting_until is None else resting_until - clock()
            for news in pool.news(wait_s):
                now = clock()
                if isinstance(news, Down):
                    raise NodeError(
                        f"worker {news.worker} died while batches of {batch} were measured: {news.why}"
                    )
                if not isinstance(news, Replied):
                    continue
                if news.reply.errors:
                    raise NodeError(f"a batch of {batch} failed: {news.reply.errors[0][1]}")
                started = posted.pop(news.worker)
                rests = rest_s > 0 and news.worker == first
                if news.worker in fresh:
                    fresh.discard(news.worker)
                elif rests or rest_s == 0:
                    times.append(now - started)
                if len(times) < repeats:
                    if rests:
                        resting_until = now + float(rng.exponential(rest_s))
                    else:
                        post(news.worker)
                    deadline = now + PATIENCE_S
            if resting_until is not None and clock() >= resting_until:
                resting_until = None
                post(first)
            if clock() > deadline:
                raise NodeError(f"a batch of {batch} took longer than {PATIENCE_S:.0f} s")
    return np.asarray(times)
