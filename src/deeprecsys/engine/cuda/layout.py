"""How a batch goes to the device: in passes, each laid out as blocks of like inputs, padded to a bucket.

All words are 32 bits, so one copy carries ids and floats. An input's rows lie together ([rows, look-ups]),
so that filling is one copy per input and slice; inputs alike in pooling and look-ups form a block
([inputs, rows, look-ups]), so that one kernel gathers them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import at_least
from deeprecsys.engine.protocol import SliceView
from deeprecsys.zoo.schema import DenseInput, Per, Pooling, Schema

ALIGN_WORDS = 32  # 128 bytes: a line of the device's cache
LARGEST = 4096
MOST_SLICES = 256


def buckets(largest: int = LARGEST) -> tuple[int, ...]:
    """The padded batch sizes: powers of two up to the first that holds `largest` items."""
    at_least(1, "largest bucket", largest)
    return tuple(1 << k for k in range((largest - 1).bit_length() + 1))


def bucket_of(items: int) -> int:
    """The smallest power of two that is at least `items`."""
    return 1 << (items - 1).bit_length()


@dataclass(frozen=True)
class DeviceBlock:
    """Sparse inputs of one shape, gathered together.

    Attributes:
        pooling: of all; one look-up is a sum of one.
        lookups: ids per row of each input.
        dim: of the tables' rows.
    """

    names: tuple[str, ...]
    per: Per
    pooling: Pooling
    lookups: int
    dim: int
    tables: tuple[str, ...]

    @property
    def pooled(self) -> bool:
        """Whether a row's look-ups become one vector."""
        return self.pooling in (Pooling.SUM, Pooling.MEAN)


def blocks_of(schema: Schema) -> tuple[DeviceBlock, ...]:
    """The schema's sparse inputs, like ones together, in order of first appearance."""
    found: dict[tuple[Per, Pooling, int, int], list[tuple[str, str]]] = {}
    for i in schema.sparse:
        alone = i.lookups == 1 and i.pooling is not Pooling.SEQUENCE
        pooling = Pooling.SUM if alone else i.pooling
        key = (i.per, pooling, i.lookups, schema.table(i.table).dim)
        found.setdefault(key, []).append((i.name, i.table))
    return tuple(
        DeviceBlock(tuple(n for n, _ in inputs), per, pooling, lookups, dim, tuple(t for _, t in inputs))
        for (per, pooling, lookups, dim), inputs in found.items()
    )


class FieldPlace(NamedTuple):
    """Where an array lies in the arena."""

    word: int
    shape: tuple[int, ...]

    @property
    def words(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class StagingArena:
    """The places of one bucket's inputs in an arena of 32-bit words.

    Attributes:
        items, slices: the bucket: rows of per-item and of per-query inputs.
        blocks: [inputs, rows, look-ups] int32 each, in the order of `blocks_of`.
        vectors: [rows, width] float32 each.
        slice_of_item: [items] int32, each item's slice; None where the bucket holds one slice.
    """

    items: int
    slices: int
    blocks: tuple[FieldPlace, ...]
    vectors: tuple[FieldPlace, ...]
    slice_of_item: FieldPlace | None
    words: int

    @classmethod
    def of(
        cls, blocks: tuple[DeviceBlock, ...], vectors: tuple[DenseInput, ...], items: int, slices: int
    ) -> StagingArena:
        at = 0

        def put(*shape: int) -> FieldPlace:
            nonlocal at
            place = FieldPlace(at, shape)
            at += -(-place.words // ALIGN_WORDS) * ALIGN_WORDS
            return place

        def rows(per: Per) -> int:
            return items if per is Per.ITEM else slices

        return cls(
            items=items,
            slices=slices,
            blocks=tuple(put(len(b.names), rows(b.per), b.lookups) for b in blocks),
            vectors=tuple(put(rows(v.per), v.width) for v in vectors),
            slice_of_item=put(items) if slices > 1 else None,
            words=at,
        )


def view(
    words: NDArray[np.int32], place: FieldPlace, dtype: type[np.int32] | type[np.float32]
) -> NDArray[Any]:
    """An array in an arena's words."""
    return words[place.word : place.word + place.words].view(dtype).reshape(place.shape)


class SliceItems(NamedTuple):
    """Items `start` to `stop` of slice number `slice` of a batch, counted from the slice's first."""

    slice: int
    start: int
    stop: int


def passes(slices: Sequence[SliceView], largest: int, together: bool) -> list[list[SliceItems]]:
    """The batch in passes of at most `largest` items, in order; slices share one if `together`."""
    found: list[list[SliceItems]] = []
    room = 0
    for index, s in enumerate(slices):
        start, items = 0, s.stop - s.start
        while start < items:
            full = not found or room == 0 or len(found[-1]) >= MOST_SLICES
            if full or (start == 0 and not together):
                found.append([])
                room = largest
            stop = min(items, start + room)
            found[-1].append(SliceItems(index, start, stop))
            room -= stop - start
            start = stop
    return found


def slices_together(schema: Schema) -> bool:
    """Whether one pass may hold several slices of a model.

    Items that attend to their own query's sequence make as many products of different shapes as there are
    slices: no graph of a fixed shape holds them. Their slices run one after the other.
    """
    return not any(i.per is Per.QUERY and i.pooling is Pooling.SEQUENCE for i in schema.sparse)
