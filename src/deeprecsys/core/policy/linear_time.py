"""A batch's time as a line over its items, learnt from batches as they finish."""

from __future__ import annotations

KEEP = 0.998
"""Weight of the past at each new batch: about 500 batches count."""


class LinearTime:
    """Least squares of seconds over items, with exponential forgetting. Both coefficients are at least 0.

    Args:
        flat: the assumption while all batches had one length: any batch takes as long (true), or a time in
            proportion to its items.
    """

    __slots__ = ("_flat", "_n", "_x", "_xx", "_xy", "_y")

    def __init__(self, flat: bool = False) -> None:
        self._flat = flat
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def learn(self, items: int, took_s: float) -> None:
        self._n = KEEP * self._n + 1.0
        self._x = KEEP * self._x + items
        self._y = KEEP * self._y + took_s
        self._xx = KEEP * self._xx + items * items
        self._xy = KEEP * self._xy + items * took_s

    def mean(self) -> tuple[float, float]:
        """Items and seconds of the average batch; 0 and 0 before the first."""
        return (self._x / self._n, self._y / self._n) if self._n else (0.0, 0.0)

    def coefficients(self) -> tuple[float, float]:
        """Seconds per batch and seconds per item; 0 and 0 before the first batch."""
        if self._n == 0:
            return 0.0, 0.0
        x, y = self._x / self._n, self._y / self._n
        variance = self._xx / self._n - x * x
        if variance <= 1e-9 * x * x:  # all of one length: the slope is not known
            return (y, 0.0) if self._flat else (0.0, y / x)
        slope = min(max((self._xy / self._n - x * y) / variance, 0.0), y / x)
        return y - slope * x, slope

    def seconds(self, items: int) -> float:
        """The predicted time of a batch."""
        batch_s, item_s = self.coefficients()
        return batch_s + item_s * items
