"""Which rate a confirmation tries next."""

from __future__ import annotations

from math import inf, log, sqrt

WIDE = 3
"""Steps between the rate that was met and the one that failed: more leave a point's capacity unknown."""
MOST = 0.5
"""A step at most, as a share of the rate."""


class RateSteps:
    """Which rate to try next: down in growing steps until one is met, or up until one is not; then between.

    Attributes:
        rate_qps: to try.
        met_qps: the highest that was met; 0 while none was.
        failed_qps: the lowest that was not; infinite while none failed.
        done: whether there is nothing more to try.
    """

    def __init__(self, first_qps: float, step: float, upward: bool = False) -> None:
        self.rate_qps = first_qps
        self.failed_qps = inf
        self.done = False
        self._met: list[float] = []
        self._step, self._upward, self._falls, self._rises = step, upward, 0, 0

    @property
    def met_qps(self) -> float:
        return max(self._met, default=0.0)

    @property
    def wide(self) -> bool:
        """Whether much is left between met and failed."""
        return WIDE < log(self.failed_qps / self.met_qps) / self._step < inf if self.met_qps else True

    def judge(self, met: bool, served_qps: float = inf) -> None:
        """What came of the present rate; sets the next, or ends.

        Args:
            met: whether the target was.
            served_qps: what the node got done. Where that is clearly less than it was offered, the line grew
                to the end, and no rate above it can be met however long the steps would still be.
        """
        if met:
            self._met.append(self.rate_qps)
            if self.failed_qps == inf:
                self.done = not self._upward
                self.rate_qps *= 1 + min(2 * self._step * 2**self._rises, MOST)
                self._rises += 1
                return
        else:
            self.failed_qps = min(self.failed_qps, self.rate_qps)
        self._close_in(served_qps)

    def withdraw(self, served_qps: float = inf) -> None:
        """The highest rate that was met is not, as more trials at it say; sets the next, or ends."""
        self.rate_qps = self.failed_qps = self.met_qps
        self._met.remove(self.rate_qps)
        self._close_in(served_qps)

    def _close_in(self, served_qps: float) -> None:
        """After a rate that failed: down, or between it and the one below that was met."""
        if self._met:
            self.rate_qps = sqrt(self.met_qps * self.failed_qps)
            self.done = self.failed_qps < self.met_qps * (1 + 2 * self._step)
        else:
            self.done = False
            self._fall(served_qps)

    def _fall(self, served_qps: float) -> None:
        if served_qps < self.rate_qps * (1 - self._step):
            self.rate_qps = max(served_qps, self.rate_qps / 4) * (1 - self._step)
        else:
            self.rate_qps *= 1 - min(self._step * 2**self._falls, MOST)
            self._falls += 1
