"""What the batches of a trial took over what a profile says of them, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.profile import LatencyProfile


class Ran(NamedTuple):
    """A batch of a trial: when it was handed to its worker, and when its end was known."""

    start_s: float
    end_s: float
    worker: int
    items: int


def ratios(batches: Iterable[Ran], profile: LatencyProfile) -> NDArray[np.float64]:
    """[batches] in order of start: the time of each over the mean of like ones.

    Alike are batches of the same size, with as many busy workers at the start, on a worker that was idle
    before or was not: what the simulator goes by.

    Args:
        batches: in order of their numbers; of those that start at one instant, each finds the last one busy.
        profile: batch times.
    """
    rested = profile.rested

    @cache
    def mean_s(items: int, busy: int, idle_before: bool) -> float:
        return (rested if idle_before else profile).seconds(items, busy)

    running: list[float] = []
    ended: dict[int, float] = {}
    found = []
    for b in batches:
        while running and running[0] <= b.start_s:
            heappop(running)
        heappush(running, b.end_s)
        like_s = mean_s(b.items, len(running), ended.get(b.worker) != b.start_s)
        ended[b.worker] = b.end_s
        found.append((b.end_s - b.start_s) / like_s)
    return np.array(found)
