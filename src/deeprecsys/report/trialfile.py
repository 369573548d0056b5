"""A trial's raw records as Parquet: one row per query, and in a second file one row per slice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprecsys.core.runlog import RunLog
from deeprecsys.report.document import Document
from deeprecsys.report.documents import TrialExtra
from deeprecsys.report.json_values import dumps, restored
from deeprecsys.report.slices import TYPES as SLICE_TYPES
from deeprecsys.report.slices import Slices, columns_of
from deeprecsys.workload.stream import most_queries

if TYPE_CHECKING:  # of the extra `engine`; it takes a moment to load
    import pyarrow as pa
    import pyarrow.parquet as pq

KEY = b"deeprecsys"
QUERY_TYPES = columns_of(RunLog)
LARGEST = 1e12
"""Beyond all rates, in queries per second, and all times, in seconds."""
LONGEST_TEXT = 40
_SCALARS = ("rate_qps", "busy_s", "workers", "warmup_s")


class TrialMetadata(Document):
    """The metadata in the file of a trial."""

    rate_qps: float | None = None
    busy_s: float | None = None
    workers: int | None = None
    warmup_s: float | None = None
    extra: TrialExtra | None = None
    about: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One kept trial.

    Attributes:
        name: of its file.
        log: what happened to every query.
        slices: what happened to every slice; None where that was not recorded.
        about: policy, role, engine, seed, as the writer gave them.
    """

    name: str
    log: RunLog
    slices: Slices | None = None
    about: dict[str, Any] = field(default_factory=dict)


class DamagedError(ValueError):
    """A file that is there and cannot be read; the message says why in plain words."""


def write_queries(path: Path, log: RunLog, about: dict[str, Any]) -> None:
    """Write a run log; the file appears whole or not at all."""
    scalars = {name: getattr(log, name) for name in _SCALARS}
    columns: dict[str, np.ndarray[Any, Any]] = {
        name: np.asarray(getattr(log, name), t) for name, t in QUERY_TYPES.items()
    }
    _write(path, columns, {**scalars, "extra": log.observed(), "about": about})


def write_slices(path: Path, slices: Slices) -> None:
    """Write the slices of a trial."""
    _write(path, {name: np.asarray(getattr(slices, name)) for name in SLICE_TYPES}, {})


def read_queries(path: Path) -> tuple[RunLog, dict[str, Any]]:
    """A run log, and what its writer gave as `about`.

    Raises:
        DamagedError: the file is cut short, or not one of ours.
    """
    table, meta = _read(path, QUERY_TYPES)
    columns: dict[str, Any] = {name: _column(table, name, t) for name, t in QUERY_TYPES.items()}
    found = TrialMetadata.from_json(meta, "metadata")
    scalars: dict[str, Any] = {name: getattr(found, name) for name in _SCALARS}
    if found.has("busy_s") and found.busy_s is None:
        scalars["busy_s"] = math.nan  # of a server that is loaded from outside it is not known
    missing = [name for name, value in {**scalars, "extra": found.extra}.items() if value is None]
    if missing or found.extra is None:
        raise DamagedError(f"lacks the metadata {', '.join(missing)}")
    if not 0 <= scalars["rate_qps"] < LARGEST or not 0 <= scalars["warmup_s"] < LARGEST:
        raise DamagedError("has a rate or a warm-up that no trial can have")
    if scalars["workers"] < 1:
        raise DamagedError("has no workers")
    return RunLog(**columns, **scalars).observing(found.extra.to_json()), dict(found.about or {})


def read_slices(path: Path, queries: int) -> Slices:
    """The slices of a trial.

    Args:
        queries: how many the trial has.

    Raises:
        DamagedError: the file is cut short, or not one of ours, or of another trial.
    """
    table, _ = _read(path, SLICE_TYPES)
    slices = Slices(**{name: _column(table, name, t) for name, t in SLICE_TYPES.items()})
    if len(slices) and not 0 <= slices.query.min() <= slices.query.max() < queries:
        raise DamagedError("has slices of queries that are not in the trial")
    return slices


def _write(path: Path, columns: dict[str, np.ndarray[Any, Any]], meta: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: pa.array(values) for name, values in columns.items()}
    for name, values in columns.items():
        if values.dtype.kind == "U":
            arrays[name] = pa.array(values.tolist(), pa.string()).dictionary_encode()
    table = pa.table(arrays).replace_schema_metadata({KEY: dumps(meta).encode()})
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def _read(path: Path, types: Mapping[str, type]) -> tuple[pa.Table, dict[str, Any]]:
    """The columns of these types that a file has, and its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [name for name, kind in types.items() if kind is np.str_]
    try:
        # Not memory-mapped: a file cut short while it is read must not end the process.
        with pq.ParquetFile(path, memory_map=False, read_dictionary=texts) as file:
            _check_size(file.metadata, file.schema_arrow, types)
            # One column at a time: a page may claim two gigabytes.
            table = file.read([name for name in types if name in file.schema_arrow.names], use_threads=False)
        meta = restored(json.loads((table.schema.metadata or {}).get(KEY, b"null")))
    except (pa.ArrowException, OSError, ValueError) as e:
        raise DamagedError(f"cannot be read ({_first_line(e)})") from e
    if not isinstance(meta, dict):
        raise DamagedError("was not written by deeprecsys: it lacks its metadata")
    return table, meta


def _check_size(metadata: pq.FileMetaData, schema: pa.Schema, types: Mapping[str, type]) -> None:
    """Raise ValueError for what is large once it is decompressed: a few bytes may be any number of rows."""
    if metadata.num_rows > (most := most_queries()):
        raise ValueError(f"{metadata.num_rows} rows, and memory for {most}")
    for name in types:
        if name in schema.names and not _flat(schema.field(name).type):
            raise ValueError(f"column {name} is of type {schema.field(name).type}")


def _flat(kind: pa.DataType) -> bool:
    """Whether a value of a type takes a few bytes; texts are kept once."""
    import pyarrow as pa

    return bool(pa.types.is_primitive(kind) or pa.types.is_dictionary(kind))


def _column(table: pa.Table, name: str, kind: type) -> np.ndarray[Any, Any]:
    if name not in table.column_names:
        raise DamagedError(f"lacks the column {name}")
    column = table.column(name)
    if kind is np.str_:
        found = column.to_pylist()
        if any(not isinstance(text, str) or len(text) > LONGEST_TEXT for text in found):
            raise DamagedError(
                f"column {name} cannot be read (it has no text of at most {LONGEST_TEXT} characters)"
            )
        return np.array(found, dtype=np.str_)
    try:
        return np.array(column.to_numpy(), dtype=kind)
    except (ValueError, TypeError) as e:
        raise DamagedError(f"column {name} cannot be read ({_first_line(e)})") from e


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:120] if text else type(error).__name__
