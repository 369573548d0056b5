"""From a schema and its arrays to the input blocks that the kernel reads; all shapes are checked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.engine.gather import control as f
from deeprecsys.engine.gather.pool import BagKind, pooling
from deeprecsys.zoo.jagged import Ids, InputRows
from deeprecsys.zoo.rows import format_of, row_bytes
from deeprecsys.zoo.schema import DenseInput, Input, Per, Pooling, Schema, SparseInput

_APART = (Pooling.CONCAT, Pooling.SEQUENCE)


@dataclass(frozen=True)
class InputPlan:
    """What one input reads and writes, its arrays kept alive.

    Attributes:
        block: its words, as in `control`.
        ids: its pool; None for a dense input.
        out_rows: rows that its output has room for.
        keep: the arrays whose addresses are in the block.
    """

    name: str
    per: Per
    block: NDArray[np.int64]
    ids: Ids | None
    out_rows: int
    keep: tuple[Any, ...]


def plan(
    schema: Schema,
    tables: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, InputRows],
    outputs: Mapping[str, NDArray[np.float32]],
) -> tuple[InputPlan, ...]:
    """A plan for each sparse input, and for each dense one that has an output, in the schema's order.

    Raises:
        InputError: an array is missing or has not the shape, type or layout that the schema asks for.
    """
    plans = []
    for i in schema.inputs:
        if isinstance(i, DenseInput) and i.name not in outputs:
            continue
        pool, out = _found("input", i, inputs), _found("output", i, outputs)
        plans.append(
            _dense(i, pool, out) if isinstance(i, DenseInput) else _sparse(i, schema, tables, pool, out)
        )
    return tuple(plans)


def _found(kind: str, i: Input, arrays: Mapping[str, Any]) -> Any:
    if i.name not in arrays:
        raise InputError(f"{kind} {i.name!r}: expected an array, got none")
    return arrays[i.name]


def _dense(i: DenseInput, pool: Any, out: NDArray[np.float32]) -> InputPlan:
    block = _block()
    _expect(f"input {i.name!r}", pool, (np.float32,), (None, i.width))
    _expect_whole(f"input {i.name!r}", pool)
    _expect(f"output {i.name!r}", out, (np.float32,), (None, i.width), rows_apart=True)
    _put(block, f.POOL_START, pool.ctypes.data, f.POOL_ROWS, len(pool), f.PER_QUERY, i.per is Per.QUERY)
    _put(block, f.OUT, out.ctypes.data, f.OUT_STRIDE, out.strides[0], f.ROW_SIZE, 4 * i.width)
    return InputPlan(i.name, i.per, block, None, len(out), (pool, out))


def _sparse(
    i: SparseInput,
    schema: Schema,
    tables: Mapping[str, NDArray[Any]],
    pool: InputRows,
    out: NDArray[np.float32],
) -> InputPlan:
    table = schema.table(i.table)
    if i.table not in tables:
        raise InputError(f"table {i.table!r}: expected an array, got none")
    rows = tables[i.table]
    form = format_of(table, rows)
    if rows.strides[1] != rows.itemsize or rows.strides[0] < 0:
        raise InputError(f"table {i.table!r}: expected rows that are contiguous, got strides {rows.strides}")
    if not table.rows:
        raise InputError(f"table {i.table!r}: expected at least one row, got none")
    ids = pool if isinstance(pool, Ids) else Ids(pool)
    block = _block()
    _put_ids(block, i, ids)
    size, stride, start = row_bytes(form, table.dim), rows.strides[0], rows.ctypes.data
    _put(block, f.TABLE, start, f.TABLE_ROWS, table.rows, f.ROW_STRIDE, stride)
    lines = _lines(start, stride, size)
    _put(block, f.ROW_LINES, lines, f.ROW_REACH, size - 1)
    spread = _put_output(block, i, table.dim, out) != 0
    weighted, width = ids.weights is not None, ids.values.itemsize
    kind = BagKind(table.dim, form.value, spread, weighted, width, stride, lines)
    _put(block, f.FUNCTION, pooling(kind))
    return InputPlan(i.name, i.per, block, ids, len(out), (rows, ids, out))


def _lines(start: int, stride: int, size: int) -> int:
    """The most cache lines that a row touches. Where rows begin in their lines repeats after `LINE` rows."""
    begins = {(start + k * stride) % f.LINE for k in range(f.LINE)}
    return (max(begins) + size - 1) // f.LINE + 1


def _put_ids(block: NDArray[np.int64], i: SparseInput, ids: Ids) -> None:
    name = f"input {i.name!r}"
    kinds, values = (np.int32, np.int64), ids.values
    _expect(name, values, kinds, (None, i.lookups) if ids.offsets is None else (None,))
    _expect_whole(name, values)
    pool_rows = len(values)
    if ids.offsets is not None:
        _expect(f"{name}: offsets", ids.offsets, (np.int64,), (None,))
        _expect_whole(f"{name}: offsets", ids.offsets)
        pool_rows = len(ids.offsets) - 1
        _put(block, f.OFFSETS, ids.offsets.ctypes.data, f.ID_COUNT, len(values))
    if ids.weights is not None:
        if i.pooling is Pooling.MEAN:
            raise InputError(f"{name}: weights: expected none with pooling mean, got some")
        _expect(f"{name}: weights", ids.weights, (np.float32,), values.shape)
        _expect_whole(f"{name}: weights", ids.weights)
        _put(block, f.WEIGHTS, ids.weights.ctypes.data)
    _put(block, f.POOL_START, values.ctypes.data, f.POOL_ROWS, pool_rows, f.ID_SIZE, values.itemsize)
    _put(block, f.LOOKUPS, i.lookups, f.MEAN, i.pooling is Pooling.MEAN, f.PER_QUERY, i.per is Per.QUERY)


def _put_output(block: NDArray[np.int64], i: SparseInput, dim: int, out: NDArray[np.float32]) -> int:
    """Fill in the output's words; bytes between a row's look-ups, 0 where they are pooled into one."""
    name, apart = f"output {i.name!r}", i.pooling in _APART
    if apart and out.ndim == 3:
        _expect(name, out, (np.float32,), (None, i.lookups, dim), rows_apart=True)
        step = out.strides[1]
    else:
        _expect(name, out, (np.float32,), (None, i.lookups * dim if apart else dim), rows_apart=True)
        step = 4 * dim if apart else 0
    if not out.flags.writeable:
        raise InputError(f"{name}: expected a writable array")
    _put(block, f.OUT, out.ctypes.data, f.OUT_STRIDE, out.strides[0], f.OUT_STEP, step, f.ROW_SIZE, 4 * dim)
    return step


def _block() -> NDArray[np.int64]:
    return np.zeros(f.INPUT_SIZE // 8, np.int64)


def _put(block: NDArray[np.int64], *pairs: int) -> None:
    """Field, value, field, value, …"""
    for field, value in zip(pairs[::2], pairs[1::2], strict=True):
        block[field // 8] = value


def _expect(
    name: str,
    array: Any,
    kinds: tuple[type[np.generic], ...],
    shape: tuple[int | None, ...],
    rows_apart: bool = False,
) -> None:
    """An array of one of the types and of the shape (None: any length); the last axis contiguous."""
    if isinstance(array, np.ndarray) and array.dtype in kinds and array.ndim == len(shape):
        fits = all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
        if fits and (array.strides[-1] == array.itemsize or array.shape[-1] <= 1):
            return
    wanted = " or ".join(str(np.dtype(k)) for k in kinds)
    sides = ", ".join("rows" if n is None else str(n) for n in shape)
    got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
    if isinstance(array, np.ndarray) and not array.flags.c_contiguous:
        got += f" with strides {array.strides}"
    rest = ", its last axis contiguous" if rows_apart else ""
    raise InputError(f"{name}: expected {wanted} [{sides}]{rest}, got {got}")


def _expect_whole(name: str, array: NDArray[Any]) -> None:
    if not array.flags.c_contiguous:
        raise InputError(f"{name}: expected a C-contiguous array, got strides {array.strides}")
