"""Takes a whole model in ONNX apart: embedding tables out of the graph, their rows its inputs.

A table is a float initialiser that a graph input indexes: Gather on axis 0. The Gather is removed, and with
it the sum or mean over the look-ups where one follows; its result becomes an input. What is not found so
stays in the graph, of which each worker has a copy. What clients send and get stays as the file has it
(`Schema.given`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, pairwise

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.custom.bags import write_bags
from deeprecsys.zoo.custom.columns import IDS, Reader, Row, find_ids, readers
from deeprecsys.zoo.custom.normal import values_of
from deeprecsys.zoo.custom.outputs import append, as_bytes, constant, join_outputs, pad_single, run_random
from deeprecsys.zoo.custom.weights import check_finite
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

_DATATYPES = {
    ir.DataType.FLOAT: "FP32",
    ir.DataType.DOUBLE: "FP64",
    ir.DataType.INT64: "INT64",
    ir.DataType.INT32: "INT32",
    ir.DataType.BOOL: "BOOL",
}
_RESERVED = {SCORES, SLICE_OF_ITEM, "self"}
"""Names that the dense stage's inputs may not have: of its other tensors, and of a module's argument."""
_REDUCTIONS = {"ReduceSum": Pooling.SUM, "ReduceMean": Pooling.MEAN}
_ANY_ID = 2
"""How many ids measuring draws from where nothing tells how many there are."""


@dataclass(frozen=True)
class Lifted:
    """A model in two stages.

    Attributes:
        schema: of the sparse one, and of what goes past it.
        keys: by table name, the initialiser that holds it.
        graph: the dense one: inputs as in the schema, output `scores` [n, outputs].
        parameters: of the dense one; flops: per item, of its products with weights.
        notes: what was not recognised, and why.
    """

    schema: Schema
    keys: dict[str, str]
    graph: bytes
    parameters: int
    flops: int
    notes: tuple[str, ...]


def lift(
    model: ir.Model, tensors: Mapping[str, torch.Tensor] | None = None, most: Mapping[str, int] | None = None
) -> Lifted:
    """Take a model apart, `normalised`; it is changed.

    Args:
        tensors: the weights by key, where the tables are to come from; None takes them from the graph.
        most: by input, how many ids an example of it has, where nothing else tells.

    Raises:
        InputError: an input or output of another kind than those that can be served.
    """
    write_bags(model)
    lifter, names = _Lifter(model, tensors, most or {}), [str(v.name) for v in model.graph.outputs]
    inputs = [made for value in lifter.given for made in lifter.input(value)]
    if not any(t.per is Per.ITEM for t in lifter.tensors):
        raise InputError("inputs: expected one whose first dimension is symbolic, the items; got none")
    lifter.finish()
    schema = Schema(tuple(lifter.tables.values()), tuple(inputs))
    return _serialised(model, schema, lifter, names)


class _Lifter:
    """The graph while it is taken apart."""

    def __init__(
        self, model: ir.Model, weights: Mapping[str, torch.Tensor] | None, most: Mapping[str, int]
    ) -> None:
        self.model, self.graph = model, model.graph
        self.keys: dict[str, str] = {}
        self._weights, self._most = weights, most
        initialisers = set(self.graph.initializers)
        self.given = [v for v in self.graph.inputs if v.name not in initialisers]
        self.tables: dict[str, Table] = {}
        self.tensors: list[TensorSpec] = []
        self.notes: list[str] = []
        self._lifted: list[ir.Value] = []
        self._names = _RESERVED | {str(v.name) for v in values_of(self.graph) if v not in self.given}

    def input(self, value: ir.Value) -> list[DenseInput | SparseInput]:
        """What one graph input is to the schema: an input for each table that it indexes, and its numbers."""
        name, sizes, ids = str(value.name), list(value.shape or ()), value.dtype in IDS
        if not sizes:
            raise InputError(f"input {name!r}: expected a dimension of items, got a single number")
        per = _per(name, sizes[0])
        if value.dtype not in _DATATYPES:
            expected = "float32, float64, int64, int32 or bool"
            raise InputError(f"input {name!r}: expected {expected}, got {value.dtype}")
        row = tuple(n for n in sizes[1:] if isinstance(n, int))
        if len(row) < len(sizes) - 1:
            expected = "ids [n] or [n, look-ups]" if ids else "float32 [n, width]"
            raise InputError(f"input {name!r}: expected {expected}, got {_shape(value)}")
        columns, bounds = tuple(range(math.prod(row))), {}  # type: tuple[Row, dict[int, int]]
        if len(row) <= 1:
            find_ids(value, columns, bounds)
        found = list(readers(value, columns, row))
        lookups = [r for r in found if self._is_lookup(r)]
        numbers = "" if ids and lookups else self._fresh(name)
        lifted = [self._lift(r, sizes[0], per, self._fresh(name)) for r in lookups]
        for r in found:
            if r.node.op_type == "Shape":
                self._shape_of_rows(r, [*zip(lookups, lifted, strict=True)])
        made: list[DenseInput | SparseInput] = [made for _, made in lifted]
        feeds = [Feed(i.name, r.columns * (r.columns != columns)) for r, i in zip(lookups, made, strict=True)]
        if lookups:
            RemoveUnusedNodesPass()(self.model)  # those between the input and its look-ups
        if not lookups or value.uses() or value.is_graph_output():
            if ids:
                self._note_others(name, found, lookups)
            if value.dtype in (*IDS, ir.DataType.BOOL):
                bounds = {c: bounds.get(c, self._most.get(name, _ANY_ID)) for c in columns}
            numbers = numbers or self._fresh(name)
            self._keep(value, sizes[0], row, numbers)
            made.append(DenseInput(numbers, len(columns), per, tuple(sorted(bounds.items()))))
            feeds.append(Feed(numbers))
        self.tensors.append(TensorSpec(name, _DATATYPES[value.dtype], row, per, tuple(feeds)))
        return made

    def _note_others(self, name: str, found: list[Reader], lookups: list[Reader]) -> None:
        others = sorted({r.node.op_type for r in found if r not in lookups and r.node.op_type != "Shape"})
        if others and not lookups:
            self.notes.append(f"input {name!r}: no table is indexed by its ids as they come, they go to "
                              f"{', '.join(others)}: the dense stage gets them as numbers")  # fmt: skip

    def _keep(self, value: ir.Value, first: int | ir.SymbolicDim, row: Row, name: str) -> None:
        """Leave numbers an input of the graph, float32 [n, width]; what reads them gets them as they came."""
        if len(row) != 1 or value.dtype is not ir.DataType.FLOAT or value.is_graph_output():
            flat = ir.Value(shape=ir.Shape([first, math.prod(row)]), type=ir.TensorType(ir.DataType.FLOAT))
            read, dtype = flat, value.dtype
            if dtype is not ir.DataType.FLOAT:
                read = append(self.graph, "Cast", [read], to=int(dtype or 0))
            if len(row) != 1:
                read = _reshape(self.graph, read, [-1, *row], self._fresh("shape"))
            if read is flat:
                read = append(self.graph, "Identity", [flat])
            value.replace_all_uses_with(read, replace_graph_outputs=True)
            value = flat
        value.name = name
        self._lifted.append(value)

    def _is_lookup(self, reader: Reader) -> bool:
        node = reader.node
        table = node.inputs[0]
        return (
            node.op_type == "Gather"
            and node.graph is self.graph
            and table is not None
            and table.is_initializer()
            and table.dtype is ir.DataType.FLOAT
            and len(table.shape or ()) in (1, 2)
            and node.attributes.get_int("axis", 0) == 0
            and all(0 <= s < int(table.shape[0]) for s in reader.shifts)  # type: ignore[index, arg-type]
            and self._has_key(table)
        )

    def _has_key(self, table: ir.Value) -> bool:
        """Whether a table is one of the weights, also under another name; exporters rename what they fold."""
        name = str(table.name)
        if name not in self.keys:
            if self._weights is None or name in self._weights:
                self.keys[name] = name
            elif table.const_value is not None:
                values = torch.from_numpy(table.const_value.numpy())
                alike = (k for k, t in self._weights.items() if t.shape == values.shape)
                if key := next((k for k in alike if torch.equal(self._weights[k], values)), None):
                    self.keys[name] = key
        return name in self.keys

    def _lift(
        self, ids: Reader, first: int | ir.SymbolicDim, per: Per, name: str
    ) -> tuple[ir.Value, SparseInput]:
        """Make what a Gather gives an input of the graph, pooled where a sum or a mean follows at once."""
        table = ids.node.inputs[0]
        assert table is not None
        assert table.shape is not None
        key = str(table.name)
        rows_of, *dims = (int(d) for d in table.shape)  # type: ignore[arg-type]
        dim = dims[0] if dims else 1
        self.tables[key] = Table(key, rows_of, dim)
        lookups = len(ids.columns)
        at, pooling, shape = ids.node.outputs[0], Pooling.SEQUENCE, [first, lookups, dim]
        read_as = [-1, *ids.row, *dims]
        if not ids.row:
            pooling, shape = Pooling.SUM, [first, dim]
        elif len(ids.row) == 1 and dims and (reduce := _pooled(at)):
            at, pooling, shape = reduce.outputs[0], _REDUCTIONS[reduce.op_type], [first, dim]
            read_as = [-1, 1, dim] if reduce.attributes.get_int("keepdims", 1) else [-1, dim]
        rows = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        self._lifted.append(rows)
        read = rows
        if read_as[1:] != shape[1:]:
            read = _reshape(self.graph, rows, read_as, self._fresh("shape"))
        elif at.is_graph_output():
            read = append(self.graph, "Identity", [rows])
        at.replace_all_uses_with(read, replace_graph_outputs=True)
        return rows, SparseInput(name, key, lookups, pooling, per, _fields(ids.shifts, rows_of))

    def _shape_of_rows(
        self, asked: Reader, lifted: list[tuple[Reader, tuple[ir.Value, SparseInput]]]
    ) -> None:
        """Let a Shape of ids read rows, whose first dimensions are the same, where there are such."""
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
        for value in list(self.graph.initializers.values()):
            if not value.uses() and not value.is_graph_output():
                self.graph.initializers.pop(str(value.name))
            elif reader := _reader_of_rows(value):
                self.notes.append(_left(value, reader, str(value.name) in self.tables))
        for value in values_of(self.graph):
            if value.name == SCORES:
                value.name = self._fresh(SCORES)
        self.graph.sort()


def _reader_of_rows(value: ir.Value) -> ir.Node | None:
    """What looks up rows of a table that stays in the graph."""
    if value.dtype is not ir.DataType.FLOAT or len(value.shape or ()) != 2:
        return None
    return next((n for n, at in value.uses() if n.op_type in ("Gather", "GatherND") and at == 0), None)


def _left(table: ir.Value, reader: ir.Node, shared: bool) -> str:
    ids = reader.inputs[1].producer() if reader.inputs[1] is not None else None
    why = f"{'also ' if shared else ''}indexed by what {ids.op_type} gives" if ids else "read otherwise"
    size = 4 * _size(table) / 2**20
    return f"table {table.name!r} {_shape(table)}: {why}, so that each worker has a copy, {size:.1f} MiB"


def _fields(shifts: tuple[int, ...], rows: int) -> tuple[tuple[int, int], ...]:
    """The part of a table that each look-up's ids count from what is added to them; () for all of it."""
    if not any(shifts):
        return ()
    ends = dict(pairwise([*sorted(set(shifts)), rows]))
    return tuple((s, ends[s] - s) for s in shifts)


