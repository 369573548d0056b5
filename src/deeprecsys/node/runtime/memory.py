"""What lies in a node's shared memory: tables, feature pool, scores, mailboxes. Each exists once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.node.runtime.mailbox import WORDS
from deeprecsys.node.runtime.segment import Segment, round_up
from deeprecsys.workload.features import FeatureLayout
from deeprecsys.zoo import model
from deeprecsys.zoo.custom import Own, adopt
from deeprecsys.zoo.custom.prepare import fill as fill_own
from deeprecsys.zoo.rows import RowFormat, columns, convert, dtype, row_bytes
from deeprecsys.zoo.schema import Schema
from deeprecsys.zoo.tables import fill_rows

_ALIGN = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What fixes the layout of a node's memory; every process of the node derives the same from it.

    Attributes:
        model: a model of the zoo; rows_scale: its tables' rows, as a factor.
        seed: of tables, weights and features.
        workers: how many mailboxes.
        max_query: the most items that one query may have.
        max_open: the most queries that can be open at once, each with a slot for its scores.
        locality: feature locality, `uniform` or `zipf:S`.
        llc_bytes: last-level cache; the pool touches at least eight times as much.
        pool_bytes: the most that the feature pool may take.
        rows: format of the tables' rows, `fp32`, `bf16` or `int8`; the same values, rounded. The features
            do not depend on it.
    """

    model: str
    rows_scale: float = 1.0
    seed: int = 0
    workers: int = 1
    max_query: int = 1024
    max_open: int = 16384
    locality: str = "zipf:0.9"
    llc_bytes: int = 32 << 20
    pool_bytes: int = 512 << 20
    rows: str = "fp32"

    def schema(self) -> Schema:
        return model(self.model).scaled(self.rows_scale).schema

    def features(self) -> FeatureLayout:
        return FeatureLayout.plan(
            self.schema(), self.max_query, self.llc_bytes, self.pool_bytes, self.locality
        )

    def table_offsets(self) -> dict[str, int]:
        """Byte offset of each table in the table segment, and the whole's size under the name ""."""
        return table_offsets(self.schema(), self.rows)

    def sizes(self) -> dict[str, int]:
        """Bytes of each segment. A user's own model is one, for the workers to know what was found out."""
        own = model(self.model)
        described = {"model": len(own.pack())} if isinstance(own, Own) else {}
        return {
            **described,
            "tables": self.table_offsets()[""],
            "features": self.features().size,
            "scores": self.max_open * self.max_query * self.schema().outputs * 4,
            "mail": self.workers * WORDS * 8,
        }


def table_offsets(schema: Schema, rows: str = RowFormat.FP32) -> dict[str, int]:
    """Byte offset of each table in one segment that holds them all, and its size under the name ""."""
    offsets, at = {}, 0
    for table in schema.tables:
        offsets[table.name] = at
        at = round_up(at + table.rows * row_bytes(RowFormat(rows), table.dim), _ALIGN)
    return {**offsets, "": at}


def table_arrays(schema: Schema, segment: Segment, rows: str = RowFormat.FP32) -> dict[str, NDArray[Any]]:
    """The tables of such a segment by name, as `zoo.rows` lays their rows out."""
    offsets, form = table_offsets(schema, rows), RowFormat(rows)
    return {
        t.name: segment.array(dtype(form), (t.rows, columns(form, t.dim)), offsets[t.name])
        for t in schema.tables
    }


def load_own(own: Own, segment: Segment, rows: str = RowFormat.FP32) -> None:
    """An own model's tables from its weights.

    Raises:
        InputError: the weights are not what they were when the model was described, or int8 cannot hold one.
    """
    offsets = table_offsets(own.schema)
    write_float32(own.schema, segment, rows, lambda weights: fill_own(own, weights.fd, offsets))


