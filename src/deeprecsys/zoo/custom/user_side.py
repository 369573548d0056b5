"""What of a user's graph depends on the query alone, and layers over [user, item] columns cut in two.

Such a layer reads the query's values again for every item. Its product with them is the same for all items,
so it is taken out: computed once, and added to the items' own product.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass


class Sides:
    """Which values of a graph depend on inputs that are per query, and on no per-item one.

    Args:
        users: names of the inputs that are per query.
    """

    def __init__(self, graph: ir.Graph, users: set[str]) -> None:
        initialisers = set(graph.initializers)
        self.once = {v for v in graph.inputs if v.name in users}
        self._items = {v for v in graph.inputs if v.name not in users | initialisers}
        for node in graph:
            if node.op_type == "Shape" and _known(node.inputs[0]) and node.inputs[0] in self._items:
                continue  # the sizes of sizes, say: the same whatever the items
            if any(v in self._items for v in node.inputs):
                self._items |= set(node.outputs)
            elif any(v in self.once for v in node.inputs):
                self.once |= set(node.outputs)

    def is_once(self, node: ir.Node) -> bool:
        """Whether an operator depends on no per-item input."""
        return node.outputs[0] not in self._items

    def constant(self, v: ir.Value | None) -> bool:
        """Whether a value depends on no input at all."""
        return v not in self.once and v not in self._items


def _known(value: ir.Value | None) -> bool:
    """Whether a value's shape is one of numbers."""
    return value is not None and value.shape is not None and value.shape.is_static()


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of a constant; None of a value that is none."""
    known = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if known is None else known.numpy()


def split_products(graph_bytes: bytes, users: set[str]) -> bytes:
    """Cut each layer over columns of which some are the query's, repeated for all items.

    W [user, item] + b = W_item item + (W_user user + b): of a concatenation of a repeated value and others,
    multiplied with a constant. Results change by rounding alone.
    """
    model = ShapeInferencePass()(ir.from_proto(onnx.load_from_string(graph_bytes))).model
    graph = model.graph
    sides, names = Sides(graph, users), count()
    for node in list(graph):
        if node.op_type in ("Gemm", "MatMul") and not sides.is_once(node):
            _split(graph, sides, node, names)
    RemoveUnusedNodesPass()(model)
    graph.sort()
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def plain(node: ir.Node) -> bool:
    """Whether a Gemm neither transposes its left matrix nor scales anything."""
    scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    return not scaled and not node.attributes.get_int("transA", 0)


def _split(graph: ir.Graph, sides: Sides, node: ir.Node, names: Iterator[int]) -> None:
    joined, weight = node.inputs[0], constant_of(node.inputs[1])
    concat = joined.producer() if joined is not None else None
    if weight is None or weight.ndim != 2 or concat is None or concat.op_type != "Concat":
        return
    gemm, rank = node.op_type == "Gemm", len(joined.shape or ())  # type: ignore[union-attr]
    if concat.attributes.get_int("axis", 0) not in (-1, rank - 1) or rank < 2:
        return
    if gemm and any(
        node.attributes.get_int("transA", 0) or node.attributes.get_float(k, 1.0) != 1.0
        for k in ("alpha", "beta")
    ):
        return
    matrix = weight.T if node.attributes.get_int("transB", 0) else weight
    mine: list[tuple[ir.Value, NDArray[Any]]] = []
    theirs: list[tuple[ir.Value, NDArray[Any]]] = []
    at = 0
    for part in concat.inputs:
        width = part.shape[-1] if part is not None and part.shape else None
        if part is None or not isinstance(width, int):
            return
        repeated = _repeated(sides, part, rank, width)
        (mine if repeated is None else theirs).append((repeated or part, matrix[at : at + width]))
        at += width
    if not mine or not theirs:
        return

    def constant(values: NDArray[Any]) -> ir.Value:
        name = f"deeprecsys_split_{next(names)}"
        array = ir.tensor(np.ascontiguousarray(values), name=name)
        value = ir.Value(
            name=name, const_value=array, shape=ir.Shape(values.shape), type=ir.TensorType(array.dtype)
        )
        graph.register_initializer(value)
        return value

    def add(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        made = ir.Node("", op, inputs, [ir.AttrInt64(k, a) for k, a in attributes.items()])
        graph.append(made)
        return made.outputs[0]

    def product(parts: list[tuple[ir.Value, NDArray[Any]]], *more: ir.Value) -> ir.Value:
        values = [v for v, _ in parts]
        x = values[0] if len(values) == 1 else add("Concat", *values, axis=rank - 1)
        w = constant(np.concatenate([w for _, w in parts]))
        return add("Gemm", x, w, *more) if gemm else add("MatMul", x, w)

    bias = [v for v in node.inputs[2:] if v is not None]
    theirs_once = product(theirs, *bias)
    result = product(mine, theirs_once) if gemm else add("Add", product(mine), theirs_once)
    node.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)


def _repeated(sides: Sides, part: ir.Value, rank: int, width: int) -> ir.Value | None:
    """The query's value that a part repeats for all items, of the same rank; None if it is none."""
    node = part.producer()
    if node is None or node.op_type not in ("Expand", "Tile") or node.inputs[0] not in sides.once:
        return None
    once = node.inputs[0]
    shape = tuple(once.shape or ()) if once is not None else ()
    return once if len(shape) == rank and shape[0] == 1 and shape[-1] == width else None
