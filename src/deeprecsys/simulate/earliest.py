"""The predictions of `core.policy.Earliest`, compiled: the same sums in the same order, so the same bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy.linear_time import KEEP
from deeprecsys.jit import compiled

SUMS = 5
"""Sums per device: weights, items, seconds, items², items x seconds, as in `LinearTime`."""
LEARNT = 2 * SUMS
Floats = NDArray[np.float64]


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
