"""Routing by the work that a router has sent (`core.routing`), compiled. Imports numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core import routing
from deeprecsys.jit import compiled, inner

choose: Any = inner(routing.choose)


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
    ahead, since = np.zeros(len(speed)), np.zeros(len(speed))
    chosen, pair = np.empty(len(at), np.int64), np.empty(2, np.int64)
    alike, alone = np.zeros(len(speed), np.int64), np.zeros(1)
    for i in range(len(at)):
        pair[0], pair[1] = first[i], second[i]
        for one in pair:  # what it can have done since
            ahead[one] = max(0.0, ahead[one] - (at[i] - since[one]) * speed[one])
            since[one] = at[i]
        m = choose(pair, 2, alike, ahead, speed, alone, np.inf)
        ahead[m] += work[i]
        chosen[i] = m
    return chosen
