"""The quantile of its time that each batch of a virtual trial takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy import CPU


class QuantileDraws:
    """One number in [0, 1) for each batch, in order of start.

    They are independent by default. A profile that was measured under load holds the order in which quick and
    slow batches followed each other (`LatencyProfile.ranks`): batches take these in order, from a place that
    the seed chooses, and from the first again after the last.
    """

    def __init__(self, seed: int, ranks: NDArray[np.float64]) -> None:
        self._rng = np.random.default_rng(seed)
        self._ranks = ranks
        self._next = int(self._rng.integers(len(ranks))) if len(ranks) else 0

    def take(self, count: int) -> NDArray[np.float64]:
        """[count] the next numbers."""
        if not len(self._ranks):
            return self._rng.random(count)
        places = (self._next + np.arange(count)) % len(self._ranks)
        self._next = (self._next + count) % len(self._ranks)
        return self._ranks[places]


def ranks_of(services: Mapping[str, Any]) -> NDArray[np.float64]:
    """The ranks of the CPU's batch times; empty where they have none."""
    return np.asarray(getattr(services.get(CPU), "ranks", ()), dtype=np.float64)
