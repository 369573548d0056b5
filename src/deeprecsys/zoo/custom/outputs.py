"""What a graph gives, joined to one tensor of scores [n, outputs]."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.plugins import reason
from deeprecsys.zoo.custom.stage import random_rows
from deeprecsys.zoo.onnx_session import session
from deeprecsys.zoo.schema import SCORES, DenseInput, Schema, TensorSpec

_ITEMS = (3, 4)
"""Numbers of items that show which dimension counts them."""


def join_outputs(model: ir.Model, schema: Schema, names: list[str]) -> tuple[list[TensorSpec], list[str]]:
    """Make all outputs that have a row per item one, `scores` [n, outputs] float32.

    Args:
        names: clients' names of the outputs.

    Returns:
        the outputs that are left, in the order of their columns, and what was left out, in words.

    Raises:
        InputError: the graph does not run, or gives nothing for each item.
    """
    few, more = (run_random(model, schema, items) for items in _ITEMS)
    graph, kept, notes, values = model.graph, [], [], []
    for value, name, a, b in zip(list(graph.outputs), names, few, more, strict=True):
        row = _row(a, b)
        if row is None:
            notes.append(f"output {name!r} is not returned: expected numbers [n, ...], got {_kind(a)}")
            continue
        kept.append(TensorSpec(name, _datatype(a.dtype), row))
        values.append(_flat(graph, value, a))
    if not kept:
        got = ", ".join(_kind(a) for a in few)
        raise InputError(
            f"output: expected float32 scores [n] or [n, outputs], got {got} for {_ITEMS[0]} items"
        )
    scores = values[0] if len(values) == 1 else append(graph, "Concat", values, axis=1)
    if scores.is_graph_input() or scores.name in graph.initializers:
        scores = append(graph, "Identity", [scores])
    graph.outputs[:] = [scores]
    scores.type, scores.name = ir.TensorType(ir.DataType.FLOAT), SCORES
    scores.shape = ir.Shape([None, sum(t.width for t in kept)])
    return kept, notes


def constant(graph: ir.Graph, numbers: list[int] | int, name: str) -> ir.Value:
    """A new initialiser of whole numbers."""
    name = next(n for n in (f"{name}_{k}" for k in range(1 << 30)) if n not in graph.initializers)
    value = ir.Value(name=name, const_value=ir.tensor(np.asarray(numbers, np.int64), name=name))
    graph.register_initializer(value)
    return value


def append(graph: ir.Graph, op: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
    """The output of a new last node."""
    node = ir.Node("", op, inputs, ir.convenience.convert_attributes(attributes))
    graph.append(node)
    return node.outputs[0]


def pad_single(graph: ir.Graph, items: list[ir.Value]) -> None:
    """Score one item as two equal ones, for a graph that fails on one.

    Args:
        items: the inputs that have a row per item.
    """
    first = items[0]
    count = append(graph, "Shape", [first], start=0, end=1)
    one, two, axis = (constant(graph, [k], "deeprecsys_pad") for k in (1, 2, 0))
    zero, step = (constant(graph, k, "deeprecsys_pad") for k in (0, 1))
    longest = append(graph, "Squeeze", [append(graph, "Max", [count, two])])
    rows = append(graph, "Range", [zero, longest, step])
    rows = append(graph, "Min", [rows, append(graph, "Sub", [count, one])])
    reads = {v: list(v.uses()) for v in items}
    padded = {v: append(graph, "Gather", [v, rows], axis=0) for v in items}
    for v, uses in reads.items():
        for node, at in uses:
            if node is not count.producer():
                node.replace_input_with(at, padded[v])
    (scores,) = graph.outputs
    cut = append(graph, "Slice", [scores, axis, count, axis])
    cut.type, cut.shape, scores.name, cut.name = scores.type, scores.shape, None, SCORES
    graph.outputs[:] = [cut]
    graph.sort()


def run_random(model: ir.Model, schema: Schema, items: int) -> list[Any]:
    """A graph's outputs for random rows; InputError, with the reason, if it does not run."""
    try:
        return list(session(as_bytes(model)).run(None, random_rows(schema, items)))
    except InputError:
        raise
    except Exception as e:
        raise InputError(f"expected scores for {items} items, got {reason(e)}") from e


def _row(few: Any, more: Any) -> tuple[int, ...] | None:
    """The shape of an output's row; None if it has none for each item, or no numbers."""
    if not isinstance(few, np.ndarray) or few.dtype.kind not in "fiub" or not few.ndim:
        return None
    if (len(few), len(more)) != _ITEMS or few.shape[1:] != more.shape[1:] or not few.size:
        return None
    return tuple(few.shape[1:])


def _kind(found: Any) -> str:
    return f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__


def _datatype(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "iu":
        return "INT64" if dtype.itemsize == 8 else "INT32"
    return {"b": "BOOL", "f": {8: "FP64"}.get(dtype.itemsize, DenseInput.datatype)}[dtype.kind]


def _flat(graph: ir.Graph, value: ir.Value, found: NDArray[Any]) -> ir.Value:
    """An output as float32 [n, width]."""
    if found.dtype != np.float32:
        value = append(graph, "Cast", [value], to=int(ir.DataType.FLOAT))
    if found.ndim != 2:
        shape = constant(graph, [-1, math.prod(found.shape[1:])], "deeprecsys_shape")
        value = append(graph, "Reshape", [value, shape])
    return value


def as_bytes(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString()
    return data
