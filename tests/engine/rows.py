"""Rows of any format as values, and pools of ids from lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.engine.gather import Ids
from deeprecsys.zoo.rows import HEADER, RowFormat, format_of
from deeprecsys.zoo.schema import Table


def restore(table: Table, rows: NDArray[Any]) -> NDArray[np.float32]:
    """The values of a table in any format: float32 [rows, dim]."""
    form = format_of(table, rows)
    if form is RowFormat.FP32:
        return rows.copy()
    if form is RowFormat.BF16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    scale, bias = np.ascontiguousarray(rows[:, :HEADER]).view(np.float32).T
    codes = rows[:, HEADER : HEADER + table.dim].astype(np.float64)  # one rounding, as in the kernel
    return np.asarray(codes * scale[:, None] + bias[:, None], np.float32)


def jagged(values: NDArray[Any], lengths: NDArray[Any], weights: NDArray[np.float32] | None = None) -> Ids:
    """A pool from values [ids] and lengths [rows]."""
    return Ids(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), weights)
