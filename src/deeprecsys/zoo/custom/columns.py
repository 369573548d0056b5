"""Which columns of a graph's input go where: to look-ups in tables, or to other operators."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

IDS = (ir.DataType.INT64, ir.DataType.INT32)
Columns = tuple[int, ...]
Row = tuple[int, ...]
"""A tensor's shape without its first dimension."""
_WHOLE = 1 << 31
"""A slice up to here, or beyond, ends where its dimension does."""


@dataclass(frozen=True)
class Reader:
    """A node that reads some columns of an input, in their order, with `row` as their shape.

    Attributes:
        shifts: what is added to each of the columns before.
    """

    node: ir.Node
    columns: Columns
    row: Row
    shifts: tuple[int, ...]


def readers(value: ir.Value, columns: Columns, row: Row, shifts: tuple[int, ...] = ()) -> Iterator[Reader]:
    """The nodes that read an input, past those that choose columns, shape them, make whole numbers of them or
    add constants to them.

    Args:
        columns, row, shifts: of the value.
    """
    shifts = shifts or (0,) * len(columns)
    for node, at in value.uses():
        parts = _passed_on(node, columns, row, shifts) if at == 0 or node.op_type == "Add" else []
        if not parts:
            yield Reader(node, columns, row, shifts)
        for output, part in zip(node.outputs, parts, strict=False):
            yield from readers(output, *part)


_Part = tuple[Columns, Row, tuple[int, ...]]


def _passed_on(node: ir.Node, columns: Columns, row: Row, shifts: tuple[int, ...]) -> list[_Part]:
    """Columns, row and shifts of each output of a node that has nothing but those of an input; else none."""
    if node.op_type == "Identity":
        return [(columns, row, shifts)]
    if node.op_type == "Cast":
        whole = node.attributes.get_int("to", 0) in [kind.value for kind in IDS]
        return [(columns, row, shifts)] if whole else []
    if node.op_type in ("Add", "Sub"):
        moved = _shifted(node, row, shifts)
        return [] if moved is None else [(columns, row, moved)]
    if len(row) == 1 and (parts := _chosen(node, tuple(range(len(columns))))):
        scalar = node.op_type == "Gather" and not len(_tensor(node.inputs[1]).shape)  # type: ignore[union-attr]
        return [
            (
                tuple(columns[k] for k in part),
                () if scalar else (len(part),),
                tuple(shifts[k] for k in part),
            )
            for part in parts
        ]
    shaped = _shaped(node, row)
    return [] if shaped is None else [(columns, shaped, shifts)]


def _shifted(node: ir.Node, row: Row, shifts: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shifts after constants are added to ids, one for each column or one for all; None of others."""
    by = next((t for t in map(_tensor, node.inputs) if t is not None), None)
    if by is None or by.dtype not in IDS or len(by.shape) > 1 + len(row):
        return None
    if len(by.shape) == 1 + len(row) and by.shape[0] != 1:
        return None
    try:
        each = np.broadcast_to(by.numpy(), (1, *row)).reshape(-1).tolist()
    except ValueError:
        return None
    sign = -1 if node.op_type == "Sub" else 1
    return tuple(s + sign * int(e) for s, e in zip(shifts, each, strict=True))


def _chosen(node: ir.Node, columns: Columns) -> list[Columns]:
    """The columns of each output of a node that chooses among those of a tensor [n, columns]; else none."""
    constants = [_constant(v) for v in node.inputs[1:]]
    axis = node.attributes.get_int("axis", 0)
    if node.op_type == "Gather" and axis in (1, -1) and constants[0] is not None:
        return [tuple(columns[i] for i in constants[0] if -len(columns) <= i < len(columns))]
    if node.op_type == "Split" and axis in (1, -1):
        each = -(-len(columns) // len(node.outputs))
        given = (
            node.attributes["split"].as_ints() if "split" in node.attributes else constants and constants[0]
        )
        sizes = list(given or [each] * len(node.outputs))
        ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        return [columns[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    if node.op_type == "Slice" and len(constants) >= 3 and all(c is not None for c in constants):
        starts, ends, axes, *steps = (c or [] for c in constants)
        for k, sliced in enumerate(axes):
            step = steps[0][k] if steps else 1
            if sliced in (1, -1):
                columns = columns[slice(starts[k], ends[k], step)]
            elif (starts[k], step) != (0, 1) or ends[k] < _WHOLE:
                return []  # some of the items
        return [columns]
    return []


def _shaped(node: ir.Node, row: Row) -> Row | None:
    """The row of a node's output that has the values of its first input in their order; None of others."""
    size, sizes = math.prod(row), _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type == "Flatten":
        return (size,) if node.attributes.get_int("axis", 1) == 1 else None
    if node.op_type == "Reshape" and sizes:
        first, *rest = sizes
        keeps = first == -1 or (first == 0 and not node.attributes.get_int("allowzero", 0))
        if rest.count(-1) == 1 and first == 0:
            rest[rest.index(-1)] = size // max(1, -math.prod(rest))
        return tuple(rest) if keeps and min(rest, default=1) > 0 and math.prod(rest) == size else None
    if node.op_type in ("Squeeze", "Unsqueeze"):
        given = node.attributes["axes"].as_ints() if "axes" in node.attributes else sizes
        longer = node.op_type == "Unsqueeze"
        if not given:
            return None
        rank = 1 + len(row) + (len(given) if longer else 0)
        axes = {a % rank for a in given}
        if 0 in axes:
            return None
        if longer:
            rest_of = iter(row)
            return tuple(1 if a in axes else next(rest_of) for a in range(1, rank))
        return tuple(n for a, n in enumerate(row, 1) if a not in axes)
    return None


def find_ids(value: ir.Value, columns: Columns, found: dict[int, int], most: int = 0) -> None:
    """Find the columns of an input that index a table, also after operators that change their values.

    Args:
        columns: those of the input that `value` has, in order.
        found: gets each column that indexes, and how many rows the smallest table has.
        most: the largest number that was added to the columns.
    """
    for node, at in value.uses():
        if node.op_type == "Gather" and at == 1 and node.attributes.get_int("axis", 0) == 0:
            table = node.inputs[0]
            rows = table.shape[0] if table is not None and table.is_initializer() and table.shape else None
            if isinstance(rows, int):
                left = max(1, rows - most)
                found.update((c, min(left, found.get(c, left))) for c in columns)
        elif node.op_type == "Add" and (by := next((t for t in map(_tensor, node.inputs) if t), None)):
            find_ids(node.outputs[0], columns, found, most + max(0, int(np.max(by.numpy(), initial=0))))
        elif at == 0:
            parts = [columns] if node.op_type in _KEEPING else _chosen(node, columns)
            for part, output in zip(parts, node.outputs, strict=False):
                find_ids(output, part, found, most)


_KEEPING = {
    "Cast", "Identity", "Floor", "Ceil", "Round", "Clip", "Abs", "Relu", "Squeeze", "Unsqueeze", "Reshape",
    "Flatten", "Max", "Min",
}  # fmt: skip
"""Operators after which values come from the columns that they came from before."""


def _tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    return ir.convenience.get_const_tensor(value) if value is not None else None


def _constant(value: ir.Value | None) -> list[int] | None:
    """A constant's numbers; None where a value is none."""
    known = _tensor(value)
    return None if known is None else [int(i) for i in known.numpy().reshape(-1)]
