"""Takes a whole model in ONNX apart: embedding tables out of the graph, their rows its inputs.

A table is a float initialiser that a graph input indexes: Gather on axis 0. The Gather is removed, and with
it the sum or mean over the look-ups where one follows; its result becomes an input. What clients send and
get stays as the file has it (`Schema.given`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from deeprecsys.core.errors import InputError
from deeprecsys.plugins import reason
from deeprecsys.zoo.custom.stage import random_rows
from deeprecsys.zoo.custom.weights import check_finite
from deeprecsys.zoo.onnx_session import session
from deeprecsys.zoo.schema import (
    SCORES,
    DenseInput,
    Per,
    Pooling,
    Schema,
    Signature,
    SparseInput,
    Table,
    TensorSpec,
)

_IDS = (ir.DataType.INT64, ir.DataType.INT32)
_DATATYPES = {ir.DataType.INT64: "INT64", ir.DataType.INT32: "INT32", ir.DataType.FLOAT: "FP32"}
_RESERVED = {SCORES, "slice_of_item", "self"}
"""Names that the dense stage's inputs may not have: of its other tensors, and of a module's argument."""
_REDUCTIONS = {"ReduceSum": Pooling.SUM, "ReduceMean": Pooling.MEAN}


@dataclass(frozen=True)
class Lifted:
    """A model in two stages.

    Attributes:
        schema: of the sparse one, and of what goes past it.
        keys: by table name, the initialiser that holds it.
        graph: the dense one: inputs as in the schema, output `scores` [n, outputs].
        parameters: of the dense one; flops: per item, of its products with weights.
    """

    schema: Schema
    keys: dict[str, str]
    graph: bytes
    parameters: int
    flops: int


def lift(model: ir.Model) -> Lifted:
    """Take a model apart; it is changed.

    Raises:
        InputError: an input, output or look-up of another kind than those that can be served.
    """
    if len(model.graph.outputs) != 1:
        names = ", ".join(str(v.name) for v in model.graph.outputs)
        raise InputError(f"outputs: expected one, got {len(model.graph.outputs)}: {names}")
    lifter, output = _Lifter(model), str(model.graph.outputs[0].name)
    inputs = [made for value in lifter.given for made in lifter.input(value)]
    if not any(t.per is Per.ITEM for t in lifter.tensors):
        raise InputError("inputs: expected one whose first dimension is symbolic, the items; got none")
    lifter.finish()
    return _serialised(model, Schema(tuple(lifter.tables.values()), tuple(inputs)), lifter.tensors, output)


class _Lifter:
    """The graph while it is taken apart."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        initialisers = set(self.graph.initializers)
        self.given = [v for v in self.graph.inputs if v.name not in initialisers]
        self.tables: dict[str, Table] = {}
        self.tensors: list[TensorSpec] = []
        self._lifted: list[ir.Value] = []
        self._names = _RESERVED | {str(v.name) for v in _values(self.graph) if v not in self.given}

    def input(self, value: ir.Value) -> list[DenseInput | SparseInput]:
        """What one graph input is to the schema: more than one where it indexes several tables."""
        name = str(value.name)
        sizes = list(value.shape or ())
        if not sizes:
            raise InputError(f"input {name!r}: expected a dimension of items, got a single number")
        per = _per(name, sizes[0])
        if value.dtype not in _DATATYPES:
            raise InputError(f"input {name!r}: expected float32, int64 or int32, got {value.dtype}")
        made: list[DenseInput | SparseInput]
        made = self._ids(value, name, sizes, per) if value.dtype in _IDS else [self._dense(value, sizes, per)]
        row = tuple(int(n) for n in sizes[1:])  # type: ignore[arg-type]
        feeds = tuple(i.name for i in made)
        self.tensors.append(TensorSpec(name, _DATATYPES[value.dtype], row, per, feeds))
        return made

    def _dense(self, value: ir.Value, sizes: list[int | ir.SymbolicDim], per: Per) -> DenseInput:
        """An input of numbers; the graph reads it as [n, width] and gives it its own rank."""
        row = [n for n in sizes[1:] if isinstance(n, int)]
        if len(row) < len(sizes) - 1:
            raise InputError(f"input {value.name!r}: expected float32 [n, width], got {_shape(value)}")
        width, ids = math.prod(row), {}  # type: tuple[int, dict[int, int]]
        if len(row) <= 1:
            _find_ids(value, tuple(range(width)), ids)
        name = self._fresh(str(value.name))
        if len(row) != 1:
            flat = ir.Value(shape=ir.Shape([sizes[0], width]), type=value.type)
            value.replace_all_uses_with(_reshape(self.graph, flat, [-1, *row], self._fresh("shape")))
            value = flat
        value.name = name
        self._lifted.append(value)
        return DenseInput(name, width, per, tuple(sorted(ids.items())))

    def _ids(
        self, value: ir.Value, name: str, sizes: list[int | ir.SymbolicDim], per: Per
    ) -> list[DenseInput | SparseInput]:
        if len(sizes) > 2 or (len(sizes) == 2 and not isinstance(sizes[1], int)):
            raise InputError(f"input {name!r}: expected ids [n] or [n, look-ups], got {_shape(value)}")
        lookups = int(sizes[1]) if len(sizes) == 2 else 0  # type: ignore[arg-type]
        readers = list(_readers(value))
        gathers = [node for node in readers if self._is_lookup(node)]
        shapes = [node for node in readers if node.op_type == "Shape"]
        if odd := [n for n in readers if n not in gathers and n not in shapes]:
            raise InputError(
                f"input {name!r}: expected ids that index embedding tables and nothing else (Gather, axis 0, "
                f"float32 table), got the operator {odd[0].op_type}; make it one input per table"
            )
        if not gathers:
            raise InputError(f"input {name!r}: expected ids that index a table, got ones that nothing reads")
        rows = [self._lift(value, gather, sizes, self._fresh(name)) for gather in gathers]
        for node in shapes:
            self._reshaped(name, node, rows[0][0], lookups, rows[0][1].pooling)
        return [SparseInput(r.name, r.table, r.lookups, r.pooling, per) for _, r in rows]

    def _is_lookup(self, node: ir.Node) -> bool:
        table = node.inputs[0]
        return (
            node.op_type == "Gather"
            and node.graph is self.graph
            and table is not None
            and table.is_initializer()
            and table.dtype is ir.DataType.FLOAT
            and len(table.shape or ()) == 2
            and node.attributes.get_int("axis", 0) == 0
        )

    def _lift(
        self, ids: ir.Value, gather: ir.Node, sizes: list[int | ir.SymbolicDim], name: str
    ) -> tuple[ir.Value, SparseInput]:
        """Make what a Gather gives an input of the graph, pooled where a sum or a mean follows at once."""
        table = gather.inputs[0]
        assert table is not None
        assert table.shape is not None
        key = str(table.name)
        count, dim = (int(d) for d in table.shape)  # type: ignore[arg-type]
        self.tables[key] = Table(key, count, dim)
        at, pooling = gather.outputs[0], Pooling.SEQUENCE if len(sizes) == 2 else Pooling.SUM
        shape = [*sizes, dim]
        if len(sizes) == 2 and (reduce := _pooled(at)):
            at, pooling, shape = reduce.outputs[0], _REDUCTIONS[reduce.op_type], [sizes[0], dim]
        if at.is_graph_output():
            raise InputError(f"input {name!r}: expected ids whose rows are scored, got them as the output")
        rows = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        at.replace_all_uses_with(rows)
        self._lifted.append(rows)
        lookups = int(sizes[1]) if len(sizes) == 2 else 1  # type: ignore[arg-type]
        return rows, SparseInput(name, key, lookups, pooling)

    def _reshaped(self, name: str, node: ir.Node, rows: ir.Value, lookups: int, pooling: Pooling) -> None:
        """Let a Shape of the ids read the rows, whose first dimensions are the same."""
        rank = 2 if lookups else 1
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", rank)
        start, end = (x + rank if x < 0 else x for x in (start, min(end, rank)))
        if end > 1 and pooling is not Pooling.SEQUENCE:
            raise InputError(
                f"input {name!r}: expected only its number of items to be asked for, got its shape"
            )
        node.attributes["start"] = ir.AttrInt64("start", start)
        node.attributes["end"] = ir.AttrInt64("end", end)
        node.replace_input_with(0, rows)

    def _fresh(self, name: str) -> str:
        """The name, or a longer one if another tensor has it."""
        names = (f"{name}/{k}" if k else name for k in count())
        found = next(n for n in names if n not in self._names)
        self._names.add(found)
        return found

    def finish(self) -> None:
        """Drop what nothing reads any more, put the inputs in their order, keep the scores' name free."""
        for value in self._lifted:
            if value not in self.graph.inputs:
                self.graph.inputs.append(value)
        RemoveUnusedNodesPass()(self.model)
        self.graph.inputs[:] = self._lifted
        for key in self.tables:
            left = self.graph.initializers.get(key)
            if left is not None and (uses := list(left.uses())):
                raise InputError(f"table {key!r}: expected only look-ups by id, got the operator "
                                 f"{uses[0].node.op_type}")  # fmt: skip
            self.graph.initializers.pop(key, None)
        for value in _values(self.graph):
            if value.name == SCORES:
                value.name = self._fresh(SCORES)
        self.graph.sort()


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All tensors of a graph and of the graphs within."""
    for g in (graph, *graph.subgraphs()):
        yield from (*g.inputs, *g.initializers.values())
        for node in g:
            yield from node.outputs


def _reshape(graph: ir.Graph, value: ir.Value, sizes: list[int], name: str) -> ir.Value:
    """A tensor in another shape, by a new last node; `name` is its constant's."""
    to = ir.Value(name=name, const_value=ir.tensor(sizes, name=name))
    graph.register_initializer(to)
    node = ir.Node("", "Reshape", [value, to])
    graph.append(node)
    return node.outputs[0]


