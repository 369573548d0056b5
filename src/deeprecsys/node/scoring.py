"""Scores of given queries, each whole in one batch: for comparing engines, not for timing them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import NodeError
from deeprecsys.node.runtime.mailbox import SliceAddress
from deeprecsys.node.runtime.pool import Down, Replied, WorkerPool


def score_queries(
    pool: WorkerPool,
    scores: NDArray[np.float32],
    features: Sequence[int],
    sizes: Sequence[int],
) -> list[NDArray[np.float32]]:
    """Each query's scores, [size, outputs].

    Args:
        scores: the node's score slots; worker i writes to slot i.
        features: each query's handle; sizes: its items.

    Raises:
        NodeError: a worker died, or a query failed.
    """
    found: dict[int, NDArray[np.float32]] = {}
    running: dict[int, int] = {}  # worker -> query
    waiting = list(range(len(sizes)))[::-1]

    def post(worker: int) -> None:
        running[worker] = q = waiting.pop()
        pool.post(worker, (SliceAddress(worker, int(features[q]), 0, int(sizes[q])),))

    for worker in range(min(len(pool), len(sizes))):
        post(worker)
    while running:
        for news in pool.news(1.0):
            if isinstance(news, Down):
                raise NodeError(f"worker {news.worker} died while queries were scored: {news.why}")
            if not isinstance(news, Replied):
                continue
            q = running.pop(news.worker)
            if news.reply.errors:
                raise NodeError(f"query {q} failed: {news.reply.errors[0][1]}")
            found[q] = scores[news.worker, : int(sizes[q])].copy()
            if waiting:
                post(news.worker)
    return [found[q] for q in range(len(sizes))]
