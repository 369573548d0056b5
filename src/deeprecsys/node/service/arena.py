"""The memory of one model's queries in a service, and the rows of it that belong to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from deeprecsys.node.runtime.layout import ModelLayout, ModelMemory
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.zoo.jagged import Ids, InputRows
from deeprecsys.zoo.schema import Per, SparseInput


class Arena(ModelMemory):
    """Inputs and scores of a layout whose inputs are a `QueryArena`; tables belong to model versions."""

    def __init__(self, layout: ModelLayout, segments: Mapping[str, Segment]) -> None:
        super().__init__(layout, segments)
        self._per_item = [(i.name, i.per is Per.ITEM) for i in self.schema.inputs]
        self._jagged = {i.name: i for i in self.schema.jagged}
        self._blocks = [(self._block(b.names), b.per is Per.ITEM) for b in self.schema.blocks]

    def _block(self, names: Sequence[str]) -> NDArray[Any]:
        """Inputs that are alike as one array: they follow one another at one distance."""
        first, *_ = alike = [rows for n in names if not isinstance(rows := self.inputs[n], Ids)]
        at = [rows.ctypes.data for rows in alike[:2]]
        stride = at[-1] - at[0]
        return as_strided(first, (len(names), *first.shape), (stride, *first.strides))

    def seat(self, row: int, slot: int, items: int, rows: int) -> dict[str, InputRows]:
        """The rows of every input that belong to a query, which takes `rows` rows."""
        return {
            name: _jagged(self._jagged[name], whole, row, slot, items, rows)
            if isinstance(whole := self.inputs[name], Ids)
            else (whole[row : row + items] if per_item else whole[slot : slot + 1])
            for name, per_item in self._per_item
        }

    def lookups(self, row: int, items: int) -> NDArray[np.int64] | None:
        """[items + 1] ids that a query has before each item in the jagged per-item inputs; None if there are
        no such inputs."""
        found = [
            ids.begins[row : row + items + 1] - ids.begins[row]
            for i in self._jagged.values()
            if i.per is Per.ITEM and isinstance(ids := self.inputs[i.name], Ids)
        ]
        return np.sum(found, axis=0) if found else None

    def seat_blocks(self, row: int, slot: int, items: int) -> list[NDArray[Any]]:
        """The rows of a query by `Schema.blocks`: an array [inputs, rows, width] for each."""
        return [
            block[:, row : row + items] if per_item else block[:, slot : slot + 1]
            for block, per_item in self._blocks
        ]

    def close(self) -> None:
        """Drop the segments. The arrays must not be used afterwards."""
        self._blocks = []
        super().close()


def _jagged(i: SparseInput, whole: Ids, row: int, slot: int, items: int, rows: int) -> Ids:
    """A query's part of a jagged input: room for its ids, and its offsets, from 0 of the whole."""
    if i.per is Per.ITEM:
        some = slice(row * i.capacity, (row + rows) * i.capacity)
        offsets = whole.begins[row : row + items + 1]
    else:
        some = slice(slot * i.lookups, (slot + 1) * i.lookups)
        offsets = whole.begins[2 * slot : 2 * slot + 2]
    weights = None if whole.weights is None else whole.weights[some]
    return Ids(whole.values[some], offsets, weights, some.start)
