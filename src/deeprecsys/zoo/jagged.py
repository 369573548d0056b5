"""Ids of a sparse input's rows, also where the rows have different numbers of them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALUES, LENGTHS, WEIGHTS = ".values", ".lengths", ".weights"
"""Of the tensors that a jagged input is sent as, after its name."""
PAD = -1
"""In a jagged input that comes padded: no id."""


@dataclass(frozen=True, eq=False)
class Ids:
    """The ids of a sparse input; slices name rows of it.

    Attributes:
        values: int32 or int64 [rows, lookups]; jagged: [ids], all rows' one after another.
        offsets: jagged: int64 [rows + 1], where each row's ids begin, and the end. None: as many in each row.
            They are checked as slices read them.
        weights: float32 of the shape of `values`: what each looked-up row is multiplied by. None: 1.
        base: jagged: what the offsets count `values[0]` as.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64] | None = None
    weights: NDArray[np.float32] | None = None
    base: int = 0

    @property
    def begins(self) -> NDArray[np.int64]:
        """`offsets` of a jagged input."""
        assert self.offsets is not None, "not jagged"
        return self.offsets

    def put(self, values: NDArray[Any], lengths: NDArray[Any], weights: NDArray[Any] | None = None) -> None:
        """Write all rows of a jagged input, which has room for them."""
        self.begins[0] = self.base
        np.cumsum(lengths, out=self.begins[1:])
        self.begins[1:] += self.base
        self.values[: len(values)] = values
        if self.weights is not None:
            self.weights[: len(values)] = 1.0 if weights is None else weights

    def rows(self, first: int, stop: int) -> Ids:
        """Rows `first` (included) to `stop` (excluded) of a jagged input, offsets from 0; nothing is copied
        but the offsets."""
        offsets = self.begins[first : stop + 1]
        some = slice(int(offsets[0]) - self.base, int(offsets[-1]) - self.base)
        return Ids(
            self.values[some], offsets - offsets[0], None if self.weights is None else self.weights[some]
        )

    @classmethod
    def joined(cls, parts: list[Ids]) -> Ids:
        """Several jagged ones, offsets from 0, one after the other."""
        if len(parts) == 1:
            return parts[0]
        weights = [p.weights for p in parts if p.weights is not None]
        lengths = np.concatenate([np.diff(p.begins) for p in parts])
        return cls(
            np.concatenate([p.values for p in parts]),
            offsets_of(lengths),
            np.concatenate(weights) if weights else None,
        )


InputRows = NDArray[Any] | Ids
"""All rows of an input: [rows, width], or jagged."""


def offsets_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """[rows + 1] where the ids of rows of these lengths begin, and the end."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
