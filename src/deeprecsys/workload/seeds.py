"""One seed, and a generator of its own for each part of a workload, so that no part disturbs another."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from deeprecsys.core.errors import InputError


class RandomStream(IntEnum):
    """The parts of a workload that draw random numbers. Its values fix every stream: never reorder."""

    ARRIVALS = 0
    SIZES = 1
    FEATURES = 2
    POOL = 3


def generator(seed: int, part: RandomStream, *key: int) -> np.random.Generator:
    """A fresh generator for one part (and, below it, for one `key`) of the workload with this seed.

    Raises:
        InputError: the seed is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed: expected an integer of at least 0, got {seed!r}")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(part), *key)))
