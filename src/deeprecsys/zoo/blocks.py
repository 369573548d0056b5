"""Inputs of a model that are alike and follow one another: they lie together and are written at once.

A model has many inputs and few kinds of them: to write them one by one costs the interpreter more than the
memory, the more so where a worker on the same core has emptied its caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from deeprecsys.zoo.schema import DenseInput, Input, Per, Schema


@dataclass(frozen=True, slots=True)
class Block:
    """Inputs of one type, width and belonging.

    Attributes:
        names: in the schema's order; width: numbers or look-ups per row.
    """

    names: tuple[str, ...]
    dense: bool
    width: int
    per: Per

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """As it is stored: float32 of dense inputs, int32 of sparse ones."""
        return np.dtype("<f4" if self.dense else "<i4")


def blocks(schema: Schema) -> tuple[Block, ...]:
    """A schema's inputs in its order, runs of those that are alike together."""
    runs = groupby(schema.inputs, lambda i: (isinstance(i, DenseInput), width(i), i.per))
    return tuple(Block(tuple(i.name for i in run), *alike) for alike, run in runs)


def width(i: Input) -> int:
    """Numbers of a row of an input."""
    return i.width if isinstance(i, DenseInput) else i.lookups
