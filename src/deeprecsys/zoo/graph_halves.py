"""A dense stage's graph cut in two: what depends on the query alone, and the rest."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

USER = "user_stage"
"""What the first half gives the second: [1, width] float32."""


class Halves(NamedTuple):
    """A graph in two.

    Attributes:
        user: from per-query inputs to `user_stage`; items: from that and the other inputs to the scores.
        width: columns of `user_stage`.
    """

    user: bytes
    items: bytes
    width: int


def halves(graph: bytes, users: set[str]) -> Halves | None:
    """Cut a graph for one query where everything upstream is per query.

    Args:
        users: names of the inputs that are per query.

    Returns:
        None where nothing is computed of the query alone, or a shape at the cut is not known.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph))
    g = model.graph
    once, items = set(users), {i.name for i in g.input} - users - {w.name for w in g.initializer}
    for node in g.node:
        if items & set(node.input):
            items |= set(node.output)
        elif once & set(node.input):
            once |= set(node.output)
    made = once - users
    read = [name for node in g.node if items & set(node.output) for name in node.input]
    cut = list(dict.fromkeys(name for name in read if name in once))
    if not made & set(cut):
        return None
    shapes = {v.name: _shape(v) for v in (*g.value_info, *g.input)}
    if not all(shapes.get(name) for name in cut):
        return None
    sizes = [prod(shapes[name]) for name in cut]
    number = numpy_helper.from_array
    first = [
        helper.make_node("Reshape", [name, f"{USER}_row"], [f"{USER}_{k}"]) for k, name in enumerate(cut)
    ]
    first.append(helper.make_node("Concat", [n.output[0] for n in first], [USER], axis=1))
    parts = [f"{USER}_{k}" for k in range(len(cut))]
    second = [helper.make_node("Split", [USER, f"{USER}_sizes"], parts, axis=1)]
    second += [
        helper.make_node("Reshape", [part, f"{USER}_shape_{k}"], [name])
        for k, (part, name) in enumerate(zip(parts, cut, strict=True))
    ]
    constants = [number(np.array([1, -1]), f"{USER}_row"), number(np.array(sizes), f"{USER}_sizes")]
    constants += [number(np.array(shapes[name]), f"{USER}_shape_{k}") for k, name in enumerate(cut)]
    width, others = sum(sizes), [i for i in g.input if i.name not in users]
    value = helper.make_tensor_value_info(USER, TensorProto.FLOAT, [1, width])
    rest = [n for n in g.node if not (once & set(n.output))]
    return Halves(
        _part(model, [*g.node, *first], list(g.input), [value], constants),
        _part(model, [*second, *rest], [value, *others], list(g.output), constants),
        width,
    )


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The sizes of a float32 tensor; () where one is not known."""
    kind = value.type.tensor_type
    sizes = [d.dim_value for d in kind.shape.dim]
    return tuple(sizes) if kind.elem_type == TensorProto.FLOAT and all(sizes) else ()


def _part(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[Any],
) -> bytes:
    """The part of a graph that its outputs need."""
    needed, kept = {v.name for v in outputs}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    weights = [w for w in (*model.graph.initializer, *constants) if w.name in needed]
    graph = helper.make_graph(kept[::-1], "half", [i for i in inputs if i.name in needed], outputs, weights)
    made = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
    made.ir_version = model.ir_version
    data: bytes = made.SerializeToString()
    return data
