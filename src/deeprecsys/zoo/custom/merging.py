"""Rewrites a user's graph, which scores the items of one query, for items of several queries.

What depends on per-query inputs alone gets a row per query, and where a per-item operator reads it, a row per
item, chosen by `slice_of_item`. A value of one query either begins with the axis of length 1 that its input
had, which then counts queries, or has lost it, and gets one in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from deeprecsys.zoo.custom.user_side import Sides, constant_of, plain
from deeprecsys.zoo.onnx_session import without_weights
from deeprecsys.zoo.schema import SLICE_OF_ITEM, Per, Schema

_ELEMENTWISE = {
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Mean", "Sum", "PRelu", "Where", "And", "Or",
    "Xor", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Expand",
}  # fmt: skip
"""Operators whose inputs are broadcast against one another."""
_ALONG = {
    "Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1, "ArgMax": 0, "ArgMin": 0, "CumSum": 0,
    "Split": 0,
}  # fmt: skip
"""Operators along one axis, and which it is by default."""

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class _NotMergedError(Exception):
    """An operator for which there is no rule."""


def merged(graph: bytes, schema: Schema) -> bytes | None:
    """The graph for items of several queries, without the weights that it shares with the one given.

    None where an operator has no rule.

    Inputs that are per query have a row for each, and `slice_of_item` [n] int64 is one more input. That it
    scores as the graph does is for the caller to try.
    """
    model = ShapeInferencePass()(ir.from_proto(onnx.load_from_string(graph))).model
    try:
        _Merger(model, {i.name for i in schema.inputs if i.per is Per.QUERY}).rewrite()
    except _NotMergedError:
        return None
    return without_weights(ir.to_proto(model).SerializeToString(), graph)


class _Merger:
    def __init__(self, model: ir.Model, users: set[str]) -> None:
        self._model, self.graph = model, model.graph
        self._sides = Sides(self.graph, users)
        self._users = [v for v in self.graph.inputs if v.name in users]
        self._lost: set[ir.Value] = set()  # values of one query without an axis for queries
        self._spread: dict[ir.Value, ir.Value] = {}  # by value of one query, a row per item of it
        self._index = ir.Value(
            name=SLICE_OF_ITEM, shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.INT64)
        )
        self._shapes = {
            v: tuple(v.shape) for node in self.graph for v in (*node.inputs, *node.outputs) if v and v.shape
        }
        self._count = 0

    def rewrite(self) -> None:
        for node in list(self.graph):
            given = [v for v in node.inputs if v is not None and v in self._sides.once]
            if not given:
                continue
            if any(a.type in _GRAPHS for a in node.attributes.values()):
                raise _NotMergedError
            if self._sides.is_once(node):
                self._of_queries(node, given)
            else:
                self._of_items(node, given)
        for v in self._users:
            v.shape = ir.Shape(["S", *self._shapes.get(v, tuple(v.shape or ()))[1:]])
        for node in self.graph:  # shapes of one query
            for v in node.outputs:
                if v not in self.graph.outputs:
                    v.shape = None
        self.graph.inputs.append(self._index)
        RemoveUnusedNodesPass()(self._model)
        self.graph.sort()

    # Operators of queries.
    def _of_queries(self, node: ir.Node, given: list[ir.Value]) -> None:
        op = node.op_type
        lost = any(v in self._lost for v in given)
        if op in _ELEMENTWISE:
            lost = self._broadcast(node, given)
        elif op in ("Squeeze", "Unsqueeze", "Reshape", "Flatten", "Shape"):
            lost = self._reshaped(node, given[0])
        elif op == "Transpose":
            lost = self._transposed(node, given[0])
        elif op == "Gather":
            lost = self._gathered(node)
        elif op == "MatMul":
            lost = self._product(node, given)
        elif op == "Gemm" and lost:
            lost = self._layer(node)
        elif op in ("GRU", "LSTM", "RNN"):
            lost = self._recurrent(node)
        elif op == "Concat":
            lost = self._joined(node, given)
        elif op.startswith("Reduce") or op in _ALONG:
            lost = self._along(node, given[0])
        elif lost and len(given) > 1:
            raise _NotMergedError
        if lost:
            self._lost |= set(node.outputs)

    def _broadcast(self, node: ir.Node, given: list[ir.Value]) -> bool:
        rank = self._rank(node.outputs[0])
        widest = [v for v in given if self._rank(v) == rank]
        lost = not widest or any(v in self._lost for v in widest)
        self._fit(node, given, rank if lost else rank - 1)
        return lost

    def _fit(
        self,
        node: ir.Node,
        given: list[ir.Value],
        axes: int,
        of: Callable[[ir.Value], ir.Value] | None = None,
    ) -> None:
        """Give each value its queries' axis and `axes` more, as broadcasting aligns them."""
        for v in dict.fromkeys(given):
            row = self._row(v)
            more = axes - len(row)
            if more < -1 or (more == -1 and row[0] != 1):
                raise _NotMergedError
            fitted = of(v) if of else v
            if more:
                fitted = self._add("Reshape", fitted, self._ints(0, *[1] * more, *row[more < 0 :]))
            self._replace(node, v, fitted)

    def _reshaped(self, node: ir.Node, x: ir.Value) -> bool:
        """Any change of shape: the new one is known, and the queries' axis is put before it or is first."""
        shape = self._shape(node.outputs[0])
        if node.op_type == "Shape":
            node.outputs[0].replace_all_uses_with(self._ints(*self._shape(x)))
            return False
        lost = not shape or shape[0] != 1
        made = self._add("Reshape", x, self._ints(0, *(shape if lost else shape[1:])))
        return self._instead(node, made, lost)

    def _transposed(self, node: ir.Node, x: ir.Value) -> bool:
        rank = self._rank(x)
        perm = list(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))
        if x not in self._lost and perm[0] == 0:
            return False
        moved = self._add("Transpose", self._apart(x), perm=[0, *(p + 1 for p in perm)])
        return self._instead(node, moved, True)

    def _gathered(self, node: ir.Node) -> bool:
        data, at = node.inputs
        axis = node.attributes.get_int("axis", 0)
        if data not in self._sides.once:
            return at in self._lost
        if at in self._sides.once:
            raise _NotMergedError
        rank = self._rank(data)
        axis += rank * (axis < 0)
        if data not in self._lost and axis:
            return False
        assert at is not None
        return self._instead(node, self._add("Gather", self._apart(data), at, axis=axis + 1), True)

    def _product(self, node: ir.Node, given: list[ir.Value]) -> bool:
        a, b = node.inputs
        if b not in self._sides.once:
            return a in self._lost
        if all(v not in self._lost and self._rank(v) > 2 for v in given):
            return False
        ranks = [self._rank(v) for v in (a, b)]
        if min(ranks) < 2 or ranks[0] != ranks[1]:
            raise _NotMergedError
        for v in dict.fromkeys(given):
            self._replace(node, v, self._apart(v))
        return True

    def _layer(self, node: ir.Node) -> bool:
        """A matrix of each query, [rows, columns], times a constant one."""
        x, weight, *bias = node.inputs
        if x is None or not plain(node) or any(v in self._sides.once for v in (weight, *bias)):
            raise _NotMergedError
        if node.attributes.get_int("transB", 0):
            weight = self._add("Transpose", weight, perm=[1, 0])
        made = self._add("MatMul", self._apart(x), weight)
        return self._instead(node, self._add("Add", made, *bias) if bias else made, True)

    def _recurrent(self, node: ir.Node) -> bool:
        """Queries as the layer's sequences: [steps, S, columns]."""
        x, weights, more, bias, *states = node.inputs
        zeros = [v is None or ((known := constant_of(v)) is not None and not known.any()) for v in states]
        if x is None or node.attributes.get_int("layout", False) or self._shape(x)[1] != 1 or not all(zeros):
            raise _NotMergedError
        steps, _, columns = self._shape(x)
        moved = self._add("Transpose", self._apart(x), perm=[1, 0, 2, 3])
        sequences = self._add("Reshape", moved, self._ints(steps, -1, columns))
        layer = ir.Node(
            node.domain,
            node.op_type,
            [sequences, weights, more, bias],
            node.attributes,
            num_outputs=len(node.outputs),
        )
        self.graph.append(layer)
        for old, new in zip(node.outputs, layer.outputs, strict=True):
            if old.uses():
                shape = self._shape(old)
                axis = len(shape) - 2
                front = self._add("Transpose", new, perm=[axis, *(k for k in range(len(shape)) if k != axis)])
                self._stand_for(old, self._add("Reshape", front, self._ints(0, *shape)), lost=True)
        return False

    def _joined(self, node: ir.Node, given: list[ir.Value]) -> bool:
        axis = node.attributes.get_int("axis", 0)
        axis += self._rank(node.outputs[0]) * (axis < 0)
        if len(given) < len(node.inputs):
            raise _NotMergedError  # a constant has no queries
        if axis and not any(v in self._lost for v in given):
            return False
        made = self._add("Concat", *(self._apart(v) for v in given), axis=axis + 1)
        return self._instead(node, made, True)

    def _along(self, node: ir.Node, x: ir.Value) -> bool:
        axes = self._axes(node)
        if x not in self._lost and 0 not in axes:
            return False
        if node.op_type not in _ALONG:
            keep = node.attributes.get_int("keepdims", True)
            moved = [a + 1 for a in axes]
            if "axes" in node.attributes:
                made = self._add(node.op_type, self._apart(x), keepdims=keep, axes=moved)
            else:
                made = self._add(node.op_type, self._apart(x), self._ints(*moved), keepdims=keep)
            return self._instead(node, made, True)
        if len(node.outputs) > 1 or node.op_type == "CumSum":
            raise _NotMergedError
        self._replace(node, x, self._apart(x))
        node.attributes["axis"] = ir.AttrInt64("axis", axes[0] + 1)
        return True

    def _axes(self, node: ir.Node) -> list[int]:
        rank = self._rank(node.inputs[0])
        if node.op_type in _ALONG:
            found: Sequence[int] = [node.attributes.get_int("axis", _ALONG[node.op_type])]
        elif "axes" in node.attributes:
            found = list(node.attributes["axes"].as_ints())
        else:
            known = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
            if known is None:
                raise _NotMergedError
            found = known.reshape(-1).tolist()
        return [a + rank * (a < 0) for a in found]

    # Operators of items that read what queries have.
    def _of_items(self, node: ir.Node, given: list[ir.Value]) -> None:
        op, (first, *rest) = node.op_type, node.inputs
        if op in ("Gather", "GatherND") and first in self._sides.once:  # its row, by an index for the items
            whole = self._rank(first) == self._rank(node.outputs[0])
            if node.attributes.get_int("axis", 0) or first in self._lost or not whole:
                raise _NotMergedError
            self._stand_in(node.outputs[0], self._rows(given[0]))
        elif op == "Tile" and first in self._sides.once and self._rank(first) == self._rank(node.outputs[0]):
            times = self._add("Slice", rest[0], self._ints(1), self._ints(1 << 31), self._ints(0))
            node.replace_input_with(0, self._rows(first))
            node.replace_input_with(1, self._add("Concat", self._ints(1), times, axis=0))
        elif op == "MatMul":
            self._product_of_items(node)
        elif op == "Gemm" and set(given) == set(rest[1:]):
            self._fit(node, given, 1, self._rows)
        elif op in _ELEMENTWISE:
            self._fit(node, given, self._rank(node.outputs[0]) - 1, self._rows)
        else:
            raise _NotMergedError

    def _product_of_items(self, node: ir.Node) -> None:
        """An item's rows times its query's matrix."""
        x, y = node.inputs
        if x is None or y is None or x in self._sides.once:
            raise _NotMergedError
        if self._rank(x) == 2 and self._rank(y) < 3:
            matrix = self._rows(self._apart(y))
            if self._rank(y) == 1:
                matrix = self._add("Reshape", matrix, self._ints(0, 0, 1))
            product = self._add("MatMul", self._add("Reshape", x, self._ints(0, 1, -1)), matrix)
            self._stand_in(node.outputs[0], self._add("Reshape", product, self._ints(0, *self._shape(y)[1:])))
        else:
            self._fit(node, [y], self._rank(x) - 1, self._rows)

    def _rows(self, v: ir.Value) -> ir.Value:
        """A row of a value for each item."""
        if v not in self._spread:
            self._spread[v] = self._add("Gather", v, self._index, axis=0)
        return self._spread[v]

    # Values.
    def _shape(self, v: ir.Value | None) -> tuple[int, ...]:
        found = self._shapes.get(v) if v else None
        if found is None or not all(isinstance(n, int) for n in found):
            raise _NotMergedError
        return found  # type: ignore[return-value]

    def _rank(self, v: ir.Value | None) -> int:
        if v is None or (v not in self._shapes and v.shape is None):
            raise _NotMergedError
        return len(self._shapes.get(v, tuple(v.shape or ())))

    def _row(self, v: ir.Value) -> tuple[int, ...]:
        """Shape of what a value has for each query."""
        shape = self._shape(v)
        return shape if v in self._lost else shape[1:]

    def _apart(self, v: ir.Value) -> ir.Value:
        """The value with a queries' axis before all of its own."""
        return v if v in self._lost else self._add("Reshape", v, self._ints(0, *self._shape(v)))

    def _add(self, op: str, *inputs: ir.Value | None, **attributes: int | list[int]) -> ir.Value:
        made = [
            ir.AttrInt64s(k, a) if isinstance(a, list) else ir.AttrInt64(k, a) for k, a in attributes.items()
        ]
        node = ir.Node("", op, inputs, made)
        self.graph.append(node)
        return node.outputs[0]

    def _instead(self, node: ir.Node, made: ir.Value, lost: bool) -> bool:
        """Let what read a node's result read another; it keeps the shape that it has for one query."""
        return self._stand_for(node.outputs[0], made, lost)

    def _stand_for(self, old: ir.Value, made: ir.Value, lost: bool) -> bool:
        shape = self._shape(old)
        if lost and shape and shape[0] == 1:  # the axis in front counts queries as well
            made, lost = self._add("Reshape", made, self._ints(0, *shape[1:])), False
        self._stand_in(old, made)
        self._sides.once.add(made)
        if lost:
            self._lost.add(made)
        return lost

    def _stand_in(self, old: ir.Value, made: ir.Value) -> None:
        if old.shape is not None:
            self._shapes[made] = tuple(old.shape)
        old.replace_all_uses_with(made, replace_graph_outputs=True)

    def _replace(self, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
        for i, v in enumerate(node.inputs):
            if v is old:
                node.replace_input_with(i, new)

    def _ints(self, *numbers: int) -> ir.Value:
        name = f"deeprecsys_merge_{self._count}"
        self._count += 1
        value = ir.Value(
            name=name, const_value=ir.tensor(numbers, ir.DataType.INT64, name), shape=ir.Shape([len(numbers)])
        )
        self.graph.register_initializer(value)
        return value
