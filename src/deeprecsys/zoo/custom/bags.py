"""Writes nn.EmbeddingBag as a look-up and a reduction, whatever loop an exporter made of it.

ONNX has no such operator, and exporters write loops that differ from version to version. So a loop is known
by what it reads, one table and one input of ids, and by what it gives: it is tried whether that is the sum,
the mean or the maximum of the rows, with or without an id that is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from deeprecsys.zoo.custom.columns import IDS
from deeprecsys.zoo.custom.normal import values_of
from deeprecsys.zoo.custom.outputs import append, as_bytes, constant
from deeprecsys.zoo.onnx_session import session

_ITEMS = (3, 6)
_OPERATORS = ("ReduceSum", "ReduceMean", "ReduceMax")
_LEAST_OPSET, _AXES_OPSET = 13, 18
"""From which axes are inputs: of sums, and of other reductions."""


@dataclass(frozen=True)
class _Bag:
    """A value [n, dim] that depends on one table and one input [n, look-ups] alone."""

    value: ir.Value
    table: ir.Value
    ids: ir.Value


def write_bags(model: ir.Model) -> None:
    """Replace every loop over bags of ids by operators in which tables are found."""
    if model.graph.opset_imports.get("", 0) < _LEAST_OPSET:
        return
    loops = [n for n in model.graph if n.op_type == "Loop"]
    for node in loops:
        for value in _ends(node):
            bag = _bag(value)
            if bag and (found := _kind(model, bag)):
                value.replace_all_uses_with(_written(model.graph, bag, *found), replace_graph_outputs=True)
                break
    RemoveUnusedNodesPass()(model)
    for node in loops:
        if node.graph is None:
            _forget(node)
    RemoveUnusedNodesPass()(model)
    model.graph.sort()


def _forget(node: ir.Node) -> None:
    """Let the body of a node that was removed read nothing; what it read may have no other reader."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.value:
                _forget(inner)
                for k in range(len(inner.inputs)):
                    inner.replace_input_with(k, None)


def _ends(loop: ir.Node) -> Iterator[ir.Value]:
    """The loop's results, and what only joins or casts them, last first."""
    found = [v for v in loop.outputs if v.uses()]
    for value in found:
        for node, _ in value.uses():
            if node.op_type in ("ConcatFromSequence", "Cast", "Concat"):
                found += node.outputs
    return reversed(found)


def _bag(value: ir.Value) -> _Bag | None:
    seen, tables, ids, stack = {value}, set(), set(), [value]
    while stack:
        node = stack.pop().producer()
        if node is None:
            continue
        inner = (
            v for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH for v in _outer(a.value)
        )
        for v in (*node.inputs, *inner):
            if v is None or v in seen:
                continue
            seen.add(v)
            stack.append(v)
            if v.is_graph_input():
                ids.add(v)
            elif v.is_initializer() and v.dtype is ir.DataType.FLOAT and len(v.shape or ()) == 2:
                tables.add(v)
    if len(tables) != 1 or len(ids) != 1:
        return None
    (table,), (given,) = tables, ids
    row = list(given.shape or ())[1:]
    return (
        _Bag(value, table, given)
        if given.dtype in IDS and len(row) == 1 and isinstance(row[0], int)
        else None
    )


def _outer(graph: ir.Graph) -> Iterator[ir.Value]:
    """The values that a loop's body reads from outside."""
    own = set(values_of(graph))
    for g in (graph, *graph.subgraphs()):
        for node in g:
            yield from (v for v in node.inputs if v is not None and v not in own)


