"""A batch as passes over the device: what is computed at once, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deeprecsys.engine.protocol import SliceView
from deeprecsys.zoo.schema import Per, Pooling, Schema

MOST_SLICES = 256


class Piece(NamedTuple):
    """Items `start` to `stop` of slice number `slice` of a batch, counted from the slice's first."""

    slice: int
    start: int
    stop: int


def passes(slices: Sequence[SliceView], largest: int, together: bool) -> list[list[Piece]]:
    """The batch in passes of at most `largest` items, every item once, in order.

    Args:
        together: whether several slices may share a pass.
    """
    found: list[list[Piece]] = []
    room = 0
    for index, s in enumerate(slices):
        start, items = 0, s.stop - s.start
        while start < items:
            full = not found or room == 0 or len(found[-1]) >= MOST_SLICES
            if full or (start == 0 and not together):
                found.append([])
                room = largest
            stop = min(items, start + room)
            found[-1].append(Piece(index, start, stop))
            room -= stop - start
            start = stop
    return found


def slices_together(schema: Schema) -> bool:
    """Whether one pass may hold several slices of a model.

    Items that attend to their own query's sequence make as many products of different shapes as there are
    slices: no graph of a fixed shape holds them. Their slices run one after the other.
    """
    return not any(i.per is Per.QUERY and i.pooling is Pooling.SEQUENCE for i in schema.sparse)
