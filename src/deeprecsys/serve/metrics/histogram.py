"""Counts of values in bins: memory does not grow with the load or with time."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

TIMES_S = (*(m * 10.0**e for e in range(-4, 1) for m in (1, 2.5, 5)), 10.0)
SIZES = tuple(float(2**e) for e in range(13))
FINE_RATIO = 1.03
FINE_S = tuple(2e-5 * FINE_RATIO**i for i in range(521))
"""Bounds from 20 us to 95 s, each 3 % above the last, which is the error of a quantile."""


class Histogram:
    """Number of values at or below each of some bounds, and above the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = array("Q", bytes(8 * (len(bounds) + 1)))
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return int(np.frombuffer(self.counts, np.uint64).sum())

    def cumulative(self) -> list[int]:
        """Number of values at or below each bound; at the end, of all."""
        return [int(n) for n in np.cumsum(np.frombuffer(self.counts, np.uint64))]

    def clear(self) -> None:
        self.counts = array("Q", bytes(8 * len(self.counts)))
        self.total = 0.0


def quantile(histograms: Sequence[Histogram], q: float) -> float | None:
    """The bound at or below which a share `q` of all values lie; None if there are none.

    Args:
        histograms: of the same bounds; values above the last count as the last.
    """
    if not histograms:
        return None
    counts = np.sum([np.frombuffer(h.counts, np.uint64) for h in histograms], axis=0, dtype=np.uint64)
    cumulative = np.cumsum(counts)
    if not cumulative[-1]:
        return None
    at = int(np.searchsorted(cumulative, q * float(cumulative[-1]), side="left"))
    bounds = histograms[0].bounds
    return bounds[min(at, len(bounds) - 1)]
