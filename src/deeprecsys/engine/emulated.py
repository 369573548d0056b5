"""A device that is not there: a latency profile replayed in real time in place of its scores."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.engine.null import wait_until
from deeprecsys.engine.protocol import Assembly, SliceView

BUSY = 1
"""An accelerator runs one batch at a time."""


class EmulatedEngine:
    """Takes as long for a batch as the profile of `emulated:FILE` says, drawn from its spread.

    Nothing is scored: the scores are not numbers (nan), so that nobody takes them for some. The clock
    starts when the worker has the batch; the node's own hop, some 0.05 ms, comes on top, as on a real
    device whose profile was measured within its process. Of the spread each batch draws its own quantile,
    from the assembly's seed.

    Raises:
        InputError: not a profile in a file, or one of another model.
    """

    def __init__(self, assembly: Assembly, args: str = "") -> None:
        self._profile = read(args)
        if self._profile.model != assembly.model.name:
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
    """The profile in a file, of which a device is to be emulated."""
    try:
        return LatencyProfile.from_json(json.loads(Path(file).read_text()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise InputError(f"engine emulated:{file}: expected a latency profile in JSON, got: {e}") from e
    except InputError as e:
        raise InputError(f"engine emulated:{file}: {e}") from e