def _find_ids(value: ir.Value, columns: tuple[int, ...], found: dict[int, int]) -> None:
    """Find the columns of a float input that are cast to whole numbers and index a table.

    Args:
        columns: those of the input that `value` has, in order.
        found: gets each column that indexes, and how many rows the smallest table has.
    """
    for node, at in value.uses():
        if node.op_type == "Gather" and at == 1 and node.attributes.get_int("axis", 0) == 0:
            table = node.inputs[0]
            rows = table.shape[0] if table is not None and table.is_initializer() and table.shape else None
            if isinstance(rows, int):
                found.update((c, min(rows, found.get(c, rows))) for c in columns)
        elif at == 0 and (parts := _parts(node, columns)):
            for part, output in zip(parts, node.outputs, strict=False):
                _find_ids(output, part, found)


_KEEPING = {
    "Cast", "Identity", "Floor", "Ceil", "Round", "Clip", "Abs", "Relu", "Squeeze", "Unsqueeze", "Reshape",
    "Flatten", "Max", "Min",
}  # fmt: skip
"""Operators after which values come from the columns that they came from before."""


def _parts(node: ir.Node, columns: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The columns that each output of a node has of those of its first input; none where that is unknown."""
    if node.op_type in _KEEPING:
        return [columns]
    constants = [_constant(v) for v in node.inputs[1:]]
    axis = node.attributes.get_int("axis", 0)
    if node.op_type == "Gather" and axis in (1, -1) and constants[0] is not None:
        return [tuple(columns[i] for i in constants[0] if -len(columns) <= i < len(columns))]
    if node.op_type == "Split" and axis in (1, -1):
        each = -(-len(columns) // len(node.outputs))
        sizes = constants[0] if constants and constants[0] else [each] * len(node.outputs)
        ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        return [columns[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    if node.op_type == "Slice" and len(constants) >= 3 and all(c is not None for c in constants):
        starts, ends, axes, *steps = (c or [] for c in constants)
        for k, sliced in enumerate(axes):
            if sliced in (1, -1):
                columns = columns[slice(starts[k], ends[k], steps[0][k] if steps else 1)]
        return [columns]
    return []


def _constant(value: ir.Value | None) -> list[int] | None:
    """A constant's numbers; None where a value is none."""
    known = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if known is None else [int(i) for i in known.numpy().reshape(-1)]


def _per(name: str, first: int | ir.SymbolicDim) -> Per:
    if not isinstance(first, int):
        return Per.ITEM
    if first == 1:
        return Per.QUERY
    raise InputError(
        f"input {name!r}: expected a symbolic first dimension (items) or 1 (per query), got {first}"
    )


def _shape(value: ir.Value) -> str:
    return f"{value.dtype} [{', '.join(str(d) for d in value.shape or ())}]"


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that read a value, past casts to another width of integer."""
    for node, _ in value.uses():
        to = node.attributes.get_int("to", 0) if node.op_type == "Cast" else 0
        if node.op_type == "Identity" or to in [kind.value for kind in _IDS]:
            yield from _readers(node.outputs[0])
        else:
            yield node


def _pooled(rows: ir.Value) -> ir.Node | None:
    """The sum or mean over look-ups that is the only reader of [n, look-ups, dim], if there is one."""
    uses = list(rows.uses())
    if len(uses) != 1 or uses[0].node.op_type not in _REDUCTIONS or rows.is_graph_output():
        return None
    node = uses[0].node
    if node.attributes.get_int("keepdims", 1):
        return None
    if "axes" in node.attributes:
        axes = list(node.attributes["axes"].as_ints())
    else:
        given = node.inputs[1] if len(node.inputs) > 1 else None
        known = ir.convenience.get_const_tensor(given) if given is not None else None
        axes = known.numpy().tolist() if known is not None else []
    return node if axes in ([1], [-2]) else None


def _serialised(model: ir.Model, schema: Schema, tensors: list[TensorSpec], output: str) -> Lifted:
    """The graph with its scores named and shaped, and what it costs.

    Args:
        tensors, output: clients' inputs, and their name for the scores.
    """
    ir.external_data.load_to_model(model)
    graph = model.graph
    _check_finite(graph)
    try:
        found = session(_bytes(model)).run(None, random_rows(schema, 3))[0]
    except InputError:
        raise
    except Exception as e:
        raise InputError(f"expected scores for 3 items, got {reason(e)}") from e
    if found.ndim not in (1, 2) or len(found) != 3 or found.dtype != "float32":
        raise InputError(
            f"output: expected float32 scores [n] or [n, outputs], got {found.dtype} {list(found.shape)} "
            "for 3 items"
        )
    (scores,) = graph.outputs
    if found.ndim == 1:
        graph.outputs[0] = scores = _reshape(graph, scores, [-1, 1], "deeprecsys_shape")
        scores.type = ir.TensorType(ir.DataType.FLOAT)
        scores.shape = ir.Shape([None, 1])
    scores.name = SCORES
    row = found.shape[1:]
    signature = Signature(tuple(tensors), TensorSpec(output, _DATATYPES[ir.DataType.FLOAT], row))
    weights = [v for v in graph.initializers.values() if v.dtype is ir.DataType.FLOAT]
    return Lifted(
        Schema(schema.tables, schema.inputs, math.prod(row), signature),
        {t.name: t.name for t in schema.tables},
        _bytes(model),
        sum(_size(v) for v in weights),
        sum(
            2 * _size(v)
            for v in weights
            if any(n.op_type in ("Gemm", "MatMul") and i < 2 for n, i in v.uses())
        ),
    )


def _check_finite(graph: ir.Graph) -> None:
    """Raise InputError if a weight or a constant is NaN."""
    floats = {str(v.name): v.const_value for v in graph.initializers.values() if v.dtype is ir.DataType.FLOAT}
    dense = {name: torch.tensor(t.numpy()) for name, t in floats.items() if t is not None}
    check_finite(dense, (), "dense stage")


def _size(value: ir.Value) -> int:
    return int(value.const_value.size) if value.const_value is not None else 0


def _bytes(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString()
    return data
