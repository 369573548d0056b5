"""The embedding tables of a model in one segment: where each lies, and what fills them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.memory import available_bytes
from deeprecsys.node.runtime.segment import Segment, round_up
from deeprecsys.zoo import Model, model
from deeprecsys.zoo.custom import Own
from deeprecsys.zoo.custom.prepare import fill as fill_own
from deeprecsys.zoo.rows import RowFormat, columns, convert, dtype, not_finite, row_bytes
from deeprecsys.zoo.schema import Schema
from deeprecsys.zoo.tables import fill_rows

ALIGN = 64
FREE_SHARE = 0.9
"""Share of the free memory that tables may take; the rest is for the processes themselves."""

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One version of a model's weights.

    Attributes:
        seed: of the dense stage, and of the tables where `fill` does not write them.
        model: another model of the same schema, whose dense stage is taken; None for the served one's own.
        fill: writes the tables, float32 [rows, dim] by name; called in a thread of its own. None fills them
            from the seed.
        dense: returns the dense stage's weights, a file of `zoo.tensor_file`; called in that thread. None
            takes the model's.
        keep_tables: the tables stay those of the version that serves.
    """

    seed: int = 0
    model: str | None = None
    fill: Callable[[Mapping[str, NDArray[Any]]], None] | None = None
    dense: Callable[[], bytes] | None = None
    keep_tables: bool = False


def table_offsets(schema: Schema, rows: str = RowFormat.FP32) -> dict[str, int]:
    """Byte offset of each table in one segment that holds them all, and its size under the name ""."""
    offsets, at = {}, 0
    for table in schema.tables:
        offsets[table.name] = at
        at = round_up(at + table.rows * row_bytes(RowFormat(rows), table.dim), ALIGN)
    return {**offsets, "": max(at, ALIGN)}  # a segment is never empty


def table_arrays(schema: Schema, segment: Segment, rows: str = RowFormat.FP32) -> dict[str, NDArray[Any]]:
    """The tables of such a segment by name, as `zoo.rows` lays their rows out."""
    offsets, form = table_offsets(schema, rows), RowFormat(rows)
    return {
        t.name: segment.array(dtype(form), (t.rows, columns(form, t.dim)), offsets[t.name])
        for t in schema.tables
    }


def load_tables(
    name: str, rows_scale: float, rows: str, weights: Weights, progress: Progress, more_bytes: int = 0
) -> Segment:
    """A new segment with the tables of one version of a model's weights.

    Args:
        name: the model's; rows_scale: factor on its tables' rows; rows: their format (`zoo.rows`).
        more_bytes: bytes that will be filled in addition to the tables.

    Raises:
        InputError: not enough memory is free, an own model's weights cannot be read, or what was written is
            not finite.
    """
    source = model(name)
    built = source.scaled(rows_scale)
    schema = built.schema
    write = _writer(source, schema, weights, progress)
    wide_bytes = table_offsets(schema)[""] if write and rows != RowFormat.FP32 else 0
    size = table_offsets(schema, rows)[""]
    need, free = size + wide_bytes + more_bytes, available_bytes()
    if need > FREE_SHARE * free:
        raise InputError(
            f"tables of {name}: {need / 2**30:.1f} GiB do not fit in {free / 2**30:.1f} GiB free: "
            f"expected a smaller --rows-scale, got {rows_scale:g}"
        )
    segment = Segment.create("tables", size)
    try:
        progress("reserving memory", 0.0)
        segment.collapse()
        if write:
            _write_float32(name, schema, segment, rows, write)
        else:
            _fill_from_seed(schema, segment, rows, weights.seed, progress)
    except BaseException:
        segment.close()
        raise
    return segment


def check_copies(name: str, workers: int) -> None:
    """Raise InputError if an own model's dense stage, a copy for each worker, does not fit in memory."""
    own = model(name)
    if not isinstance(own, Own):
        return
    each, free = len(own.graph) * (2 if own.merged else 1), available_bytes()
    need = workers * each
    if need > FREE_SHARE * free:
        raise InputError(
            f"model {name}: {workers} workers, each with its own copy of {each / 2**30:.2f} GiB, "
            f"do not fit in {free / 2**30:.1f} GiB free: expected fewer --workers"
        )


def _writer(
    source: Model | Own, schema: Schema, weights: Weights, progress: Progress
) -> Callable[[Segment], None] | None:
    """What writes the tables as float32; None where they are filled from the seed."""
    if fill := weights.fill:
        return lambda into: fill(table_arrays(schema, into))
    if isinstance(source, Own) and source.keys:
        progress("loading weights", 0.0)
        return lambda into: fill_own(source, into.fd, table_offsets(source.schema))
    return None


def _write_float32(
    name: str, schema: Schema, segment: Segment, rows: str, write: Callable[[Segment], None]
) -> None:
    """Have tables written as float32, and keep them in a segment of the format asked for.

    Args:
        write: fills a segment laid out by `table_offsets(schema)`: `segment` itself at fp32, else one that
            is dropped once its rows are converted.

    Raises:
        InputError: a value is infinite or NaN.
    """

    def written(into: Segment) -> Mapping[str, NDArray[Any]]:
        write(into)
        found = table_arrays(schema, into)
        for table, values in found.items():
            if count := not_finite(values):
                raise InputError(
                    f"weights of {name}: table {table!r}: expected finite numbers, got {count} that are "
                    f"infinite or NaN, of {values.size}"
                )
        return found

    if rows == RowFormat.FP32:
        written(segment)
        return
    wide = Segment.create("weights", table_offsets(schema)[""])
    try:
        tables = table_arrays(schema, segment, rows)
        for table, values in written(wide).items():
            convert(values, RowFormat(rows), out=tables[table])
    finally:
        wide.close()


def _fill_from_seed(schema: Schema, segment: Segment, rows: str, seed: int, progress: Progress) -> None:
    tables, done = table_arrays(schema, segment, rows), 0
    for i, table in enumerate(schema.tables):
        progress(f"filling table {table.name}", done / segment.size)
        fill_rows(table, tables[table.name], seed=(seed, i))
        done += tables[table.name].nbytes
