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
from deeprecsys.zoo.custom.columns import IDS, Reader, Row, find_ids, readers
from deeprecsys.zoo.custom.stage import random_rows
from deeprecsys.zoo.custom.weights import check_finite
from deeprecsys.zoo.onnx_session import session
from deeprecsys.zoo.schema import (
    SCORES,
    SLICE_OF_ITEM,
    DenseInput,
    Feed,
    Per,
    Pooling,
    Schema,
    Signature,
    SparseInput,
    Table,
    TensorSpec,
)

_DATATYPES = {ir.DataType.INT64: "INT64", ir.DataType.INT32: "INT32", ir.DataType.FLOAT: "FP32"}
_RESERVED = {SCORES, SLICE_OF_ITEM, "self"}
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
        """What one graph input is to the schema: an input for each table that it indexes, and its numbers."""
        name, sizes, ids = str(value.name), list(value.shape or ()), value.dtype in IDS
        if not sizes:
            raise InputError(f"input {name!r}: expected a dimension of items, got a single number")
        per = _per(name, sizes[0])
        if value.dtype not in _DATATYPES:
            raise InputError(f"input {name!r}: expected float32, int64 or int32, got {value.dtype}")
        row = tuple(n for n in sizes[1:] if isinstance(n, int))
        if len(row) < len(sizes) - 1 or (ids and len(row) > 1):
            expected = "ids [n] or [n, look-ups]" if ids else "float32 [n, width]"
            raise InputError(f"input {name!r}: expected {expected}, got {_shape(value)}")
        columns, in_numbers = tuple(range(math.prod(row))), {}  # type: tuple[Row, dict[int, int]]
        if not ids and len(row) <= 1:
            find_ids(value, columns, in_numbers)
        found = list(readers(value, columns, row))
        lookups = [r for r in found if self._is_lookup(r.node)]
        shapes = [r for r in found if r.node.op_type == "Shape"]
        if ids:
            self._check_ids(name, lookups, [r for r in found if r not in lookups and r not in shapes])
        numbers = "" if ids else self._fresh(name)
        lifted = [self._lift(r, sizes[0], per, self._fresh(name)) for r in lookups]
        for r in shapes:
            self._shape_of_rows(r, name if ids else "", [*zip(lookups, lifted, strict=True)])
        made: list[DenseInput | SparseInput] = [made for _, made in lifted]
        feeds = [Feed(i.name, r.columns * (r.columns != columns)) for r, i in zip(lookups, made, strict=True)]
        if lookups:
            RemoveUnusedNodesPass()(self.model)  # those between the input and its look-ups
        if not lookups or (value.uses() and not ids):
            self._keep(value, sizes[0], row, numbers)
            made.append(DenseInput(numbers, len(columns), per, tuple(sorted(in_numbers.items()))))
            feeds.append(Feed(numbers))
        self.tensors.append(TensorSpec(name, _DATATYPES[value.dtype], row, per, tuple(feeds)))
        return made

    def _keep(self, value: ir.Value, first: int | ir.SymbolicDim, row: Row, name: str) -> None:
        """Leave numbers an input of the graph, [n, width]; what reads them gets them in their own rank."""
        if len(row) != 1:
            flat = ir.Value(shape=ir.Shape([first, math.prod(row)]), type=value.type)
            value.replace_all_uses_with(_reshape(self.graph, flat, [-1, *row], self._fresh("shape")))
            value = flat
        value.name = name
        self._lifted.append(value)

    def _check_ids(self, name: str, lookups: list[Reader], others: list[Reader]) -> None:
        if others:
            raise InputError(
                f"input {name!r}: expected ids that index embedding tables and nothing else (Gather, axis 0, "
                f"float32 table), got the operator {others[0].node.op_type}; make it one input per table"
            )
        if not lookups:
            raise InputError(f"input {name!r}: expected ids that index a table, got ones that nothing reads")

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
        self, ids: Reader, first: int | ir.SymbolicDim, per: Per, name: str
    ) -> tuple[ir.Value, SparseInput]:
        """Make what a Gather gives an input of the graph, pooled where a sum or a mean follows at once."""
        table = ids.node.inputs[0]
        assert table is not None
        assert table.shape is not None
        key = str(table.name)
        count, dim = (int(d) for d in table.shape)  # type: ignore[arg-type]
        self.tables[key] = Table(key, count, dim)
        lookups = len(ids.columns)
        at, pooling, shape = ids.node.outputs[0], Pooling.SEQUENCE, [first, lookups, dim]
        if not ids.row:
            pooling, shape = Pooling.SUM, [first, dim]
        elif len(ids.row) == 1 and (reduce := _pooled(at)):
            at, pooling, shape = reduce.outputs[0], _REDUCTIONS[reduce.op_type], [first, dim]
        if at.is_graph_output():
            raise InputError(f"input {name!r}: expected ids whose rows are scored, got them as the output")
        rows = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        self._lifted.append(rows)
        read = rows
        if len(ids.row) > 1:
            read = _reshape(self.graph, rows, [-1, *ids.row, dim], self._fresh("shape"))
        at.replace_all_uses_with(read)
        return rows, SparseInput(name, key, lookups, pooling, per)

    def _shape_of_rows(
        self, asked: Reader, name: str, lifted: list[tuple[Reader, tuple[ir.Value, SparseInput]]]
    ) -> None:
        """Let a Shape of ids read rows, whose first dimensions are the same.

        Args:
            name: of an input of ids; one of numbers may be asked itself.
        """
        node, rank = asked.node, 1 + len(asked.row)
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", rank)
        start, end = (x + rank if x < 0 else x for x in (start, min(end, rank)))
        alike = (
            rows
            for ids, (rows, made) in lifted
            if end <= 1 or (ids.row == asked.row and made.pooling is Pooling.SEQUENCE and len(ids.row) == 1)
        )
        rows = next(alike, None)
        if rows is not None:
            node.attributes["start"] = ir.AttrInt64("start", start)
            node.attributes["end"] = ir.AttrInt64("end", end)
            node.replace_input_with(0, rows)
        elif name:
            raise InputError(
                f"input {name!r}: expected only its number of items to be asked for, got its shape"
            )

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
