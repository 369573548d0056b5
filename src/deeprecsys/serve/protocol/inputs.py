"""A request checked against a model's schema, except for its values.

Tensors are those of the model's signature. For a model of the zoo these are its inputs, `[items, width]`, or
`[1, width]` where they are per query. A tensor `[items]` may come as `[items, 1]`, as Triton reads such a
model. A jagged input comes as `NAME.values` [all ids] and `NAME.lengths` [items], with `NAME.weights` [all
ids] where ids have weights; or padded, as `NAME` [items, most ids], with -1 where there is no id. A sparse
input of fixed length may come as values and lengths too: each length is the schema's number of look-ups then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.serve.protocol.errors import RequestError, shown
from deeprecsys.serve.protocol.request import Request, Tensor, parse_head
from deeprecsys.zoo.jagged import LENGTHS, PAD, VALUES, WEIGHTS
from deeprecsys.zoo.schema import Block, Input, Per, Schema, SparseInput, TensorSpec

IDS: Mapping[str, np.dtype[Any]] = {"INT32": np.dtype("<i4"), "INT64": np.dtype("<i8")}
REALS: Mapping[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "FP16": np.dtype("<f2"),
}
FLAGS: Mapping[str, np.dtype[Any]] = {"BOOL": np.dtype("?")}
Binary = bytes | bytearray | memoryview
HEADS_KEPT, LONGEST_HEAD_BYTES = 1024, 1 << 15
"""How many heads a `HeaderCache` keeps, and of which length at most."""
LARGE_BYTES = 1 << 17
"""A tensor of at least this size is read into its seat by a read of its own; smaller ones together."""
_JSON_NUMBER_BYTES = 32  # the longest double has 24 characters; the rest is room for spaces
_MESSAGE_NUMBER_BYTES = 10  # a negative int64
_HEAD_BYTES = 1 << 16
_INPUT_HEAD_BYTES = 512  # what one tensor needs in the JSON part, generously
_ID = b'{"id":"'  # how heads begin of clients that give each request an id of its own


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One tensor of a model's signature, as requests are checked against it.

    Attributes:
        row: its shape without the first dimension; width: numbers of a row.
        columns: the second of two dimensions; -1 where there are more.
        feeds: the schema's inputs that are filled from it, each with its columns.
        fields: of those whose ids count from within a table: first rows and rows by column
            (`SparseInput.fields`).
        whole: whether each takes all columns. dense: floating-point numbers.
        datatypes: accepted, with their layout in memory; stored: the one that can be read as it is.
        jagged: rows have different numbers of ids, `width` at most; weighted: which have weights.
    """

    name: str
    row: tuple[int, ...]
    width: int
    columns: int
    feeds: tuple[tuple[str, slice | list[int]], ...]
    fields: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
    whole: bool
    per_query: bool
    dense: bool
    datatypes: Mapping[str, np.dtype[Any]]
    stored: str
    jagged: bool = False
    weighted: bool = False

    @property
    def numbers(self) -> int:
        """The most numbers of a row, lengths and weights included."""
        return self.width * (1 + self.weighted) + self.jagged


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A tensor that fits an input: `rows` rows of it; `lengths` where it came jagged, `weights` if any."""

    spec: InputSpec
    tensor: Tensor
    rows: int
    lengths: Tensor | None = None
    weights: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether its data are bytes of the body that need no conversion."""
        t = self.tensor
        return (
            not self.spec.jagged
            and self.lengths is None
            and t.size is not None
            and t.data is None
            and t.datatype == self.spec.stored
        )


@dataclass(frozen=True, slots=True)
class InputBlock:
    """The tensors of a block, one after the other in a body as in the schema, nothing to convert.

    Attributes:
        block: index in `Inputs.blocks`; offset, size: in bytes, from the end of the JSON part.
        dtype: of the values; tensor_bytes: of each tensor.
    """

    block: int
    offset: int
    size: int
    dtype: np.dtype[Any]
    tensor_bytes: int

    @property
    def large(self) -> bool:
        return self.tensor_bytes >= LARGE_BYTES

    def copy(self, source: Binary, offset: int, into: NDArray[Any]) -> None:
        """Copy its values, which begin at `offset` of some bytes, into its block of a seat."""
        into[...] = np.frombuffer(source, self.dtype, into.size, offset).reshape(into.shape)


