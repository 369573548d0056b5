"""The values of tensors: a request's checked and written where workers read them, scores into a reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from math import isfinite, prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from deeprecsys.node.service.backend import Seat
from deeprecsys.serve.protocol.errors import RequestError, shown
from deeprecsys.serve.protocol.inputs import (
    FLAGS,
    IDS,
    REALS,
    Binary,
    InputSpec,
    InputTensor,
    ValidatedRequest,
)
from deeprecsys.serve.protocol.request import Request, Tensor
from deeprecsys.zoo.jagged import PAD, Ids, InputRows
from deeprecsys.zoo.schema import MOST_ROW, TensorSpec

_FEW = 4096  # beyond, BLAS may begin threads
_ID_RANGE = np.iinfo(np.int32)


class BodyLayout:
    """Where the data of a body go whose request is `in_body_order`: large tensors into their seat, small ones
    between them into scratch memory.

    Attributes:
        blocks: of the seat.
        memories: of the seat and of the scratch memory, which hold the body one after the other.
    """

    def __init__(self, request: ValidatedRequest, blocks: Sequence[NDArray[Any]]) -> None:
        packed = request.packed or ()
        self.blocks, self._small = blocks, [b for b in packed if not b.large]
        self._scratch = np.empty(sum(b.size for b in self._small), np.uint8).data
        self.memories: list[memoryview] = []
        at = 0
        for large, run in groupby(packed, lambda b: b.large):
            if large:
                self.memories += [memoryview(one).cast("B") for b in run for one in blocks[b.block]]
            else:
                size = sum(b.size for b in run)
                self.memories.append(self._scratch[at : at + size])
                at += size

    def __len__(self) -> int:
        return sum(map(len, self.memories))

    def copy_small(self) -> None:
        """Copy the small tensors into the seat, once all has been read."""
        at = 0
        for b in self._small:
            b.copy(self._scratch, at, self.blocks[b.block])
            at += b.size


def fill(request: ValidatedRequest, data: Binary | BodyLayout, seat: Seat) -> None:
    """Write a request's values into a query's seat, and check them.

    Args:
        data: the body after its JSON part, of the length that its tensors say; or its layout, once read.

    Raises:
        RequestError: a value is not of its type, an id is not within int32, a number is not finite, or a
            jagged input's lengths are not the schema's.
    """
    if isinstance(data, BodyLayout):
        data.copy_small()
        return check_finite(request, data.blocks)
    blocks = seat.blocks
    if request.packed is None:
        inputs = seat.inputs
        for p in request.tensors:
            _fill_inputs(p, data, inputs)
    else:
        for b in request.packed:
            b.copy(data, b.offset, blocks[b.block])
    check_finite(request, blocks)


def _fill_inputs(p: InputTensor, binary: Binary, inputs: Mapping[str, InputRows]) -> None:
    """Write one tensor's values into the inputs that it feeds."""
    spec, tensor = p.spec, p.tensor
    if isinstance(jagged := inputs[spec.feeds[0][0]], Ids):
        return _fill_jagged(p, binary, jagged)
    if p.lengths is not None:
        _check_lengths(p, binary)
    into = jagged
    if tensor.datatype == spec.stored and tensor.size is not None and into.flags.c_contiguous:
        raw = binary[tensor.offset : tensor.offset + tensor.size] if tensor.data is None else tensor.data
        memoryview(into).cast("B")[:] = raw  # type: ignore[arg-type]
        return
    source = _numbers(spec.datatypes, tensor, binary).reshape(p.rows, spec.width)
    for name, columns in spec.feeds:
        whole, part = inputs[name], source[:, columns]
        assert not isinstance(whole, Ids)
        into = whole
        if name in spec.fields:
            first, rows = spec.fields[name]
            wrong = (part < 0) | (part >= rows) | (part != np.floor(part))
            if wrong.any():
                raise RequestError(_out_of_range(spec, tensor, wrong, columns, part, rows))
            part = part + first
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(into, part, casting="unsafe")
        if into.dtype.kind == "i":  # the tables' sizes are checked as rows are gathered
            if (into != part).any():
                raise RequestError(_out_of_range(spec, tensor, into != part, columns, part))
        elif part.dtype.kind == "i" and (np.abs(part) > MOST_ROW).any():
            raise RequestError(
                f"input {shown(tensor.name)}: expected whole numbers within ±{MOST_ROW}, for they index no "
                "table as they come, got a larger one"
            )