def _kind(model: ir.Model, bag: _Bag) -> tuple[str, int | None] | None:
    """What a bag gives: the reduction, and the id that is left out or None; None if it is none."""
    sizes = [*(bag.table.shape or ()), *(bag.ids.shape or ())]
    rows, dim, lookups = (sizes[k] if isinstance(sizes[k], int) else 0 for k in (0, 1, 3))
    rng = np.random.default_rng(0)
    table = rng.standard_normal((rows, dim), dtype=np.float32)
    padding = sorted({n % rows for n in _whole_constants(model.graph) if -rows <= n < rows})
    name, given = (str(v.name) for v in (bag.table, bag.ids))
    kind = np.int64 if bag.ids.dtype is ir.DataType.INT64 else np.int32
    tries = []
    try:
        part = ir.convenience.extract(model.graph, [bag.table, bag.ids], [bag.value])
        part.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        run = session(as_bytes(ir.Model(part, ir_version=model.ir_version)))
        for items in _ITEMS:
            ids = rng.integers(0, rows, (items, lookups)).astype(kind)
            some = np.array([padding[k % len(padding)] for k in range(items)] if padding else ids[:, 0])
            ids[:, 0] = some  # each id that may be left out, beside others
            ids[-1] = some[-1]  # and alone
            tries.append((ids, run.run(None, {name: table, given: ids})[0]))
    except Exception:  # ONNX Runtime's own, or a part that reads more than these two
        return None
    for op in _OPERATORS:
        for left_out in (None, *padding):
            gone = -1 if left_out is None else left_out
            if all(_same(_reduced(table[ids], np.equal(ids, gone), op), got) for ids, got in tries):
                return op, left_out
    return None


def _whole_constants(graph: ir.Graph) -> set[int]:
    """Whole numbers that single constants of a graph have."""
    known = (v.const_value for v in values_of(graph) if v.const_value is not None and v.dtype in IDS)
    return {int(t.numpy().reshape(-1)[0]) for t in known if t.size == 1}


def _same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-5, atol=1e-5))


def _reduced(rows: NDArray[np.float32], left_out: NDArray[np.bool_], op: str) -> NDArray[np.float32]:
    """The reduction over look-ups of [n, look-ups, dim], without those left out; 0 where none is left."""
    gone = left_out[:, :, None]
    if op == "ReduceMax":
        found = np.where(gone.all(1), 0, np.where(gone, -np.inf, rows).max(1))
    else:
        count = np.maximum(1, (~left_out).sum(1))[:, None]
        found = np.where(gone, 0, rows).sum(1) / (count if op == "ReduceMean" else 1)
    return np.asarray(found, np.float32)


def _written(graph: ir.Graph, bag: _Bag, op: str, left_out: int | None) -> ir.Value:
    """The same by plain operators."""
    axis = constant(graph, [1], "deeprecsys_bag")

    def reduce(op: str, value: ir.Value) -> ir.Value:
        if op == "ReduceSum" or graph.opset_imports[""] >= _AXES_OPSET:
            return append(graph, op, [value, axis], keepdims=0)
        node = ir.Node("", op, [value], [ir.AttrInt64s("axes", [1]), ir.AttrInt64("keepdims", 0)])
        graph.append(node)
        return node.outputs[0]

    rows = append(graph, "Gather", [bag.table, bag.ids], axis=0)
    if left_out is None:
        return reduce(op, rows)
    number = constant(graph, left_out, "deeprecsys_bag")
    if bag.ids.dtype is not ir.DataType.INT64:
        number = append(graph, "Cast", [number], to=int(bag.ids.dtype or 0))
    out = append(graph, "Equal", [bag.ids, number])
    kept = append(graph, "Cast", [append(graph, "Not", [out])], to=int(ir.DataType.FLOAT))
    count = reduce("ReduceSum", append(graph, "Unsqueeze", [kept, constant(graph, [2], "deeprecsys_bag")]))
    if op == "ReduceMax":
        deep = append(graph, "Unsqueeze", [out, constant(graph, [2], "deeprecsys_bag")])
        least = reduce("ReduceMax", append(graph, "Where", [deep, _float(graph, -np.inf), rows]))
        none = append(graph, "Equal", [count, _float(graph, 0.0)])
        return append(graph, "Where", [none, _float(graph, 0.0), least])
    wide = append(graph, "Unsqueeze", [kept, constant(graph, [2], "deeprecsys_bag")])
    total = reduce("ReduceSum", append(graph, "Mul", [rows, wide]))
    if op == "ReduceSum":
        return total
    return append(graph, "Div", [total, append(graph, "Max", [count, _float(graph, 1.0)])])


def _float(graph: ir.Graph, number: float) -> ir.Value:
    name = f"deeprecsys_bag_{number}"
    if name not in graph.initializers:
        graph.register_initializer(ir.Value(name=name, const_value=ir.tensor(np.float32(number), name=name)))
    return graph.initializers[name]
