"""An emulated device: batch times of a latency profile replayed in real time, without scores."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.engine.null import wait_until
from deeprecsys.engine.protocol import Assembly, SliceView
from deeprecsys.files import read_profile
from deeprecsys.zoo.custom import same_model

BUSY = 1
"""An accelerator runs one batch at a time."""


class EmulatedEngine:
    """Takes for a batch the time in the profile `emulated:FILE`, at a quantile drawn from the seed.

    Nothing is scored: all scores are NaN. The clock starts when the worker has the batch; the node's own hop,
    about 0.05 ms, is added to it, as on a real device whose profile was measured within its process.

    Raises:
        InputError: not a profile in a file, or one of another model.
    """

    def __init__(self, assembly: Assembly, args: str = "") -> None:
        self._profile = read(args)
        if not same_model(self._profile.model, assembly.model.name):
            raise InputError(
                f"engine emulated: expected a profile of {assembly.model.name}, "
                f"got one of {self._profile.model}"
            )
        self._rng = np.random.default_rng((assembly.seed, 0xE3))

    def seconds(self, items: int) -> float:
        """How long the next batch of `items` items takes."""
        return self._profile.seconds(items, BUSY, float(self._rng.random()))

    def score(self, slices: Sequence[SliceView]) -> None:
        until_s = time.monotonic() + self.seconds(sum(s.stop - s.start for s in slices))
        for s in slices:
            s.out[...] = np.nan
        wait_until(until_s)


def read(file: str) -> LatencyProfile:
    """The profile in a file, by which a device is emulated."""
    return read_profile(f"engine emulated:{file}", file)