@dataclass(frozen=True, slots=True)
class ValidatedRequest:
    """A request that fits its model, except for its values, which are not checked yet.

    Attributes:
        blocks: of the model.
        ids: how many it has at most in each jagged per-item input, by name.
        packed: the tensors by blocks, in the order of the body, where all of them are plain; else None.
        in_body_order: whether it pays to read the body straight into a seat: a tensor is large, and the
            blocks of the seat hold the body's data one after the other.
    """

    items: int
    tensors: Sequence[InputTensor]
    blocks: Sequence[Block]
    ids: Mapping[str, int]
    packed: Sequence[InputBlock] | None
    in_body_order: bool


class Inputs:
    """The inputs of one model, as the network face checks them.

    Attributes:
        body_limit: bytes of the largest body, one of text, that a query of `max_items` items can need;
        message_limit: of the largest gRPC message.
        outputs: the tensors of scores.
        item_bytes: the most binary bytes that an item takes; query_bytes: that come on top.
    """

    def __init__(self, schema: Schema, max_items: int) -> None:
        self.schema, self.max_items = schema, max_items
        inputs, signature = {i.name: i for i in schema.inputs}, schema.signature
        self.specs = {t.name: _spec(t, [inputs[f.input] for f in t.feeds]) for t in signature.inputs}
        self.outputs = signature.outputs
        self.blocks = schema.blocks
        per_item = sum(s.numbers for s in self.specs.values() if not s.per_query)
        per_query = sum(s.numbers for s in self.specs.values() if s.per_query)
        self.item_bytes, self.query_bytes = 8 * per_item, 8 * per_query + _HEAD_BYTES
        numbers = max_items * (per_item + len(self.specs)) + per_query
        heads = _HEAD_BYTES + 3 * _INPUT_HEAD_BYTES * len(self.specs)
        self.body_limit = heads + _JSON_NUMBER_BYTES * numbers
        self.message_limit = heads + _MESSAGE_NUMBER_BYTES * numbers

    def least_items(self, body_bytes: int) -> int:
        """The least number of items that a body with that many bytes of binary data can hold."""
        return max(1, (body_bytes - self.query_bytes) // max(1, self.item_bytes))

    def validate(self, request: Request) -> ValidatedRequest:
        """The request's tensors by the inputs of the schema, and the number of items.

        Raises:
            RequestError: an output is unknown; a tensor is missing, unknown, there twice, or of a wrong type,
                shape or size; or there are no items, or too many.
        """
        for name in request.outputs:
            if all(name != t.name for t in self.outputs):
                names = ", ".join(repr(t.name) for t in self.outputs)[:400]
                raise RequestError(f"output {shown(name)}: expected one of {names}")
        given: dict[str, Tensor] = {}
        for tensor in request.inputs:
            if tensor.name in given:
                raise RequestError(f"input {shown(tensor.name)}: expected once, got it twice")
            given[tensor.name] = tensor
        tensors = [self._take(spec, given) for spec in self.specs.values()]
        if given:
            raise RequestError(
                f"input {shown(next(iter(given)))}: expected only {', '.join(self.specs)[:400]}"
            )
        packed = self._pack(tensors)
        in_order = packed is not None and any(b.large for b in packed) and _contiguous(packed)
        ids = {
            p.spec.feeds[0][0]: p.tensor.shape[0] if p.lengths else prod(p.tensor.shape)
            for p in tensors
            if p.spec.jagged and not p.spec.per_query
        }
        return ValidatedRequest(self._items(tensors), tensors, self.blocks, ids, packed, in_order)

    def _pack(self, given: Sequence[InputTensor]) -> Sequence[InputBlock] | None:
        """The tensors by blocks, if those of each lie together and all are stored as they come."""
        if not all(t.plain for t in given):
            return None
        found, rest = [], iter(given)
        for number, block in enumerate(self.blocks):
            tensors = [t.tensor for t in islice(rest, len(block.names))]
            offset, each = tensors[0].offset, tensors[0].size or 0
            if any(t.offset != offset + k * each for k, t in enumerate(tensors)):
                return None
            found.append(InputBlock(number, offset, each * len(tensors), block.dtype, each))
        return sorted(found, key=lambda b: b.offset)

    def _take(self, spec: InputSpec, given: dict[str, Tensor]) -> InputTensor:
        """Take an input's tensor from those given."""
        tensor = given.pop(spec.name, None)
        if tensor is None:
            return self._jagged(spec, given)
        shape = tensor.shape
        if spec.jagged:
            return self._padded(spec, tensor, given.pop(spec.name + WEIGHTS, None))
        if (len(shape) != 2 or shape[1] != spec.columns) and (not shape or shape[1:] != spec.row):
            row = ", ".join(map(str, ("1" if spec.per_query else "items", *spec.row)))
            raise RequestError(f"input {spec.name!r}: expected shape [{row}], got {shown(list(shape))}")
        _check_type(spec.datatypes, tensor, spec.width * shape[0])
        return InputTensor(spec, tensor, shape[0])

    def _padded(self, spec: InputSpec, tensor: Tensor, weights: Tensor | None) -> InputTensor:
        shape = tensor.shape
        if len(shape) != 2 or shape[1] > spec.width:
            rows = "1" if spec.per_query else "items"
            raise RequestError(
                f"input {spec.name!r}: expected shape [{rows}, at most {spec.width}], padded with {PAD}, or "
                f"{spec.name + VALUES!r} and {spec.name + LENGTHS!r}, got shape {shown(list(shape))}"
            )
        _check_type(IDS, tensor, prod(shape))
        return InputTensor(spec, tensor, shape[0], None, self._weights(spec, weights, tensor))

    def _weights(self, spec: InputSpec, weights: Tensor | None, ids: Tensor) -> Tensor | None:
        """The weights of an input's ids, of the ids' shape."""
        if weights is None:
            return None
        if not spec.weighted:
            raise RequestError(
                f"input {weights.name!r}: expected none, for the model weighs no ids, got some"
            )
        if weights.shape != ids.shape:
            raise RequestError(
                f"input {weights.name!r}: expected shape {list(ids.shape)}, that of {ids.name!r}, "
                f"got {shown(list(weights.shape))}"
            )
        _check_type(REALS, weights, prod(weights.shape))
        return weights

    def _jagged(self, spec: InputSpec, given: dict[str, Tensor]) -> InputTensor:
        values, lengths = given.pop(spec.name + VALUES, None), given.pop(spec.name + LENGTHS, None)
        if spec.jagged and values is None and lengths is None:
            raise RequestError(
                f"input {spec.name!r}: expected {spec.name + VALUES!r} and {spec.name + LENGTHS!r}, or a "
                f"tensor of that name, padded with {PAD}, got none"
            )
        if spec.dense or not spec.whole or (values is None and lengths is None):
            raise RequestError(f"input {spec.name!r}: expected a tensor of that name, got none")
        if values is None or lengths is None:
            missing = spec.name + (VALUES if values is None else LENGTHS)
            raise RequestError(f"input {missing!r}: expected it beside the other of the two, got none")
        for tensor in (values, lengths):
            if len(tensor.shape) != 1:
                raise RequestError(
                    f"input {tensor.name!r}: expected one dimension, got shape {shown(list(tensor.shape))}"
                )
            _check_type(IDS, tensor, tensor.shape[0])
        rows, most = lengths.shape[0], lengths.shape[0] * spec.width
        if spec.jagged:
            if (count := values.shape[0]) > most:
                raise RequestError(
                    f"input {values.name!r}: expected at most {rows} × {spec.width} ids, got {count}"
                )
            weights = self._weights(spec, given.pop(spec.name + WEIGHTS, None), values)
            return InputTensor(spec, values, rows, lengths, weights)
        if values.shape[0] != rows * spec.width:
            raise RequestError(
                f"input {values.name!r}: expected {rows} × {spec.width} ids ({spec.width} per row, "
                f"for the model takes no other length), got {values.shape[0]}"
            )
        return InputTensor(spec, values, rows, lengths)

    def _items(self, given: Sequence[InputTensor]) -> int:
        """How many items all inputs agree on."""
        items: int | None = None
        by = ""
        for p in given:
            if p.spec.per_query:
                if p.rows != 1:
                    raise RequestError(
                        f"input {p.spec.name!r}: expected first dimension 1, for it belongs to the query and "
                        f"is sent once, got {p.rows}"
                    )
            elif items is None:
                items, by = p.rows, p.spec.name
            elif p.rows != items:
                raise RequestError(
                    f"input {p.spec.name!r}: expected {items} items, as in {by!r}, got {p.rows}"
                )
        items = 1 if items is None else items
        if not 1 <= items <= self.max_items:
            raise RequestError(f"input {by!r}: expected 1 to {self.max_items} items, got {items}")
        return items


def _spec(t: TensorSpec, fed: Sequence[Input]) -> InputSpec:
    """A tensor, and the inputs that it feeds."""
    whole, dense = not any(feed.columns for feed in t.feeds), t.datatype in REALS
    fields = {
        i.name: (np.array([first for first, _ in i.fields]), np.array([rows for _, rows in i.fields]))
        for i in fed
        if isinstance(i, SparseInput) and i.fields
    }
    sparse = fed[0] if isinstance(fed[0], SparseInput) else None
    return InputSpec(
        t.name,
        t.row,
        t.width,
        t.width if len(t.row) <= 1 else -1,
        tuple((feed.input, _columns(feed.columns)) for feed in t.feeds),
        fields,
        whole,
        t.per is Per.QUERY,
        dense,
        REALS if dense else FLAGS if t.datatype in FLAGS else IDS,
        fed[0].datatype if whole and len(t.feeds) == 1 and not fields else "",
        sparse is not None and sparse.jagged,
        sparse is not None and sparse.weighted,
    )


def _columns(columns: tuple[int, ...]) -> slice | list[int]:
    """Columns as an index, which copies nothing where they follow one another."""
    if not columns:
        return slice(None)
    first, last = columns[0], columns[-1]
    return slice(first, last + 1) if columns == tuple(range(first, last + 1)) else list(columns)


def _contiguous(packed: Sequence[InputBlock]) -> bool:
    """Whether blocks follow one another from the beginning, nothing between them."""
    at = 0
    for block in packed:
        if block.offset != at:
            return False
        at += block.size
    return True


def _check_type(accepted: Mapping[str, np.dtype[Any]], tensor: Tensor, count: int) -> None:
    dtype = accepted.get(tensor.datatype)
    if dtype is None:
        raise RequestError(
            f"input {shown(tensor.name)}: expected datatype {' or '.join(accepted)}, got "
            f"{shown(tensor.datatype)}"
        )
    if tensor.size is not None and tensor.size != count * dtype.itemsize:
        raise RequestError(
            f"input {shown(tensor.name)}: expected {count * dtype.itemsize} bytes of {tensor.datatype} "
            f"for shape {list(tensor.shape)}, got {tensor.size}"
        )


class HeaderCache:
    """The last heads of all-binary requests, checked: those of one client differ in their id at most."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bool, bytes], tuple[Inputs, Request, ValidatedRequest]] = {}

    def read(self, inputs: Inputs, head: bytes) -> tuple[Request, ValidatedRequest]:
        """The JSON part of a body, checked against its model.

        Raises:
            RequestError: it cannot be read, or does not fit.
        """
        id_, rest = _split(head)
        key = id_ is not None, rest
        found = self._kept.get(key)
        if found is not None and found[0] is inputs:
            _, request, validated = found
            return replace(request, id=id_) if id_ else request, validated
        request = parse_head(head)
        validated = inputs.validate(request)
        if len(head) <= LONGEST_HEAD_BYTES and all(t.size is not None for t in request.inputs):
            if len(self._kept) >= HEADS_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = inputs, replace(request, id="") if id_ else request, validated
        return request, validated


def _split(head: bytes) -> tuple[str | None, bytes]:
    """A leading id that needs no unescaping, and the rest."""
    if head.startswith(_ID):
        end = head.find(b'"', len(_ID))
        id_ = head[len(_ID) : end]
        if end > 0 and b"\\" not in id_ and id_.isascii():
            text = id_.decode()
            if text.isprintable():
                return text, head[end:]
    return None, head