def _reshape(graph: ir.Graph, value: ir.Value, sizes: list[int], name: str) -> ir.Value:
    """A tensor in another shape, by a new last node; its constant's name begins with `name`."""
    return append(graph, "Reshape", [value, constant(graph, sizes, name)])


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
    if "axes" in node.attributes:
        axes = list(node.attributes["axes"].as_ints())
    else:
        given = node.inputs[1] if len(node.inputs) > 1 else None
        known = ir.convenience.get_const_tensor(given) if given is not None else None
        axes = known.numpy().tolist() if known is not None else []
    return node if axes in ([1], [-2]) else None


def _serialised(model: ir.Model, schema: Schema, lifter: _Lifter, names: list[str]) -> Lifted:
    """The graph with its scores named and shaped, and what it costs.

    Args:
        names: clients' names for the outputs.
    """
    ir.external_data.load_to_model(model)
    graph = model.graph
    _check_finite(graph)
    outputs, left_out = join_outputs(model, schema, names)
    items = [v for v, i in zip(graph.inputs, schema.inputs, strict=True) if i.per is Per.ITEM]
    if not _runs(model, schema, 1):
        pad_single(graph, items)
        left_out.append("the graph fails for a single item: one item is scored as two")
    weights = [v for v in graph.initializers.values() if v.dtype is ir.DataType.FLOAT]
    return Lifted(
        Schema(
            schema.tables,
            schema.inputs,
            sum(t.width for t in outputs),
            Signature(tuple(lifter.tensors), tuple(outputs)),
        ),
        {t.name: lifter.keys[t.name] for t in schema.tables},
        as_bytes(model),
        sum(_size(v) for v in weights),
        sum(
            2 * _size(v)
            for v in weights
            if any(n.op_type in ("Gemm", "MatMul") and i < 2 for n, i in v.uses())
        ),
        (*lifter.notes, *left_out),
    )


def _runs(model: ir.Model, schema: Schema, items: int) -> bool:
    try:
        run_random(model, schema, items)
    except InputError:
        return False
    return True


def _check_finite(graph: ir.Graph) -> None:
    """Raise InputError if a weight or a constant is NaN."""
    floats = {str(v.name): v.const_value for v in graph.initializers.values() if v.dtype is ir.DataType.FLOAT}
    dense = {name: torch.tensor(t.numpy()) for name, t in floats.items() if t is not None}
    check_finite(dense, (), "dense stage")


def _size(value: ir.Value) -> int:
    return int(value.const_value.size) if value.const_value is not None else 0
