"""Row formats of embedding tables: float32, bfloat16, and 8-bit codes with a scale and a bias per row.

A table's format follows from its array's dtype:

| format | array | a row |
|---|---|---|
| fp32 | float32 [rows, dim] | values |
| bf16 | uint16 [rows, dim] | the upper halves of values, rounded to nearest even |
| int8 | uint8 [rows, 8 + dim, rounded up to 8] | float32 scale and bias, then codes; code x scale + bias |
"""

from __future__ import annotations

from enum import StrEnum
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.schema import Table

HEADER = 8
"""Bytes before the codes of an int8 row: its scale and its bias, float32 each."""
_CHUNK = 1 << 18  # values converted at once, so that temporaries stay in cache


class RowFormat(StrEnum):
    """How a table's rows are stored; named as precisions are."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


_DTYPES: dict[RowFormat, type[np.generic]] = {
    RowFormat.FP32: np.float32,
    RowFormat.BF16: np.uint16,
    RowFormat.INT8: np.uint8,
}


def dtype(form: RowFormat) -> type[np.generic]:
    """The dtype of a table's array."""
    return _DTYPES[form]


def columns(form: RowFormat, dim: int) -> int:
    """Elements of that dtype in a row."""
    return -(-(HEADER + dim) // 8) * 8 if form is RowFormat.INT8 else dim


def row_bytes(form: RowFormat, dim: int) -> int:
    """Bytes of a row."""
    return columns(form, dim) * np.dtype(dtype(form)).itemsize


def format_of(table: Table, rows: NDArray[Any]) -> RowFormat:
    """The format of a table's rows; InputError if the array is none of the table's formats."""
    for form, kind in _DTYPES.items():
        if rows.dtype == kind and rows.shape == (table.rows, columns(form, table.dim)):
            return form
    wanted = ", ".join(
        f"{np.dtype(kind)} [{table.rows}, {columns(form, table.dim)}]" for form, kind in _DTYPES.items()
    )
    raise InputError(f"table {table.name!r}: expected one of {wanted}, got {rows.dtype} {list(rows.shape)}")


def convert(table: NDArray[np.float32], form: RowFormat, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """A float32 table in another format, converted piece by piece.

    Args:
        table: [rows, dim] float32, finite where the format is int8.
        out: where to write, [rows, columns(form, dim)] of `dtype(form)`; a new array if None.

    Raises:
        InputError: wrong arrays, or a value that int8 rows cannot hold.
    """
    if table.dtype != np.float32 or table.ndim != 2:
        raise InputError(f"table: expected float32 [rows, dim], got {table.dtype} {list(table.shape)}")
    rows, dim = table.shape
    shape = (rows, columns(form, dim))
    if out is None:
        out = np.empty(shape, dtype(form))
    if out.dtype != dtype(form) or out.shape != shape:
        raise InputError(
            f"out: expected {np.dtype(dtype(form))} {list(shape)}, got {out.dtype} {list(out.shape)}"
        )
    step = max(1, _CHUNK // max(dim, 1))
    for first in range(0, rows, step):
        piece, into = table[first : first + step], out[first : first + step]
        if form is RowFormat.FP32:
            into[...] = piece
        elif form is RowFormat.BF16:
            _to_bf16(piece, into)
        else:
            _quantise(piece, into, first)
    return out


def not_finite(values: NDArray[Any], infinite: bool = True) -> int:
    """How many numbers of an array are NaN, or `infinite`. It is read piece by piece, and not copied."""
    flat, count = values.reshape(-1), 0
    for at in range(0, flat.size, _CHUNK):
        piece = flat[at : at + _CHUNK]
        if not isfinite(np.einsum("i->", piece)):  # if a sum is finite, so are its terms
            bad = ~np.isfinite(piece) if infinite else np.isnan(piece)
            count += int(np.count_nonzero(bad))
    return count


def _to_bf16(values: NDArray[np.float32], out: NDArray[np.uint16]) -> None:
    bits = np.ascontiguousarray(values).view(np.uint32)
    upper = bits >> np.uint32(16)
    out[...] = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    strange = np.isnan(values)
    if strange.any():  # rounding could carry a NaN's payload into infinity or zero
        out[strange] = upper[strange] | np.uint32(0x40)


def _quantise(values: NDArray[np.float32], out: NDArray[np.uint8], first: int) -> None:
    low = values.min(axis=1, initial=np.inf)
    span = values.max(axis=1, initial=-np.inf).astype(np.float64) - low
    finite = np.isfinite(span)
    if not finite.all():
        raise InputError(f"table: row {first + int(finite.argmin())}: expected finite values for int8 rows")
    # A row of equal values has codes 0 whatever its scale.
    scale = np.where(span > 0, span / 255, 1.0).astype(np.float32)
    np.maximum(scale, np.finfo(np.float32).tiny, out=scale)
    header = np.stack([scale, low], axis=1).astype(np.float32)
    out[:, :HEADER] = header.view(np.uint8)
    codes = np.rint((values - low[:, None]) / scale[:, None])
    dim = values.shape[1]
    out[:, HEADER : HEADER + dim] = np.clip(codes, 0, 255)
    out[:, HEADER + dim :] = 0