def asked_for(
    request: Request, tensors: Sequence[TensorSpec], scores: NDArray[Any]
) -> Iterator[tuple[TensorSpec, NDArray[Any]]]:
    """The outputs that a request names, or all, each with its values: [items * width].

    Args:
        tensors: the model's outputs, each with its columns of the scores.
        scores: float32 [items, outputs].
    """
    at = 0
    for t in tensors:
        values = scores[:, at : (at := at + t.width)]
        if not request.outputs or t.name in request.outputs:
            yield t, values.astype(t.dtype, copy=False).reshape(-1)


def _fill_jagged(p: InputTensor, binary: Binary, into: Ids) -> None:
    """Write the ids of a jagged input, with their lengths and weights."""
    spec, tensor = p.spec, p.tensor
    values = _numbers(IDS, tensor, binary)
    weights = None if p.weights is None else _numbers(REALS, p.weights, binary)
    if p.lengths is None:
        kept = values.reshape(tensor.shape) != PAD
        lengths, values = kept.sum(axis=1), values[kept.reshape(-1)]
        weights = weights if weights is None else weights[kept.reshape(-1)]
    else:
        lengths = _numbers(IDS, p.lengths, binary)
        _check_jagged(p.lengths, lengths, spec.width, len(values))
    if len(values) and not _ID_RANGE.min <= values.min() <= values.max() <= _ID_RANGE.max:
        wrong = (values < _ID_RANGE.min) | (values > _ID_RANGE.max)
        raise RequestError(
            f"input {shown(tensor.name)}: expected {_id_range()}, got {values[wrong.argmax()]}"
        )
    with np.errstate(over="ignore"):
        weights = weights if weights is None else weights.astype(np.float32)
    if p.weights is not None and weights is not None and not all_finite(weights):
        raise RequestError(f"input {not_finite(repr(p.weights.name), weights)}")
    into.put(values, lengths, weights)


def _check_jagged(tensor: Tensor, lengths: NDArray[Any], most: int, count: int) -> None:
    """Raise RequestError unless lengths, of at most `most` each, add up to `count`."""
    name = f"input {shown(tensor.name)}"
    wrong = (lengths < 0) | (lengths > most)
    total = None if wrong.any() else int(lengths.sum(dtype=np.int64))
    if total == count:
        return
    offsets = ""
    if len(lengths) > 1 and lengths[0] == 0 and lengths[-1] <= count and (np.diff(lengths) >= 0).all():
        offsets = "; they look like offsets, lengths are their differences"
    if total is None:
        at = int(wrong.argmax())
        raise RequestError(f"{name}: expected lengths from 0 to {most}, got {lengths[at]} at [{at}]{offsets}")
    raise RequestError(f"{name}: expected lengths that add up to the {count} values, got {total}{offsets}")


def http_reply(
    request: Request, model: str, version: str, tensors: Sequence[TensorSpec], scores: NDArray[Any]
) -> tuple[bytes, int | None]:
    """The body of a reply, and the length of its JSON part where binary data follow.

    Args:
        tensors: the model's outputs.
        scores: float32 [items, outputs]; it is copied. JSON has null for those that are not finite.
    """
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for t, values in asked_for(request, tensors, scores):
        output: dict[str, Any] = {"name": t.name, "datatype": t.datatype, "shape": (len(scores), *t.row)}
        if request.outputs.get(t.name, request.binary_output):
            binary.append(values.tobytes())
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    doc = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id:
        doc["id"] = request.id
    head = orjson.dumps(doc, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((head, *binary)), len(head)) if binary else (head, None)


