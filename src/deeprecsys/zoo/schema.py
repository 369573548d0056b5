"""What a model reads: its tables and its inputs. No torch here, so that a node can plan without it.

Every network is a *sparse stage*, which gathers and pools embedding rows and is the same code for
all models, and a *dense stage*, which is the rest. The schema describes the seam between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, shown

FLOAT_BYTES = 4
ID_BYTES = 4  # ids are 32-bit: no table has 2**31 rows
OFFSET_BYTES = 8  # of a jagged input, for each row

MAX_ROWS = 2**31 - 1
"""Rows of the largest table: ids are int32."""
MOST_ROW = 1 << 24
"""Numbers in one row of an input as the dense stage reads it; also the ids that a float32 can hold."""


def _count(field: str, value: object, most: int = MOST_ROW, least: int = 1) -> None:
    """Raise InputError unless `value` is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{field}: expected a whole number from {least} to {most}, got {shown(value)}")


def _expected(name: str, value: object, most: int) -> None:
    """Raise InputError unless `value` can be the mean number of ids of rows with at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise InputError(
            f"input {name!r} expected: expected a number above 0, at most {most}, got {shown(value)}"
        )


def _named(kind: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise InputError(f"{kind} name: expected a text, got {shown(name)}")


def _one_of(field: str, value: object, kind: type[StrEnum]) -> None:
    if not isinstance(value, kind):
        names = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
        raise InputError(f"{field}: expected one of {names}, got {shown(value)}")


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

    def __post_init__(self) -> None:
        _named("table", self.name)
        _count(f"table {self.name!r} rows", self.rows, MAX_ROWS)
        _count(f"table {self.name!r} dim", self.dim)

    @property
    def bytes(self) -> int:
        return self.rows * self.dim * FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class DenseInput:
    """A float32 vector of `width` per item or per query.

    Attributes:
        ids: pairs of a column, counted from 0, that holds ids, and how many there are: whole numbers from 0.
            Measuring fills such a column with ids, all others with standard normal numbers.
    """

    dtype: ClassVar[np.dtype[Any]] = np.dtype("<f4")
    datatype: ClassVar[str] = "FP32"
    """As the Open Inference Protocol names `dtype`."""

    name: str
    width: int
    per: Per = Per.ITEM
    ids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        _named("input", self.name)
        _count(f"input {self.name!r} width", self.width)
        _one_of(f"input {self.name!r} per", self.per, Per)
        for column, count in self.ids:
            _count(f"input {self.name!r} ids: column", column, self.width - 1, least=0)
            _count(f"input {self.name!r} ids: how many", count)

    @property
    def bytes(self) -> int:
        """Bytes of one row of this input."""
        return self.width * FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class SparseInput:
    """`lookups` ids into one table, per item or per query, and how their rows are pooled.

    Attributes:
        lookups: ids of a row; the most of them where the input is jagged.
        fields: for each look-up, the part of the table that its ids count from: first row, rows. () where all
            ids count from the first row of the table. Tables of several fields are fused so.
        expected: jagged: rows have different numbers of ids, this many on average. None: all have `lookups`.
        weighted: each id has a weight, by which its row of the table is multiplied; of a jagged input alone.
    """

    dtype: ClassVar[np.dtype[Any]] = np.dtype("<i4")
    datatype: ClassVar[str] = "INT32"

    name: str
    table: str
    lookups: int = 1
    pooling: Pooling = Pooling.SUM
    per: Per = Per.ITEM
    fields: tuple[tuple[int, int], ...] = ()
    expected: float | None = None
    weighted: bool = False

    def __post_init__(self) -> None:
        _named("input", self.name)
        _count(f"input {self.name!r} lookups", self.lookups)
        if self.fields and len(self.fields) != self.lookups:
            raise InputError(
                f"input {self.name!r} fields: expected one for each of {self.lookups} look-ups, "
                f"got {len(self.fields)}"
            )
        for first, count in self.fields:
            _count(f"input {self.name!r} fields: first row", first, MAX_ROWS, least=0)
            _count(f"input {self.name!r} fields: rows", count, MAX_ROWS - first)
        _one_of(f"input {self.name!r} pooling", self.pooling, Pooling)
        _one_of(f"input {self.name!r} per", self.per, Per)
        if self.fields and self.expected is not None:
            raise InputError(f"input {self.name!r} fields: expected none, for it is jagged, got some")
        if self.expected is not None:
            _expected(self.name, self.expected, self.lookups)
        if self.weighted and (self.expected is None or self.pooling is Pooling.MEAN):
            raise InputError(
                f"input {self.name!r} weighted: expected a jagged input that is not averaged, "
                f"got pooling {self.pooling} and expected {self.expected}"
            )

    @property
    def jagged(self) -> bool:
        """Whether its rows have different numbers of ids."""
        return self.expected is not None

    @property
    def mean_lookups(self) -> float:
        """Ids of a row, on average."""
        return self.lookups if self.expected is None else self.expected

    @property
    def capacity(self) -> int:
        """Ids of a row for which memory is kept: a query with more per row takes more rows of memory."""
        return math.ceil(self.mean_lookups)

    @property
    def width(self) -> int:
        """Numbers of one row of this input: its ids."""
        return self.lookups

    @property
    def bytes(self) -> int:
        """Bytes of one row of this input (ids, not the embedding rows behind them)."""
        if not self.jagged:
            return self.lookups * ID_BYTES
        per_item = self.per is Per.ITEM
        ids, offsets = (self.capacity, 1) if per_item else (self.lookups, 2)
        return ids * (ID_BYTES + FLOAT_BYTES * self.weighted) + offsets * OFFSET_BYTES


Input = DenseInput | SparseInput


def is_jagged(i: Input) -> bool:
    """Whether an input is sparse and its rows have different numbers of ids."""
    return isinstance(i, SparseInput) and i.jagged


IdDraw = Callable[[int, int], NDArray[Any]]
"""From how many ids there are, and how many are wanted, to [wanted] ids."""


def put_ids(ids: tuple[tuple[int, int], ...], rows: NDArray[Any], draw: IdDraw) -> None:
    """Fill the columns of a dense input's rows, [n, width], that hold ids (`DenseInput.ids`)."""
    for column, count in ids:
        rows[:, column] = draw(count, len(rows))


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