def write_float32(schema: Schema, segment: Segment, rows: str, write: Callable[[Segment], None]) -> None:
    """Have somebody write tables in float32, and keep them in a segment of the format asked for.

    Args:
        write: fills a segment laid out by `table_offsets(schema)`: the very one at fp32, else one that is
            dropped once its rows are converted.
    """
    if rows == RowFormat.FP32:
        write(segment)
        return
    wide = Segment.create("weights", table_offsets(schema)[""])
    try:
        write(wide)
        tables = table_arrays(schema, segment, rows)
        for name, table in table_arrays(schema, wide).items():
            convert(table, RowFormat(rows), out=tables[name])
    finally:
        wide.close()


class NodeMemory:
    """The segments of a node, mapped into this process, and the arrays in them."""

    def __init__(self, plan: Plan, segments: Mapping[str, Segment]) -> None:
        self.plan = plan
        self.segments = segments
        schema, layout = plan.schema(), plan.features()
        self.tables: dict[str, NDArray[Any]] = table_arrays(schema, segments["tables"], plan.rows)
        self.inputs: dict[str, NDArray[Any]] = layout.views(segments["features"].memory)
        self.scores: NDArray[Any] = segments["scores"].array(
            np.float32, (plan.max_open, plan.max_query, schema.outputs)
        )
        self.rows_at: Callable[[int], dict[str, int]] = layout.rows_at
        self._mail = segments["mail"].words()

    @classmethod
    def create(cls, plan: Plan, progress: Callable[[str, float], None] | None = None) -> NodeMemory:
        """New memory, tables and features filled from the plan's seed.

        Raises:
            InputError: it would not fit in what the machine has free.
        """
        need, free = sum(plan.sizes().values()), available_bytes()
        if need > 0.9 * free:  # the rest is for the processes themselves
            raise InputError(
                f"tables of {plan.model}: {need / 2**30:.1f} GiB do not fit in {free / 2**30:.1f} GiB free: "
                f"expected a smaller --rows-scale, got {plan.rows_scale:g}"
            )
        segments: dict[str, Segment] = {}
        try:
            for name, size in plan.sizes().items():
                segments[name] = Segment.create(name, size)
            memory = cls(plan, segments)
            memory._fill(progress or (lambda _what, _share: None))
        except BaseException:
            for segment in segments.values():
                segment.close()
            raise
        return memory

    @classmethod
    def attach(cls, plan: Plan, fds: Mapping[str, int]) -> NodeMemory:
        """A worker's maps of a node's memory: tables and features read-only."""
        if fd := fds.get("model"):
            adopt(os.pread(fd, os.fstat(fd).st_size, 0))
        writable = {"scores", "mail"}
        return cls(plan, {n: Segment(fds[n], size, n in writable) for n, size in plan.sizes().items()})

    def _fill(self, progress: Callable[[str, float], None]) -> None:
        total = sum(t.nbytes for t in self.tables.values()) + self.segments["features"].size
        done = 0
        own = model(self.plan.model)
        weighted = isinstance(own, Own) and bool(own.keys)
        for name in ("tables", "features"):
            progress("reserving memory", 0.0)
            self.segments[name].collapse()
        if isinstance(own, Own):
            self.segments["model"].memory.raw = own.pack()
            if weighted:
                progress("loading weights", 0.0)
                load_own(own, self.segments["tables"], self.plan.rows)
        for i, table in enumerate(self.plan.schema().tables if not weighted else ()):
            rows = self.tables[table.name]
            fill_rows(table, rows, seed=(self.plan.seed, i))
            done += rows.nbytes
            progress(f"filling table {table.name}", done / total)
        self.plan.features().fill(self.segments["features"].memory, self.plan.seed)
        progress("filling features", 1.0)

    def mailbox(self, worker: int) -> memoryview:
        return self._mail[worker * WORDS : (worker + 1) * WORDS]

    @property
    def fds(self) -> dict[str, int]:
        return {name: s.fd for name, s in self.segments.items()}

    def close(self) -> None:
        """Drop the segments. The arrays must not be used afterwards."""
        self.tables, self.inputs = {}, {}
        for segment in self.segments.values():
            segment.close()


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    with open("/proc/meminfo") as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith("MemAvailable:"))
