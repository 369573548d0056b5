"""Bodies whose large tensors are read straight into their query's place, past memory of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.serve.protocol.inputs import InputBlock, ValidatedRequest

MOST = 8
"""Places that are held at a time while their bodies come: a client that dawdles holds one all the while, and
those beyond are read into memory of their own first."""
LARGE_BYTES = 1 << 17
"""A tensor of fewer is read together with its neighbours and copied: less work than a read of its own."""


def goes_straight(fit: ValidatedRequest) -> bool:
    """Whether it pays: a tensor is large, and the places hold what the body does, piece after piece."""
    at = 0
    for p in fit.packed or ():
        if p.offset != at:
            return False
        at += p.size
    return any(map(_large, fit.packed or ()))


class BodyLayout:
    """Where the binary part of one body goes.

    Attributes:
        memories: of the query's place and of ours, that hold all of it, one after the other.
    """

    def __init__(self, fit: ValidatedRequest, places: Sequence[NDArray[Any]]) -> None:
        packed = fit.packed or ()
        self._places, self._small = places, [p for p in packed if not _large(p)]
        self._scratch = np.empty(sum(p.size for p in self._small), np.uint8).data
        self.memories: list[memoryview] = []
        at = 0
        for large, run in groupby(packed, _large):
            if large:
                self.memories += [memoryview(one).cast("B") for p in run for one in places[p.block]]
            else:
                size = sum(p.size for p in run)
                self.memories.append(self._scratch[at : at + size])
                at += size

    def finish(self) -> None:
        """All has been read: write what is ours into the place."""
        at = 0
        for p in self._small:
            p.put(self._scratch, at, self._places[p.block])
            at += p.size


def _large(p: InputBlock) -> bool:
    return p.tensor_bytes >= LARGE_BYTES