DATATYPES: dict[str, np.dtype[Any]] = {
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
    "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"), "BOOL": np.dtype("?"),
}  # fmt: skip
"""Types of tensors that clients send or get, as the Open Inference Protocol names them."""
SCORES = "scores"
"""The output's name where a model has none of its own."""
SLICE_OF_ITEM = "slice_of_item"
"""A dense stage's input besides the schema's: each item's slice, in a batch of several."""


@dataclass(frozen=True, slots=True)
class Feed:
    """An input of the schema that is filled from a tensor: from some of its columns, () for all."""

    input: str
    columns: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that clients send or get.

    Attributes:
        datatype: as the Open Inference Protocol names it.
        row: its shape without the first dimension, items or 1: () of a tensor [n].
    """

    name: str
    datatype: str
    row: tuple[int, ...]
    per: Per = Per.ITEM
    feeds: tuple[Feed, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """With -1 for the items."""
        return (-1 if self.per is Per.ITEM else 1, *self.row)

    @property
    def width(self) -> int:
        """Numbers of one row."""
        return math.prod(self.row)

    @property
    def dtype(self) -> np.dtype[Any]:
        return DATATYPES[self.datatype]


@dataclass(frozen=True, slots=True)
class Signature:
    """The tensors of a model as clients know it. Each output's are some columns of the scores, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything that a model reads, and how many scores it returns per item.

    Attributes:
        given: the tensors of clients, where they are not the inputs and `scores` [n, outputs].
    """

    tables: tuple[Table, ...]
    inputs: tuple[Input, ...]
    outputs: int = 1
    given: Signature | None = None

    def __post_init__(self) -> None:
        tables = {t.name for t in self.tables}
        names = [i.name for i in self.inputs]
        if len(tables) != len(self.tables) or len(set(names)) != len(names):
            raise ValueError("schema: two tables or two inputs share a name")
        for i in self.sparse:
            if i.table not in tables:
                raise ValueError(f"schema: input {i.name!r} names the unknown table {i.table!r}")
            if max((first + count for first, count in i.fields), default=0) > self.table(i.table).rows:
                raise ValueError(f"schema: input {i.name!r} has a field beyond its table {i.table!r}")
        _count("schema outputs", self.outputs)
        for each in self.inputs:
            _count(f"input {each.name!r}: numbers of one row", math.prod(self.row_shape(each)))
        if self.given:
            self._check_signature(self.given)

    def _check_signature(self, signature: Signature) -> None:
        feeds = [(t, feed) for t in signature.inputs for feed in t.feeds]
        if [feed.input for _, feed in feeds] != [i.name for i in self.inputs]:
            raise ValueError("schema: the signature's tensors do not feed each input once, in order")
        for i, (t, feed) in zip(self.inputs, feeds, strict=True):
            width = len(feed.columns) or t.width
            if (width, t.per) != (i.width, i.per) or max(feed.columns, default=0) >= t.width:
                raise ValueError(f"schema: tensor {t.name!r} does not fit the inputs that it feeds")
        if len({t.name for t in signature.inputs}) < len(signature.inputs):
            raise ValueError("schema: two tensors of the signature share a name")
        names = ", ".join(repr(t.name) for t in signature.outputs)
        if len({t.name for t in signature.outputs}) < len(signature.outputs):
            raise ValueError(f"schema: two outputs of the signature share a name: {names}")
        if sum(t.width for t in signature.outputs) != self.outputs:
            raise ValueError(f"schema: {names} do not have {self.outputs} scores per item")

    @property
    def signature(self) -> Signature:
        """What clients send and get."""
        if self.given:
            return self.given
        inputs = (TensorSpec(i.name, i.datatype, (i.width,), i.per, (Feed(i.name),)) for i in self.inputs)
        return Signature(tuple(inputs), (TensorSpec(SCORES, DenseInput.datatype, (self.outputs,)),))

    def source(self, name: str) -> tuple[TensorSpec, Feed]:
        """The tensor that an input is filled from, and how."""
        return next((t, feed) for t in self.signature.inputs for feed in t.feeds if feed.input == name)

    @property
    def dense(self) -> tuple[DenseInput, ...]:
        return tuple(i for i in self.inputs if isinstance(i, DenseInput))

    @property
    def sparse(self) -> tuple[SparseInput, ...]:
        return tuple(i for i in self.inputs if isinstance(i, SparseInput))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The inputs of fixed length in their order, runs of those that are alike together."""
        runs = groupby(self.inputs, lambda i: (is_jagged(i), isinstance(i, DenseInput), i.width, i.per))
        return tuple(Block(tuple(i.name for i in run), *alike) for (apart, *alike), run in runs if not apart)

    @property
    def jagged(self) -> tuple[SparseInput, ...]:
        """The inputs whose rows have different numbers of ids."""
        return tuple(i for i in self.sparse if i.jagged)

    @property
    def item_lookups(self) -> float:
        """Ids that an item has in the jagged inputs, on average."""
        return sum(i.mean_lookups for i in self.jagged if i.per is Per.ITEM)

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
        """Bytes of embedding rows that one item (or one query) gathers, on average."""
        rows = (i.mean_lookups * self.table(i.table).dim * FLOAT_BYTES for i in self.sparse if i.per is per)
        return round(sum(rows))
