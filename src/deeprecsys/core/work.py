"""Work: what items count for where they have different numbers of ids.

The unit is the work of an item with the expected number of look-ups. To the dispatcher a query's size is its
work in these units, a whole number, and a slice is a run of them; which items a run of units is, the driver
works out when it posts the slice (docs/design/0022-work.md). Where all items are alike a unit is an item.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ItemWork:
    """The work of an item: 1 - `share`, and `share` for every `expected` look-ups.

    Attributes:
        expected: look-ups of an item on average, in the inputs whose rows have different numbers of ids.
        share: of the time that an average item adds to a batch, what its look-ups take, in [0, 1]
            (`LatencyProfile.lookup_share`). At 0 work is counted in items.
    """

    expected: float
    share: float

    def before(self, lookups: NDArray[np.int64]) -> NDArray[np.float64]:
        """[n + 1] the work before each item, from the look-ups before each; both begin at their own 0."""
        items = np.arange(len(lookups), dtype=np.float64)
        work: NDArray[np.float64] = (1 - self.share) * items + self.share / self.expected * lookups
        return work


def units(work: Sequence[float] | NDArray[Any], first: int = 0, items: int | None = None) -> int:
    """The units of work of `items` items from `first` on: a whole number, at least 1."""
    last = len(work) - 1 if items is None else first + items
    return max(1, round(float(work[last] - work[first])))


def item_at(work: Sequence[float] | NDArray[Any], first: int, items: int, unit: int, of_units: float) -> int:
    """How many of a query's items lie before a unit of its work, counted from 0.

    An item belongs to the slice in which its work begins. So the slices of a query hold each item once; one
    that is longer than a slice leaves the next without any.

    Args:
        work: [at least first + items + 1] the work before each item.
        first, items: the query's items. of_units: its `units`.
    """
    if unit <= 0 or unit >= of_units:
        return 0 if unit <= 0 else items
    goal = work[first] + (work[first + items] - work[first]) * unit / of_units
    return bisect_left(work, goal, first, first + items) - first
