"""A dense stage, whichever library computes it: buffers, checks of a call, batches run in blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense.layout import Layout
from deeprecsys.zoo.model import Model, splittable
from deeprecsys.zoo.schema import Per

Floats = NDArray[np.float32]
SliceOfItem = NDArray[np.int64] | None
"""[n], the slice of each item of a batch, never decreasing; None for a single slice."""
Arrays = Mapping[str, Floats]
"""Arrays by buffer name."""
NOTHING: Arrays = {}
ITEMS, SLICES = 64, 1
"""Items and slices that there is room for at first."""


class BufferRows(NamedTuple):
    """The rows of the buffers that one call reads: first item and items, first slice and slices."""

    item: int
    items: int
    slice: int
    slices: int


class DenseStage(ABC):
    """The dense layers of one model, reading from buffers where they lie. One call at a time.

    Write the buffers' first rows, then call `run`.

    Args:
        slice_by_slice: a batch of several slices is run as a batch for each.
        block: the most items of one slice that are run at once.

    Attributes:
        layout: which input lies where in the buffers.
        buffers: float32 by buffer name: row r belongs to the batch's r-th item, or its r-th slice.
    """

    def __init__(self, model: Model, slice_by_slice: bool = False, block: int = 1 << 30) -> None:
        self.layout = Layout.of(model)
        self.outputs = model.schema.outputs
        self._one_by_one = slice_by_slice
        self._apart = not splittable(model)  # items of two queries must not meet
        self._block = block
        self._per_query = self.layout.per_query or self._apart
        self._direct = {b.name: b for b in self.layout.buffers if b.direct}
        self._items, self._slices = ITEMS, SLICES
        self.buffers: Arrays = self.layout.allocate(ITEMS, SLICES)

    @staticmethod
    def precisions() -> tuple[str, ...]:
        """What the route computes in on this CPU."""
        return ("fp32",)

    def reserve(self, items: int, slices: int) -> None:
        """Make room for larger batches; `buffers` are new arrays afterwards if there was not enough."""
        if items <= self._items and slices <= self._slices:
            return
        self._items, self._slices = max(items, self._items), max(slices, self._slices)
        self.buffers = self.layout.allocate(self._items, self._slices)
        self._moved()

    def run(self, items: int, slice_of_item: SliceOfItem, out: Floats, overrides: Arrays = NOTHING) -> None:
        """Score the first `items` rows of the buffers.

        Args:
            slice_of_item: [items], rising from 0 by steps of 0 or 1; None for a single slice.
            out: float32 [items, outputs], C-contiguous, where the scores go.
            overrides: arrays to read in place of buffers that are `direct`; float32 [rows, width],
                C-contiguous.

        Raises:
            InputError: more rows than there is room for, or arrays of another shape.
        """
        slices = 1 if slice_of_item is None else int(slice_of_item[-1]) + 1
        if items > self._items or slices > self._slices:
            room = f"at most {self._items} items and {self._slices} slices"
            raise InputError(f"batch: expected {room}, got {items} and {slices}")
        if out.shape != (items, self.outputs) or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise InputError(
                f"out: expected C-contiguous float32 [{items}, {self.outputs}], "
                f"got {out.dtype} {list(out.shape)}"
            )
        if overrides:
            self._check(items, slices, overrides)
        if slices == 1 or not self._per_query:
            self._blocks(BufferRows(0, items, 0, 1), out, overrides)
        elif self._one_by_one:
            assert slice_of_item is not None
            assert not overrides, "a model without dense inputs"
            ends = np.searchsorted(slice_of_item, np.arange(slices), side="right").tolist()
            for s, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
                self._blocks(BufferRows(start, stop - start, s, 1), out[start:stop], NOTHING)
        else:
            self._run(BufferRows(0, items, 0, slices), slice_of_item, out, overrides)

    def run_user(self, user: Floats) -> None:
        """Run the user stage of the buffers' first slice.

        Args:
            user: float32 [1, `Model.user_stage`], C-contiguous, where the result goes.

        Raises:
            InputError: the route has no user stage.
        """
        raise InputError(f"dense stage: expected a route with a user stage, got {type(self).__name__}")

    def run_items(self, items: int, user: Floats, out: Floats, overrides: Arrays = NOTHING) -> None:
        """Score the first `items` rows of one slice whose user stage gave `user`; as `run` otherwise."""
        raise InputError(f"dense stage: expected a route with a user stage, got {type(self).__name__}")

    def _blocks(self, at: BufferRows, out: Floats, overrides: Arrays) -> None:
        """Run one slice's items block by block."""
        if at.items <= self._block:
            self._run(at, None, out, overrides)
            return
        for first in range(0, at.items, self._block):
            some = slice(first, min(first + self._block, at.items))
            part = at._replace(item=at.item + first, items=some.stop - first)
            rows = {
                name: a[some] if self._direct[name].per is Per.ITEM else a for name, a in overrides.items()
            }
            self._run(part, None, out[some], rows)

    def rows(self, at: BufferRows) -> dict[str, Floats]:
        """By name, the rows of the buffers that a call reads."""
        items = slice(at.item, at.item + at.items)
        slices = slice(at.slice, at.slice + at.slices)
        return {
            b.name: self.buffers[b.name][items if b.per is Per.ITEM else slices] for b in self.layout.buffers
        }

    def _check(self, items: int, slices: int, overrides: Arrays) -> None:
        for name, array in overrides.items():
            if name not in self._direct:
                raise InputError(f"overrides: expected one of {sorted(self._direct)}, got {name!r}")
            b = self._direct[name]
            shape = b.shape(items if b.per is Per.ITEM else slices)
            if array.shape != shape or array.dtype != np.float32 or not array.flags.c_contiguous:
                raise InputError(
                    f"overrides: {name!r}: expected C-contiguous float32 {list(shape)}, "
                    f"got {array.dtype} {list(array.shape)}"
                )

    def _moved(self) -> None:  # noqa: B027 - a hook that not every stage needs
        """`buffers` are new arrays."""

    @abstractmethod
    def _run(self, at: BufferRows, slice_of_item: SliceOfItem, out: Floats, overrides: Arrays) -> None:
        """Score rows, all checked; `slice_of_item` is None unless the batch has several slices."""
