"""What every dense stage offers, whichever library computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deeprecsys.engine.dense.layout import Layout

Arrays = Mapping[str, NDArray[np.float32]]
"""Arrays by buffer name."""

NOTHING: Arrays = {}


class DenseStage(Protocol):
    """The dense layers of one model, reading from buffers that lie where they are. One call at a time.

    Attributes:
        layout: which input lies where in the buffers.
        buffers: float32 by buffer name: row r belongs to the batch's r-th item, or its r-th slice. Write
            the first rows, then call `run`.
    """

    layout: Layout
    buffers: Arrays

    def reserve(self, items: int, slices: int) -> None:
        """Make room for larger batches. `buffers` are new arrays afterwards if there was not enough."""

    def run(
        self,
        items: int,
        owner: NDArray[np.int64] | None,
        out: NDArray[np.float32],
        instead: Arrays = NOTHING,
    ) -> None:
        """Score the first `items` rows of the buffers.

        Args:
            owner: [items], each item's slice, rising from 0 by steps of 0 or 1; None for a single slice.
            out: float32 [items, outputs], C-contiguous, where the scores go.
            instead: arrays to read in the place of buffers that are `direct`; float32 [rows, width],
                C-contiguous.

        Raises:
            InputError: more rows than there is room for, or arrays of another shape.
        """
        ...
