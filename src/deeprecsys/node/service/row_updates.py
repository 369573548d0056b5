"""New rows for tables that are being read: checked, converted, written a few at a time (`row_gate`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.node.runtime.tables import table_arrays
from deeprecsys.node.runtime.workers import Workers
from deeprecsys.node.service.backend import Reason, RefusedError
from deeprecsys.node.service.hosted_model import UNLOADED, HostedModel
from deeprecsys.zoo.rows import RowFormat, columns, convert, dtype, not_finite
from deeprecsys.zoo.schema import Schema

WAITING = 4
"""Calls that may wait for another's rows to be written."""
STEP_BYTES = 1 << 15
"""Rows that are written at once: some ten microseconds, in which no batch can begin to read."""
AGAIN_S = 0.1


class NewRows(NamedTuple):
    """New rows of one table: ids, int64 [n], and values, float32 [n, dim]."""

    ids: NDArray[np.int64]
    values: NDArray[np.float32]


class RowUpdates:
    """Writes rows of a service's models, one call after the other, in a thread of its own."""

    def __init__(self, workers: Workers) -> None:
        self._writer = workers.rows
        self._writing, self._waiting = asyncio.Lock(), 0
        self._pool = ThreadPoolExecutor(1)

    async def write(self, s: HostedModel, rows: Mapping[str, NewRows]) -> int:
        """See `Service.write_rows`."""
        self._writer.check()
        if s.config.gpu:
            raise InputError(
                f"rows of {s.name}: expected a model without an accelerator, which has a copy of them"
            )
        if self._waiting > WAITING:
            raise RefusedError(Reason.OVERLOAD, f"{self._waiting} calls with rows are open already", AGAIN_S)
        self._waiting += 1
        try:
            async with self._writing:
                if not s.current.ready:
                    raise RefusedError(Reason.NOT_READY, f"{s.name}: {UNLOADED}", AGAIN_S)
                tables = (
                    s.current.tables.share()
                )  # it must outlive its version, if that is replaced meanwhile
                form = RowFormat(s.config.precision)
                work = self._pool.submit(self._write, tables, s.arena.schema, form, rows)
                work.add_done_callback(lambda _: tables.close())
                return await asyncio.wrap_future(work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Write no more; what is being written is written first."""
        self._pool.shutdown(cancel_futures=True)

    def _write(self, segment: Segment, schema: Schema, form: RowFormat, rows: Mapping[str, NewRows]) -> int:
        for name, new in rows.items():
            check_rows(schema, name, new)
        tables = table_arrays(schema, segment, form)
        for name, new in rows.items():
            values = np.empty((len(new.ids), columns(form, new.values.shape[1])), dtype(form))
            convert(new.values, form, values)
            table = tables[name]
            for some in _steps(len(values), values.strides[0]):
                ids, part = new.ids[some], values[some]
                table[ids]  # have them in the cache before anybody is held back
                self._writer.write(lambda t=table, i=ids, v=part: t.__setitem__(i, v))  # type: ignore[misc]
        return sum(len(new.ids) for new in rows.values())


def check_rows(schema: Schema, name: str, new: NewRows) -> None:
    """Raise InputError unless rows can be those of a table."""
    known = {t.name: t for t in schema.tables}
    if name not in known:
        raise unknown("table", name, known)
    table, (ids, values) = known[name], new
    if values.shape != (len(ids), table.dim):
        raise InputError(
            f"table {name!r}: expected {len(ids)} rows of {table.dim} values, one for each id, got "
            f"{list(values.shape)}"
        )
    wrong = (ids < 0) | (ids >= table.rows)
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(f"table {name!r}: id {at}: expected one in 0 … {table.rows - 1}, got {ids[at]}")
    if count := not_finite(values):
        raise InputError(
            f"table {name!r}: expected finite numbers, got {count} that are infinite or NaN, of {values.size}"
        )


def _steps(rows: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, STEP_BYTES // max(row_bytes, 1))
    return (slice(at, at + step) for at in range(0, rows, step))
