"""What a model reads: its tables and its inputs. No torch here, so that a node can plan without it.

Every network is a *sparse stage*, which gathers and pools embedding rows and is the same code for
all models, and a *dense stage*, which is the rest. The schema describes the seam between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

FLOAT_BYTES = 4
ID_BYTES = 4  # ids are 32-bit: no table has 2**31 rows


class Per(StrEnum):
    """What an input belongs to: each candidate item, or the query (the user) once."""

    ITEM = "item"
    QUERY = "query"


class Pooling(StrEnum):
    """How the rows that one sparse input looks up become the dense stage's input."""

    SUM = "sum"  # [n, dim]
    MEAN = "mean"  # [n, dim]
    CONCAT = "concat"  # [n, lookups * dim]
    SEQUENCE = "sequence"  # [n, lookups, dim]


@dataclass(frozen=True, slots=True)
class Table:
    """An embedding table: `rows` x `dim` float32."""

    name: str
    rows: int
    dim: int

    @property
    def bytes(self) -> int:
        return self.rows * self.dim * FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class DenseInput:
    """A float32 vector of `width` per item or per query."""

    dtype: ClassVar[np.dtype[Any]] = np.dtype("<f4")
    datatype: ClassVar[str] = "FP32"
    """As the Open Inference Protocol names `dtype`."""

    name: str
    width: int
    per: Per = Per.ITEM

    @property
    def bytes(self) -> int:
        """Bytes of one row of this input."""
        return self.width * FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class SparseInput:
    """`lookups` ids into one table, per item or per query, and how their rows are pooled."""

    dtype: ClassVar[np.dtype[Any]] = np.dtype("<i4")
    datatype: ClassVar[str] = "INT32"

    name: str
    table: str
    lookups: int = 1
    pooling: Pooling = Pooling.SUM
    per: Per = Per.ITEM

    @property
    def width(self) -> int:
        """Numbers of one row of this input: its ids."""
        return self.lookups

    @property
    def bytes(self) -> int:
        """Bytes of one row of this input (ids, not the embedding rows behind them)."""
        return self.lookups * ID_BYTES


Input = DenseInput | SparseInput


@dataclass(frozen=True, slots=True)
class Block:
    """Inputs of one type, width and belonging that follow one another: they lie together, written at once.

    A model has many inputs and few kinds of them: to write them one by one costs the interpreter more than
    the memory.

    Attributes:
        names: of the inputs, in the schema's order.
        dense: dense inputs, not sparse ones.
        width: numbers per row: values or ids.
    """

    names: tuple[str, ...]
    dense: bool
    width: int
    per: Per

    @property
    def dtype(self) -> np.dtype[Any]:
        """As the inputs are stored."""
        return (DenseInput if self.dense else SparseInput).dtype


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything that a model reads, and how many scores it returns per item."""

    tables: tuple[Table, ...]
    inputs: tuple[Input, ...]
    outputs: int = 1

    def __post_init__(self) -> None:
        tables = {t.name for t in self.tables}
        names = [i.name for i in self.inputs]
        if len(tables) != len(self.tables) or len(set(names)) != len(names):
            raise ValueError("schema: two tables or two inputs share a name")
        for i in self.sparse:
            if i.table not in tables:
                raise ValueError(f"schema: input {i.name!r} names the unknown table {i.table!r}")

    @property
    def dense(self) -> tuple[DenseInput, ...]:
        return tuple(i for i in self.inputs if isinstance(i, DenseInput))

    @property
    def sparse(self) -> tuple[SparseInput, ...]:
        return tuple(i for i in self.inputs if isinstance(i, SparseInput))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The inputs in their order, runs of those that are alike together."""
        runs = groupby(self.inputs, lambda i: (isinstance(i, DenseInput), i.width, i.per))
        return tuple(Block(tuple(i.name for i in run), *alike) for alike, run in runs)

    def row_shape(self, i: Input) -> tuple[int, ...]:
        """Shape of one row of an input as the dense stage reads it: dense values or pooled rows."""
        if isinstance(i, DenseInput):
            return (i.width,)
        dim = self.table(i.table).dim
        if i.pooling is Pooling.SEQUENCE:
            return (i.lookups, dim)
        return (dim * (i.lookups if i.pooling is Pooling.CONCAT else 1),)

    def table(self, name: str) -> Table:
        return next(t for t in self.tables if t.name == name)

    @property
    def table_bytes(self) -> int:
        """Bytes of all embedding tables together."""
        return sum(t.bytes for t in self.tables)

    def feature_bytes(self, per: Per) -> int:
        """Bytes of the features of one item (or of one query)."""
        return sum(i.bytes for i in self.inputs if i.per is per)

    def gathered_bytes(self, per: Per) -> int:
        """Bytes of embedding rows that one item (or one query) gathers."""
        return sum(i.lookups * self.table(i.table).dim * FLOAT_BYTES for i in self.sparse if i.per is per)
