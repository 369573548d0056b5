"""A request held against a model's schema, but for its values.

An input is one tensor `[items, width]`, `[1, width]` where the schema says per query. A sparse input may
also come jagged, as two tensors: `NAME.values` [all ids] and `NAME.lengths` [items]; the schemas of today
are of fixed length, so each of the lengths must be the schema's number of look-ups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.serve.protocol.errors import RequestError, shown
from deeprecsys.serve.protocol.request import Request, Tensor
from deeprecsys.zoo.schema import Block, DenseInput, Per, Schema

IDS: Mapping[str, np.dtype[Any]] = {"INT32": np.dtype("<i4"), "INT64": np.dtype("<i8")}
REALS: Mapping[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "FP16": np.dtype("<f2"),
}
Binary = bytes | bytearray | memoryview
VALUES, LENGTHS = ".values", ".lengths"
_JSON_NUMBER_BYTES = 32  # the longest double is 24 characters; the rest is room for spaces
_HEAD_BYTES = 1 << 16
_INPUT_HEAD_BYTES = 512  # what one tensor needs in the JSON part, generously


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model, ready to be checked against.

    Attributes:
        width: of a row: numbers of a dense input, look-ups of a sparse one.
        datatypes: accepted, and how each lies in memory; stored: the one that needs no conversion.
    """

    name: str
    width: int
    per_query: bool
    dense: bool
    datatypes: Mapping[str, np.dtype[Any]]
    stored: str


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A tensor that fits a slot: its data go into `rows` rows of it; `lengths` where it came jagged."""

    slot: InputSpec
    tensor: Tensor
    rows: int
    lengths: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether its data are bytes of the body that need no conversion."""
        t = self.tensor
        return (
            self.lengths is None and t.size is not None and t.data is None and t.datatype == self.slot.stored
        )


@dataclass(frozen=True, slots=True)
class InputBlock:
    """The tensors of a block, one after the other in a body as in the schema, nothing to convert.

    Attributes:
        block: which of `Inputs.blocks`; offset, size: in bytes, from the end of the JSON part.
        dtype: of the values; tensor_bytes: of each tensor.
    """

    block: int
    offset: int
    size: int
    dtype: np.dtype[Any]
    tensor_bytes: int

    def put(self, source: Binary, offset: int, into: NDArray[Any]) -> None:
        """Write its values, from so far within some bytes on, into its block of a place."""
        into[...] = np.frombuffer(source, self.dtype, into.size, offset).reshape(into.shape)


@dataclass(frozen=True, slots=True)
class ValidatedRequest:
    """A request that fits its model, but for its values.

    Attributes:
        blocks: of the model.
        packed: the tensors by them, in the order of the body, where all of them are so; else None.
    """

    items: int
    placed: Sequence[InputTensor]
    blocks: Sequence[Block]
    packed: Sequence[InputBlock] | None


