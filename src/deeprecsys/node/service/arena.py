"""The memory of one model's queries in a service, and the rows of it that belong to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from deeprecsys.node.runtime.layout import ModelLayout, ModelMemory
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.zoo.schema import Per


class Arena(ModelMemory):
    """Inputs and scores of a layout whose inputs are a `QueryArena`; tables belong to model versions."""

    def __init__(self, layout: ModelLayout, segments: Mapping[str, Segment]) -> None:
        super().__init__(layout, segments)
        self._per_item = [(i.name, i.per is Per.ITEM) for i in self.schema.inputs]
        self._blocks = [(self._block(b.names), b.per is Per.ITEM) for b in self.schema.blocks]

    def _block(self, names: Sequence[str]) -> NDArray[Any]:
        """Inputs that are alike as one array: they follow one another at one distance."""
        first = self.inputs[names[0]]
        at = [i.ctypes.data for i in (self.inputs[n] for n in names[:2])]
        stride = at[-1] - at[0]
        return as_strided(first, (len(names), *first.shape), (stride, *first.strides))

    def seat(self, row: int, slot: int, items: int) -> dict[str, NDArray[Any]]:
        """The rows of every input that belong to a query."""
        return {
            name: self.inputs[name][row : row + items] if per_item else self.inputs[name][slot : slot + 1]
            for name, per_item in self._per_item
        }

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
