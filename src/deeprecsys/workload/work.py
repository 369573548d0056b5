"""The work of queries that read a feature pool: items, and the ids that these have in jagged inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.work import ItemWork, item_at

ALL_LOOKUPS = 1.0
"""The share of work that is look-ups, before it was measured."""


@dataclass(frozen=True, eq=False)
class PoolWork:
    """The work of a pool's rows.

    Attributes:
        lookups: [rows + 1] ids before each row, in all jagged per-item inputs together.
        span: first rows of queries lie in 0 … span - 1.
    """

    lookups: NDArray[np.int64]
    span: int
    item: ItemWork

    def at_share(self, share: float) -> PoolWork:
        """The work where look-ups are another share of an item's."""
        return self if share == self.item.share else replace(self, item=replace(self.item, share=share))

    @cached_property
    def before(self) -> list[float]:
        """[rows + 1] the work before each row."""
        return [float(w) for w in self.item.before(self.lookups)]

    def ids(self, first: int, items: int) -> int:
        """Ids of the items from a row on."""
        return int(self.lookups[first + items] - self.lookups[first])

    def first(self, handle: int) -> int:
        """The first row of a query."""
        return handle % self.span

    def units(self, features: NDArray[np.uint64], items: NDArray[np.int32]) -> NDArray[np.int32]:
        """[n] the work of queries, in whole units (`core.work.units`)."""
        before, first = np.array(self.before), (features % np.uint64(self.span)).astype(np.int64)
        work: NDArray[np.int32] = np.maximum(np.rint(before[first + items] - before[first]), 1).astype(
            np.int32
        )
        return work

    def items(self, handle: int, most: int, units: int) -> int:
        """How many items from a handle's first row on have so much work, at least 1 and at most `most`."""
        first = self.first(handle)
        work = self.before[first + most] - self.before[first]
        return most if units >= work else max(1, item_at(self.before, first, most, units, work))