class Inputs:
    """The inputs of one model, as the network face checks them.

    Attributes:
        body_limit: bytes of the largest body that a query of `max_items` items can need.
        item_bytes: the most binary bytes that an item takes; query_bytes: that come on top.
    """

    def __init__(self, schema: Schema, max_items: int) -> None:
        self.schema, self.max_items = schema, max_items
        self.slots = {i.name: _slot(i) for i in schema.inputs}
        self.blocks = schema.blocks
        per_item = sum(s.width for s in self.slots.values() if not s.per_query)
        per_query = sum(s.width for s in self.slots.values() if s.per_query)
        self.item_bytes, self.query_bytes = 8 * per_item, 8 * per_query + _HEAD_BYTES
        numbers = max_items * (per_item + len(self.slots)) + per_query
        self.body_limit = _HEAD_BYTES + 2 * _INPUT_HEAD_BYTES * len(self.slots) + _JSON_NUMBER_BYTES * numbers

    def least_items(self, body_bytes: int) -> int:
        """The least number of items that a body with that many bytes of binary data can hold."""
        return max(1, (body_bytes - self.query_bytes) // max(1, self.item_bytes))

    def fit(self, request: Request) -> ValidatedRequest:
        """The request's tensors, each with its place, and the number of items.

        Raises:
            RequestError: a tensor is missing, extra, there twice, or of a wrong type, shape or size; or
                there are no items, or too many.
        """
        given: dict[str, Tensor] = {}
        for tensor in request.inputs:
            if tensor.name in given:
                raise RequestError(f"input {shown(tensor.name)}: expected once, got it twice")
            given[tensor.name] = tensor
        placed = [self._place(slot, given) for slot in self.slots.values()]
        if given:
            raise RequestError(
                f"input {shown(next(iter(given)))}: expected only {', '.join(self.slots)[:400]}"
            )
        return ValidatedRequest(self._items(placed), placed, self.blocks, self._pack(placed))

    def _pack(self, placed: Sequence[InputTensor]) -> Sequence[InputBlock] | None:
        """The tensors by blocks, if those of each lie together and all are stored as they come."""
        if not all(p.plain for p in placed):
            return None
        found, rest = [], iter(placed)
        for number, block in enumerate(self.blocks):
            tensors = [p.tensor for p in islice(rest, len(block.names))]
            offset, each = tensors[0].offset, tensors[0].size or 0
            if any(t.offset != offset + k * each for k, t in enumerate(tensors)):
                return None
            found.append(InputBlock(number, offset, each * len(tensors), block.dtype, each))
        return sorted(found, key=lambda p: p.offset)

    def _place(self, slot: InputSpec, given: dict[str, Tensor]) -> InputTensor:
        """Take a slot's tensor from those given."""
        tensor = given.pop(slot.name, None)
        if tensor is None:
            return self._jagged(slot, given)
        width = slot.width
        if len(tensor.shape) != 2 or tensor.shape[1] != width:
            first = "1" if slot.per_query else "items"
            raise RequestError(
                f"input {slot.name!r}: expected shape [{first}, {width}], got {shown(list(tensor.shape))}"
            )
        _check_type(slot.datatypes, tensor, width * tensor.shape[0])
        return InputTensor(slot, tensor, tensor.shape[0])

    def _jagged(self, slot: InputSpec, given: dict[str, Tensor]) -> InputTensor:
        values, lengths = given.pop(slot.name + VALUES, None), given.pop(slot.name + LENGTHS, None)
        if slot.dense or (values is None and lengths is None):
            raise RequestError(f"input {slot.name!r}: expected a tensor of that name, got none")
        if values is None or lengths is None:
            missing = slot.name + (VALUES if values is None else LENGTHS)
            raise RequestError(f"input {missing!r}: expected it beside the other of the two, got none")
        for tensor in (values, lengths):
            if len(tensor.shape) != 1:
                raise RequestError(
                    f"input {tensor.name!r}: expected one dimension, got shape {shown(list(tensor.shape))}"
                )
            _check_type(IDS, tensor, tensor.shape[0])
        rows = lengths.shape[0]
        if values.shape[0] != rows * slot.width:
            raise RequestError(
                f"input {values.name!r}: expected {rows} × {slot.width} ids ({slot.width} per row, "
                f"for the model takes no other length), got {values.shape[0]}"
            )
        return InputTensor(slot, values, rows, lengths)

    def _items(self, placed: Sequence[InputTensor]) -> int:
        """How many items all inputs agree on."""
        items: int | None = None
        by = ""
        for p in placed:
            if p.slot.per_query:
                if p.rows != 1:
                    raise RequestError(
                        f"input {p.slot.name!r}: expected first dimension 1, for it belongs to the query and "
                        f"is sent once, got {p.rows}"
                    )
            elif items is None:
                items, by = p.rows, p.slot.name
            elif p.rows != items:
                raise RequestError(
                    f"input {p.slot.name!r}: expected {items} items, as in {by!r}, got {p.rows}"
                )
        items = 1 if items is None else items
        if not 1 <= items <= self.max_items:
            raise RequestError(f"input {by!r}: expected 1 to {self.max_items} items, got {items}")
        return items


def _slot(i: Any) -> InputSpec:
    dense = isinstance(i, DenseInput)
    return InputSpec(i.name, i.width, i.per is Per.QUERY, dense, REALS if dense else IDS, i.datatype)


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
