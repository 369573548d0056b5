"""The capacity of a policy on one sample path: no statistics, the same queries for every policy.

A simulator can run the same path at any rate, so two policies differ by what they do and by nothing else.
That ranks candidates with a tenth of the queries that an interval for each would take; the interval is
then found for the best alone (`tune.capacity`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from deeprecsys.core.errors import positive

TOLERANCE = 2e-3
MOST_STEPS = 60


def capacity_on_path(
    meets: Callable[[float], bool],
    hint_qps: float,
    *,
    floor_qps: float | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """The highest rate at which the target is met, to a relative `tolerance`; 0 where there is none.

    Args:
        meets: whether the path at a rate meets the target with every query served. Latencies are taken to
            grow with the rate; where a policy makes them dip, one of the crossings is found.
        hint_qps: about where to look.
        floor_qps: a rate worth beating: 0 is returned at once for a policy that does not meet the target
            there.
    """
    positive("hint", hint_qps)
    if floor_qps is not None and not meets(floor_qps):
        return 0.0
    low = floor_qps or 0.0
    high = max(hint_qps, low * (1 + 4 * tolerance))
    for _ in range(MOST_STEPS):
        if not meets(high):
            break
        low, high = high, high * 1.25
    while low == 0.0:
        rate = high / 1.25
        if meets(rate):
            low = rate
        elif rate < 1e-4 * hint_qps:
            return 0.0
        else:
            high = rate
    while high - low > tolerance * low:
        middle = sqrt(low * high)
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low
