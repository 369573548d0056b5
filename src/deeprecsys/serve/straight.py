"""Bodies that are read straight into their query's place, without memory of their own in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from deeprecsys.serve.inputs import Fit, check_finite

MOST = 8
"""Places that are held at a time while their bodies come: a client that dawdles holds one all the while, and
those beyond are read into memory of their own first."""


def goes_straight(fit: Fit) -> bool:
    """Whether a body's binary part is what its inputs' places hold, piece after piece, nothing to convert."""
    at = 0
    for p in sorted(fit.placed, key=lambda p: p.tensor.offset):
        t = p.tensor
        if p.lengths is not None or t.size is None or t.data is not None:
            return False
        if t.datatype != p.slot.stored or t.offset != at:
            return False
        at += t.size
    return True


def memories(fit: Fit, places: Mapping[str, NDArray[Any]]) -> list[memoryview]:
    """The places' memory, in the order of the body.

    Args:
        places: by input name, C-contiguous [rows, width].
    """
    ordered = sorted(fit.placed, key=lambda p: p.tensor.offset)
    return [memoryview(places[p.slot.name]).cast("B") for p in ordered]  # type: ignore[arg-type]


def check(fit: Fit, places: Mapping[str, NDArray[Any]]) -> None:
    """Look at values that were read into their places.

    Raises:
        RequestError: a number is not finite.
    """
    for p in fit.placed:
        check_finite(p.slot, places[p.slot.name])
