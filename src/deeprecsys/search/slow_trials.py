"""Whether the machine ran at its own speed during a trial.

On shared hardware a neighbour can halve a core's speed for seconds (docs/design/0003-capacity-search.md). The
same policy at about the same rate does the same work, so what an item cost tells such a trial from others.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import NamedTuple

import numpy as np

SLOW = 1.15
"""Times the median of its like: then a trial's work was slowed down from outside."""
NEAR = 0.15
"""Trials are alike if their rates differ by less than this, relative."""
LEAST = 3
"""Trials that a trial is compared with, at least."""


class Pace(NamedTuple):
    """A trial's rate, and the worker-seconds that it spent per item; nan where the driver did not say."""

    rate_qps: float
    seconds_per_item: float


def slow(one: Pace, others: Iterable[Pace]) -> bool:
    """Whether a trial's work took clearly longer than that of other trials at about its rate."""
    like = [p.seconds_per_item for p in others if abs(log(p.rate_qps / one.rate_qps)) < NEAR]
    return len(like) >= LEAST and one.seconds_per_item > SLOW * float(np.median(like))