def check_finite(request: ValidatedRequest, blocks: Sequence[NDArray[Any]]) -> None:
    """Check the numbers in a query's seat.

    Args:
        blocks: `Seat.blocks`.

    Raises:
        RequestError: one of a dense input is infinite or NaN.
    """
    for block, values in zip(request.blocks, blocks, strict=True):
        if block.dense:
            for name, one in zip(block.names, values, strict=True):
                if not all_finite(one):
                    spec = next(t.spec for t in request.tensors if name in dict(t.spec.feeds))
                    shaped = one.reshape(-1, *spec.row)
                    raise RequestError(f"input {not_finite(repr(spec.name), shaped)}")


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no value is infinite or NaN: then neither is their sum, or that of their squares.

    `vdot` costs the least for a few values, `einsum` for many, and both give no warnings.
    """
    total = np.vdot(values, values) if values.size <= _FEW else np.einsum("i->", values.reshape(-1))
    return isfinite(total) or bool(np.isfinite(values).all())


def _numbers(datatypes: Mapping[str, np.dtype[Any]], tensor: Tensor, binary: Binary) -> NDArray[Any]:
    """A tensor's data in one dimension; raw bytes are not copied."""
    if tensor.size is not None:
        dtype = datatypes[tensor.datatype]
        if tensor.data is not None:
            return np.frombuffer(tensor.data, dtype)
        return np.frombuffer(binary, dtype, tensor.size // dtype.itemsize, tensor.offset)
    dense, flags = datatypes is REALS, datatypes is FLAGS
    flat = _flat(tensor)
    expected = int(np.prod(tensor.shape, dtype=np.int64))
    if len(flat) != expected:
        raise RequestError(
            f"input {shown(tensor.name)}: expected {expected} values for shape "
            f"{list(tensor.shape)}, got {len(flat)}"
        )
    allowed, what = (
        ({int, float}, "numbers") if dense else ({bool}, "booleans") if flags else ({int}, "whole numbers")
    )
    if not set(map(type, flat)) <= allowed:
        wrong = next(v for v in flat if type(v) not in allowed)
        raise RequestError(f"input {shown(tensor.name)}: expected {what}, got {shown(wrong)}")
    try:
        return np.array(flat, np.float64 if dense else np.bool_ if flags else np.int64)
    except OverflowError:
        raise RequestError(
            f"input {shown(tensor.name)}: expected {_id_range()}, got a larger number"
        ) from None


def _flat(tensor: Tensor) -> Sequence[Any]:
    """Values in one list: they may come flat, or nested as the shape is."""
    data: Any = tensor.data
    rows, *row = tensor.shape
    for width in row:
        if not len(data) or not isinstance(data[0], list):
            break
        if len(data) != rows or any(type(row) is not list or len(row) != width for row in data):
            raise RequestError(
                f"input {shown(tensor.name)}: expected {rows} lists of {width} values each, or one flat list"
            )
        data, rows = list(chain.from_iterable(data)), rows * width
    return data  # type: ignore[no-any-return]


def _check_lengths(p: InputTensor, binary: Binary) -> None:
    assert p.lengths is not None
    lengths = _numbers(IDS, p.lengths, binary)
    if (lengths != p.spec.width).any():
        at = int(np.flatnonzero(lengths != p.spec.width)[0])
        raise RequestError(
            f"input {p.lengths.name!r}: expected {p.spec.width} in every row (the model takes no other "
            f"length), got {lengths[at]} at [{at}]"
        )


def _id_range() -> str:
    return f"ids from {_ID_RANGE.min} to {_ID_RANGE.max}"


def _out_of_range(
    spec: InputSpec,
    tensor: Tensor,
    wrong: NDArray[Any],
    columns: slice | list[int],
    ids: NDArray[Any],
    rows: NDArray[np.int64] | None = None,
) -> str:
    """What is wrong with ids; `rows` is how many each column's field has, None where int32 is the limit."""
    row, k = np.argwhere(wrong)[0]
    at = np.unravel_index(row * prod(tensor.shape[1:]) + np.arange(spec.width)[columns][k], tensor.shape)
    got = f"{ids[row, k]} at {[int(n) for n in at]}"
    whole = "whole numbers, " if ids.dtype.kind == "f" else ""
    limits = _id_range() if rows is None else f"ids from 0 to {rows[k] - 1}"
    return f"input {shown(tensor.name)}: expected {whole}{limits}, got {got}"


def not_finite(name: str, values: NDArray[Any]) -> str:
    """What is wrong with values that are not all finite."""
    at = np.argwhere(~np.isfinite(values))[0]
    return f"{name}: expected finite numbers, got {values[tuple(at)]} at {at.tolist()}"
