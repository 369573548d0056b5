"""What the dense stages share: their buffers, the checks of a call, slices one by one where they must be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense.layout import Layout
from deeprecsys.engine.dense.protocol import NOTHING, Arrays
from deeprecsys.zoo.model import Model, splittable
from deeprecsys.zoo.schema import Per

ITEMS, SLICES = 64, 1
"""Room at first."""


class Span(NamedTuple):
    """The rows of the buffers that one call reads."""

    item: int
    items: int
    slice: int
    slices: int


class BufferedStage(ABC):
    """A `DenseStage` less the arithmetic.

    Args:
        slice_by_slice: a batch of several slices is run as so many batches of one.
        block: the most items of one slice that are run at once.
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

    def run(
        self,
        items: int,
        owner: NDArray[np.int64] | None,
        out: NDArray[np.float32],
        instead: Arrays = NOTHING,
    ) -> None:
        """See `DenseStage.run`."""
        slices = 1 if owner is None else int(owner[-1]) + 1
        if items > self._items or slices > self._slices:
            room = f"at most {self._items} items and {self._slices} slices"
            raise InputError(f"batch: expected {room}, got {items} and {slices}")
        if out.shape != (items, self.outputs) or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise InputError(
                f"out: expected C-contiguous float32 [{items}, {self.outputs}], "
                f"got {out.dtype} {list(out.shape)}"
            )
        if instead:
            self._check(items, slices, instead)
        if slices == 1 or not self._per_query:
            self._blocks(Span(0, items, 0, 1), out, instead)
        elif self._one_by_one:
            assert owner is not None
            assert not instead, "a model without dense inputs"
            ends = np.searchsorted(owner, np.arange(slices), side="right").tolist()
            for s, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
                self._blocks(Span(start, stop - start, s, 1), out[start:stop], NOTHING)
        else:
            self._run(Span(0, items, 0, slices), owner, out, instead)

    def _blocks(self, span: Span, out: NDArray[np.float32], instead: Arrays) -> None:
        """Run one slice's items block by block."""
        if span.items <= self._block:
            self._run(span, None, out, instead)
            return
        for at in range(0, span.items, self._block):
            some = slice(at, min(at + self._block, span.items))
            part = span._replace(item=span.item + at, items=some.stop - at)
            rows = {name: a[some] if self._direct[name].per is Per.ITEM else a for name, a in instead.items()}
            self._run(part, None, out[some], rows)

    def rows(self, span: Span) -> dict[str, NDArray[np.float32]]:
        """By name, the rows of the buffers in a span."""
        items = slice(span.item, span.item + span.items)
        slices = slice(span.slice, span.slice + span.slices)
        return {
            b.name: self.buffers[b.name][items if b.per is Per.ITEM else slices] for b in self.layout.buffers
        }

    def _check(self, items: int, slices: int, instead: Arrays) -> None:
        for name, array in instead.items():
            if name not in self._direct:
                raise InputError(f"instead: expected one of {sorted(self._direct)}, got {name!r}")
            b = self._direct[name]
            shape = b.shape(items if b.per is Per.ITEM else slices)
            if array.shape != shape or array.dtype != np.float32 or not array.flags.c_contiguous:
                raise InputError(
                    f"instead: {name!r}: expected C-contiguous float32 {list(shape)}, "
                    f"got {array.dtype} {list(array.shape)}"
                )

    def _moved(self) -> None:  # noqa: B027 - not every stage minds
        """The buffers are others now."""

    @abstractmethod
    def _run(
        self, span: Span, owner: NDArray[np.int64] | None, out: NDArray[np.float32], instead: Arrays
    ) -> None:
        """Score a span of rows, all checked; `owner` is None unless several slices must be told apart."""
