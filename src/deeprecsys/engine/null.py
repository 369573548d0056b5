"""Engines that compute nothing: for measuring what the node itself costs, and for its tests."""

from __future__ import annotations

import time
from collections.abc import Sequence

from deeprecsys.core.errors import InputError
from deeprecsys.engine.protocol import Assembly, SliceView


class NullEngine:
    """Returns at once; scores stay as they were."""

    def __init__(self, assembly: Assembly) -> None:
        pass

    def score(self, slices: Sequence[SliceView]) -> None:
        pass


class WaitEngine:
    """Waits a fixed time per batch and per item: `wait:BATCH_MS[,ITEM_MS]`. It uses no core meanwhile.

    Its capacity is known from queueing theory, so that a live search can be tested against it.
    """

    def __init__(self, assembly: Assembly, args: str = "1.0") -> None:
        try:
            ms = [float(x) for x in args.split(",")]
        except ValueError:
            ms = []
        if len(ms) not in (1, 2) or min(ms) < 0:
            raise InputError(f"engine wait: expected BATCH_MS[,ITEM_MS], got {args!r}")
        self._batch_s = ms[0] / 1e3
        self._item_s = ms[1] / 1e3 if len(ms) == 2 else 0.0

    def score(self, slices: Sequence[SliceView]) -> None:
        items = sum(s.stop - s.start for s in slices)
        wait_until(time.monotonic() + self._batch_s + self._item_s * items)


def wait_until(moment_s: float) -> None:
    """Return at a moment of the monotonic clock, or at once if it has passed.

    sleep() oversleeps by a timer slack: sleep short, then spin to the moment.
    """
    while (left := moment_s - time.monotonic()) > 0:
        if left > 2e-4:
            time.sleep(left - 1e-4)
