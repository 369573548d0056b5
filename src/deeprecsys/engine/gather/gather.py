"""The sparse stage of an engine: every look-up of a batch in one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.engine.gather import control as f
from deeprecsys.engine.gather.kernel import run
from deeprecsys.engine.gather.plan import InputPlan, plan
from deeprecsys.engine.protocol import SliceView
from deeprecsys.zoo.jagged import InputRows
from deeprecsys.zoo.schema import Per, Schema

DISTANCE = 16
"""Rows to ask for ahead of their use (docs/design/0007-gather-kernel.md)."""


class Fault(NamedTuple):
    """The first thing that is wrong with a slice.

    Attributes:
        slice: its index in the batch.
        item: the item, counted in the query; None for a per-query input.
        reason: one line: what was expected and what came.
    """

    slice: int
    input: str
    item: int | None
    reason: str

    def __str__(self) -> str:
        where = "" if self.item is None else f" item {self.item}:"
        return f"input {self.input!r}:{where} {self.reason}"


class Gather:
    """Gathers and pools the embedding rows of a batch, and copies its dense inputs, into given arrays.

    Row r of an output belongs to the batch's r-th item, slices one after another, or to its r-th slice if
    the input is per query. A batch writes its rows and no others. Nothing is allocated for a batch of no
    more slices than before. One call at a time; it holds no lock (GIL).

    Args:
        tables: by name, in any format of `rows`. They are read where they are; rows that begin on
            cache lines, on huge pages, are read faster.
        inputs: the pools that slices point into, by input name; also `Assembly.inputs` as it is.
        outputs: by input name, float32 with a contiguous last axis and any other strides:
            [rows, dim] (sum, mean), [rows, lookups * dim] or [rows, lookups, dim] (concat, sequence),
            [rows, width] (dense; without an output a dense input is not copied). Views of one wide
            array concatenate features.

    Raises:
        InputError: an array is missing or has another shape, type or layout than the schema says.
    """

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, NDArray[Any]],
        inputs: Mapping[str, InputRows],
        outputs: Mapping[str, NDArray[np.float32]],
        *,
        distance: int = DISTANCE,
    ) -> None:
        if distance < 1:
            raise InputError(f"distance: expected at least 1 row, got {distance}")
        self._plans: tuple[InputPlan, ...] = plan(schema, tables, inputs, outputs)
        self._items = _room(self._plans, Per.ITEM)
        self._queries = _room(self._plans, Per.QUERY)
        self._first = _getter([p.name for p in self._plans])
        self._slice = Struct(f"={3 + len(self._plans)}q")
        assert f.SLICE_FIRST == 3 * 8
        self._call = _aligned(f.CALL_SIZE)
        self._inputs = np.concatenate([p.block for p in self._plans]) if self._plans else _aligned(8)
        self._set(f.INPUTS, self._inputs.ctypes.data)
        self._set(f.INPUT_COUNT, len(self._plans))
        self._set(f.SLICE_SIZE, self._slice.size)
        self._set(f.DISTANCE, distance)
        self._words = self._call.data
        self._slices_room = 0
        self._make_room(4)
        self._run = run()
        self._address = self._call.ctypes.data

    def gather(self, slices: Sequence[SliceView]) -> tuple[Fault, ...]:
        """Write the outputs' rows for a batch.

        Returns:
            The first fault of each slice that has one, in order of slices: empty when all is well. An id
            outside its table reads as row 0; rows outside a pool, and offsets that fall, give zeros. Other
            slices are as they would be alone.

        Raises:
            InputError: more items or slices than the outputs have room for.
        """
        if len(slices) > self._slices_room:
            self._make_room(2 * len(slices))
        pack, buffer, first, size = self._slice.pack_into, self._slice_bytes, self._first, self._slice.size
        items = at = 0
        for s in slices:
            count = s.stop - s.start
            pack(buffer, at, s.start, count, items, *first(s.first))
            if count < 0:
                raise InputError(f"slice: expected stop >= start, got {s.start} … {s.stop}")
            items += count
            at += size
        if items > self._items or len(slices) > self._queries:
            room = f"at most {self._items} items and {self._queries} slices"
            raise InputError(f"batch: expected {room}, got {items} and {len(slices)}")
        words = self._words
        words[f.SLICE_COUNT // 8] = len(slices)
        self._run(self._address)
        return self._found(slices) if words[f.FAULT_COUNT // 8] else ()

    def _set(self, field: int, value: int) -> None:
        self._call[field // 8] = value

    def _make_room(self, slices: int) -> None:
        """Make room for the blocks of `slices` slices."""
        self._slices_room = slices
        self._slice_words = _aligned(slices * self._slice.size)
        self._slice_bytes = self._slice_words.data.cast("B")
        self._spans = _aligned(slices * len(self._plans) * f.SPAN_SIZE)
        self._faults = _aligned(slices * f.FAULT_SIZE)
        self._set(f.SLICES, self._slice_words.ctypes.data)
        self._set(f.SPANS, self._spans.ctypes.data)
        self._set(f.FAULTS, self._faults.ctypes.data)

    def _found(self, slices: Sequence[SliceView]) -> tuple[Fault, ...]:
        faults = self._faults.reshape(-1, f.FAULT_SIZE // 8)[: len(slices)].tolist()
        return tuple(
            _fault(k, self._plans[index], slices[k], kind, place, value)
            for k, (index, kind, place, value) in enumerate(faults)
            if index >= 0
        )


def _fault(k: int, plan: InputPlan, s: SliceView, kind: int, place: int, value: int) -> Fault:
    """A fault in words.

    Args:
        kind: one of `control`.
        place, value: of a bad id its place among the slice's ids, and itself; else first row and rows.
    """
    per_item = plan.per is Per.ITEM
    words = plan.block.tolist()
    if kind == f.BAD_ROWS:
        have = words[f.POOL_ROWS // 8]
        return Fault(
            k, plan.name, None, f"expected rows of its pool's {have}, got {place} … {place + value - 1}"
        )
    ids = plan.ids
    assert ids is not None
    if kind == f.BAD_OFFSETS:
        most = f", with at most {words[f.LOOKUPS // 8]} ids a row" if words[f.OUT_STEP // 8] else ""
        wanted = f"expected offsets that rise within 0 … {len(ids.values)}{most}"
        return Fault(k, plan.name, None, f"{wanted}, got others in rows {place} … {place + value - 1}")
    first = s.first[plan.name] + (s.start if per_item else 0)
    if ids.offsets is None:
        row, column = divmod(place, ids.values.shape[1])
    else:
        place += int(ids.offsets[first])
        row = int(np.searchsorted(ids.offsets, place, side="right")) - 1
        column = place - int(ids.offsets[row])
        row -= first
    if ids.values.itemsize == 4:
        value = int(np.uint32(value).view(np.int32))
    last = words[f.TABLE_ROWS // 8] - 1
    reason = f"look-up {column}: expected an id in 0 … {last}, got {value}"
    return Fault(k, plan.name, s.start + row if per_item else None, reason)


def _room(plans: Sequence[InputPlan], per: Per) -> int:
    """Rows that all outputs of such inputs have room for."""
    return min((p.out_rows for p in plans if p.per is per), default=1 << 62)


def _getter(names: Sequence[str]) -> Callable[[Mapping[str, int]], Sequence[int]]:
    """A function that takes the named values out of a mapping, in C."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda first: [first[name] for name in names]


def _aligned(size: int) -> NDArray[np.int64]:
    """Zeroed words, at least one."""
    return np.zeros(max(1, size // 8), np.int64)
