"""Routing by the work that a router has sent, compiled. Imports numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deeprecsys.jit import compiled


@compiled
def least_loaded(
    at: NDArray[np.float64],
    work: NDArray[np.float64],
    speed: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> NDArray[np.int64]:
    """For each query the one of its two machines with less outstanding work, in seconds of that machine.

    Args:
        at: [n] arrivals, rising; work: [n] in units of which a machine does `speed` a second.
        speed: [machines].
        first, second: [n] the machines to choose from.
    """
    left, since = np.zeros(len(speed)), np.zeros(len(speed))
    chosen = np.empty(len(at), np.int64)
    for i in range(len(at)):
        a, b = first[i], second[i]
        for m in (a, b):
            left[m] = max(0.0, left[m] - (at[i] - since[m]))
            since[m] = at[i]
        m = b if left[b] < left[a] else a
        left[m] += work[i] / speed[m]
        chosen[i] = m
    return chosen
