"""New rows of tables as a request has them: tensors `TABLE.ids` and `TABLE.values`, in JSON or binary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.serve.protocol.errors import RequestError, shown
from deeprecsys.serve.protocol.inputs import IDS, REALS
from deeprecsys.serve.protocol.request import Tensor, check_binary, parse_head, verb_parameters

KINDS = {**IDS, **REALS}
FILE = "file"
"""The parameter that names a file of rows instead."""


def rows_of(body: bytes, head_length: int | None) -> tuple[dict[str, NDArray[Any]], str]:
    """Arrays by their tensors' names, or none and the file that has them.

    Args:
        head_length: bytes of the JSON part; None where it is all.

    Raises:
        RequestError: neither.
    """
    head = body if head_length is None else body[:head_length]
    if head_length is not None and head_length > len(body):
        raise RequestError(
            f"Inference-Header-Content-Length: expected at most {len(body)} bytes, got {head_length}"
        )
    if b'"inputs"' not in head:
        path = verb_parameters(head).get(FILE)
        if type(path) is not str or not path:
            raise RequestError(f"rows: expected inputs, or the parameter {FILE}, a path, got {shown(path)}")
        return {}, path
    request = parse_head(head)
    check_binary(request, len(body) - len(head))
    found: dict[str, NDArray[Any]] = {}
    for tensor in request.inputs:
        if tensor.name in found:
            raise RequestError(f"input {shown(tensor.name)}: expected once, got it twice")
        found[tensor.name] = _array(tensor, memoryview(body)[len(head) :])
    if not found:
        raise RequestError("inputs: expected TABLE.ids and TABLE.values, got none")
    return found, ""


def _array(tensor: Tensor, data: memoryview) -> NDArray[Any]:
    name, kind = shown(tensor.name), KINDS.get(tensor.datatype)
    if kind is None:
        raise RequestError(f"input {name}: expected one of {', '.join(KINDS)}, got {shown(tensor.datatype)}")
    count = int(np.prod(tensor.shape, dtype=object)) if tensor.shape else 1
    if tensor.size is not None:
        if tensor.size != count * kind.itemsize:
            raise RequestError(
                f"input {name}: expected {count * kind.itemsize} bytes, of shape {list(tensor.shape)}, "
                f"got {tensor.size}"
            )
        return np.frombuffer(data, kind, count, tensor.offset).reshape(tensor.shape)
    try:
        if tensor.datatype in IDS and not all(type(v) is int for v in tensor.data):
            raise ValueError
        with np.errstate(over="ignore"):  # what becomes infinite is refused later
            found = np.array(tensor.data, kind)
        if found.size != count:
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise RequestError(
            f"input {name}: expected {count} numbers, {tensor.datatype}, got {shown(tensor.data)}"
        ) from None
    return found.reshape(tensor.shape)
