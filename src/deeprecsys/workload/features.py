"""The feature pool: pre-generated features of a model, in one buffer that all workers can map.

A query carries a 64-bit handle; the handle fixes, by arithmetic alone, the first pool row of each
input, so that every part of a query reads other rows (docs/facts.md §3) and nothing else crosses to a worker.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.core.work import ItemWork
from deeprecsys.workload.lengths import HEAVY, Lengths
from deeprecsys.workload.lengths import parse as parse_lengths
from deeprecsys.workload.locality import Locality, Scatter, parse
from deeprecsys.workload.stream import RandomStream, generator
from deeprecsys.workload.work import ALL_LOOKUPS, PoolWork
from deeprecsys.zoo.jagged import Ids, InputRows, offsets_of
from deeprecsys.zoo.schema import DenseInput, Input, Per, Schema, SparseInput, is_jagged, put_ids

ALIGN = 64
LLC_FACTOR = 8
"""Unique row bytes that a pool aims to touch, in last-level caches (docs/facts.md §3)."""
WHOLE = 0.98
"""The share of tables that counts as all of them: random ids touch the last rows only in the limit."""
MARGIN = 1.01
"""Factor on the goal, so that chance does not leave a pool short of it."""
SLACK = 1.5
"""Ids of a jagged input in a pool for which there is room, over the number expected."""
FEW = 8
"""Rows of the greatest length for which there is room besides: in a small pool chance counts."""
_BLOCK = 1 << 17  # elements drawn from one generator; part of what a seed means


@dataclass(frozen=True, slots=True)
class PoolArray:
    """Where one input's rows lie in the buffer.

    Attributes:
        offset: in bytes, a multiple of 64.
        rows, columns: the array's shape; columns are the width or the look-ups.
        table: the embedding table, None for a dense input.
        table_rows: rows of that table, 0 for a dense input.
        span: first rows lie in 0 … span - 1.
        ids: columns of a dense input that hold ids (`DenseInput.ids`).
        fields: of a sparse input's look-ups (`SparseInput.fields`).
        jagged: the input, where its rows have different numbers of ids; `columns` are their mean then.
    """

    name: str
    offset: int
    rows: int
    columns: int
    table: str | None
    table_rows: int
    span: int
    ids: tuple[tuple[int, int], ...] = ()
    fields: tuple[tuple[int, int], ...] = ()
    jagged: SparseInput | None = None

    @property
    def bytes(self) -> int:
        if self.jagged is None:
            return self.rows * self.columns * 4
        return 8 * (self.rows + 1) + self.most_ids * 4 * (1 + self.jagged.weighted)

    @property
    def most_ids(self) -> int:
        """Ids that all rows of a jagged input have at most: chance takes the mean of few rows above that of
        many."""
        if self.jagged is None:
            return self.rows * self.columns
        return int(SLACK * self.rows * self.columns) + FEW * self.jagged.lookups

    @property
    def dtype(self) -> type[np.float32] | type[np.int32]:
        return np.int32 if self.table else np.float32


@dataclass(frozen=True)
class Touched:
    """Embedding rows that a pool, or a trial on it, looks up at least once."""

    bytes: int
    table_bytes: int
    rows: Mapping[str, int]

    @property
    def fraction(self) -> float:
        """Share of the tables' bytes that is touched."""
        return self.bytes / self.table_bytes if self.table_bytes else 0.0


@dataclass(frozen=True)
class FeatureLayout:
    """The plan of a feature pool: pure, the same in every process that computes it.

    Attributes:
        arrays: one per input of the schema, in its order.
        max_items: the largest query that the pool can serve.
        size: bytes of the whole buffer.
        locality: `uniform` or `zipf:S`.
        lookups: how many ids the rows of jagged inputs have (`lengths.parse`).
        goal_bytes: unique row bytes that were aimed at.
        expected_bytes: unique row bytes that the pool is expected to touch; less than the goal
            where `max_bytes` did not allow more rows.
    """

    arrays: tuple[PoolArray, ...]
    max_items: int
    size: int
    locality: str
    goal_bytes: int
    expected_bytes: int
    lookups: str = HEAVY

    @classmethod
    def plan(
        cls,
        schema: Schema,
        max_items: int,
        llc_bytes: int,
        max_bytes: int = 512 << 20,
        locality: str = "zipf:0.9",
        lookups: str = HEAVY,
    ) -> FeatureLayout:
        """The smallest pool whose ids touch 8 × `llc_bytes` of embedding rows, or the whole of the tables.

        Every per-item input has at least 2 × `max_items` rows. Dense inputs get 4 × if that takes no
        more than a quarter of `max_bytes`: what they hold does not matter to caches, only its bytes.

        Raises:
            InputError: the least pool exceeds `max_bytes`, or the locality is unknown.
        """
        law, lengths = parse(locality), parse_lengths(lookups)
        fewest, most = 2 * max_items, (max_bytes - len(schema.inputs) * ALIGN)
        dense_row = sum(i.bytes for i in schema.dense)
        dense_rows = 4 * max_items if 4 * max_items * dense_row <= max_bytes // 4 else fewest
        # Spans differ from input to input, so an array has up to len(inputs) more rows than asked.
        slack = len(schema.inputs)
        most -= (dense_rows + slack) * dense_row
        sparse_row = sum(
            round(SLACK * (8 + 8 * lengths.mean(i.mean_lookups, i.lookups))) if i.jagged else i.bytes
            for i in schema.sparse
        )
        limit = most // sparse_row - slack if sparse_row else fewest
        if limit < fewest or most < 0:
            least = (fewest + slack) * (dense_row + sparse_row) + slack * ALIGN
            raise InputError(
                f"feature pool: max_bytes: expected at least {least} for queries of {max_items} items, "
                f"got {max_bytes}"
            )
        goal = min(LLC_FACTOR * llc_bytes, int(WHOLE * schema.table_bytes))
        rows = _fewest_rows(schema, law, int(MARGIN * goal), fewest, limit)
        arrays, size = _place(schema, max_items, rows, dense_rows, lengths)
        expected = int(_expected_bytes(schema, law, rows))
        return cls(arrays, max_items, size, law.spec, goal, expected, lengths.spec)

    def views(self, buffer: Any) -> dict[str, InputRows]:
        """The arrays in `buffer`, by input name: float32 [rows, width], int32 [rows, lookups], or `Ids`."""
        return {a.name: _view(a, buffer) for a in self.arrays}

    def lengths(self, seed: int) -> dict[str, NDArray[np.int32]]:
        """[rows] ids of each row of the jagged inputs, by name: what `fill` writes for the same seed.

        Raises:
            InputError: chance gave a small pool far more ids than its law has on average.
        """
        law, jagged = parse_lengths(self.lookups), [a for a in self.arrays if a.jagged]
        rows = max((a.rows for a in jagged), default=0)
        draw = partial(generator, seed, RandomStream.POOL, 2)
        item, query = draw(0).standard_normal(rows), draw(1).standard_normal(-(-rows // self.max_items))
        found = {}
        for a in jagged:
            assert a.jagged is not None
            own = draw(2, _key(a.name)).standard_normal(a.rows)
            mean = a.jagged.mean_lookups
            found[a.name] = lengths = law.of(
                own, item[: a.rows], query, self.max_items, mean, a.jagged.lookups
            )
            if int(lengths.sum()) > a.most_ids:
                raise InputError(
                    f"lookups {law.spec[:80]}: expected a mean of at most {SLACK * a.columns:g} ids in "
                    f"{a.rows} rows of input {a.name!r}, got {lengths.mean():g}"
                )
        return found

    def work(self, schema: Schema, seed: int) -> PoolWork | None:
        """The work of a pool that is filled from a seed; None where all items are alike."""
        jagged = [a for a in self.arrays if a.jagged and a.jagged.per is Per.ITEM]
        if not jagged:
            return None
        lengths = self.lengths(seed)
        before = offsets_of(np.stack([lengths[a.name] for a in jagged]).sum(axis=0))
        return PoolWork(before, jagged[0].span, ItemWork(schema.item_lookups, ALL_LOOKUPS))

    def fill(self, buffer: Any, seed: int, threads: int | None = None) -> None:
        """Write the features of `seed` into a buffer of `size` bytes.

        Dense values are standard normal, but for columns of ids; ids follow the locality, scattered over
        each table by a permutation of its own. The result does not depend on the number of threads, and an
        input's rows depend neither on other inputs nor on how many rows there are.

        Args:
            threads: as many as this process has cores if None.
        """
        views = self.views(buffer)
        law = parse(self.locality)
        tables = {a.table: a.table_rows for a in self.arrays if a.table}
        scatters = {
            t: Scatter.draw(generator(seed, RandomStream.POOL, 0, _key(t)), rows)
            for t, rows in tables.items()
        }

        for name, lengths in self.lengths(seed).items():
            ids = views[name]
            assert isinstance(ids, Ids)
            ids.begins[:] = offsets_of(lengths)
            if ids.weights is not None:
                rng = generator(seed, RandomStream.POOL, 3, _key(name))
                rng.random(dtype=np.float32, out=ids.weights)

        def block(job: tuple[PoolArray, int, int]) -> None:
            array, index, step = job
            whole = views[array.name]
            rows = (whole.values if isinstance(whole, Ids) else whole)[index * step : (index + 1) * step]
            out = rows.reshape(-1)
            rng = generator(seed, RandomStream.POOL, 1, _key(array.name), index)
            if array.table is None:
                rng.standard_normal(dtype=np.float32, out=out)
                put_ids(array.ids, rows, lambda count, wanted: law.ranks(rng, count, wanted))
            elif array.fields:
                for column, (first, count) in enumerate(array.fields):
                    rows[:, column] = first + law.ranks(rng, count, len(rows))
            else:
                out[:] = scatters[array.table](law.ranks(rng, array.table_rows, len(out)))

        with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as executor:
            for _ in executor.map(block, list(_blocks(self.arrays))):
                pass

    @cached_property
    def _spans(self) -> tuple[tuple[str, int], ...]:
        return tuple((a.name, a.span) for a in self.arrays)

    def rows_at(self, handle: int) -> dict[str, int]:
        """The first pool row of each input for a query's handle, by input name.

        Item j of the query is row `first + j` of a per-item input; a per-query input has the one row.
        Spans are consecutive integers, which share only small factors, so the remainders of one
        handle are as good as independent: no two inputs advance in lock-step.
        """
        return {name: handle % span for name, span in self._spans}

    def touched(
        self,
        buffer: Any,
        schema: Schema,
        features: NDArray[np.uint64] | None = None,
        size: NDArray[np.int32] | None = None,
    ) -> Touched:
        """The unique embedding rows that the whole pool looks up, or that given queries look up.

        Args:
            features, size: handles and sizes of the queries, [n] each; None for the whole pool.
        """
        views = self.views(buffer)
        per = {i.name: i.per for i in schema.inputs}
        hit = {t.name: np.zeros(t.rows, np.bool_) for t in schema.tables}
        for a in self.arrays:
            if a.table is None:
                continue
            ids: Any = views[a.name]
            if features is not None and size is not None:
                lengths = size if per[a.name] is Per.ITEM else np.ones_like(size)
                covered = _covered(features % np.uint64(a.span), lengths, a.rows)
                if isinstance(ids, Ids):
                    covered = np.repeat(covered, np.diff(ids.begins))
                    ids = ids.values[: len(covered)]
                ids = ids[covered]
            hit[a.table][(ids.values[: ids.begins[-1]] if isinstance(ids, Ids) else ids).reshape(-1)] = True
        rows = {name: int(marks.sum()) for name, marks in hit.items()}
        return Touched(sum(rows[t.name] * t.dim * 4 for t in schema.tables), schema.table_bytes, rows)


def _view(a: PoolArray, buffer: Any) -> InputRows:
    if a.jagged is None:
        return np.frombuffer(buffer, a.dtype, a.rows * a.columns, a.offset).reshape(a.rows, a.columns)
    offsets = np.frombuffer(buffer, np.int64, a.rows + 1, a.offset)
    at = a.offset + offsets.nbytes
    values = np.frombuffer(buffer, np.int32, a.most_ids, at)
    if not a.jagged.weighted:
        return Ids(values, offsets)
    return Ids(values, offsets, np.frombuffer(buffer, np.float32, a.most_ids, at + values.nbytes))


def _key(name: str) -> int:
    return zlib.crc32(name.encode())


def _covered(first: NDArray[np.uint64], length: NDArray[np.int32], rows: int) -> NDArray[np.bool_]:
    """Which of `rows` rows lie in any of the runs that start at `first`, [rows]."""
    start = first.astype(np.int64)
    steps = np.bincount(start, minlength=rows + 1) - np.bincount(start + length, minlength=rows + 1)
    return np.cumsum(steps)[:rows] > 0


def _expected_bytes(schema: Schema, law: Locality, rows: int) -> float:
    """Unique embedding row bytes that pool arrays of `rows` rows are expected to touch."""
    draws: Counter[str] = Counter()
    for i in schema.sparse:
        draws[i.table] += round(i.mean_lookups * rows)
    kinds = Counter((t.rows, t.dim, draws[t.name]) for t in schema.tables if draws[t.name])
    return sum(n * law.unique_rows(r, d) * dim * 4 for (r, dim, d), n in kinds.items())


def _fewest_rows(schema: Schema, law: Locality, goal: int, fewest: int, limit: int) -> int:
    """The least number of pool rows, within its bounds, whose ids are expected to touch `goal` bytes."""
    if not schema.sparse:
        return fewest
    touched = partial(_expected_bytes, schema, law)
    return fewest + bisect_left(range(fewest, limit), True, key=lambda rows: touched(rows) >= goal)


def _place(
    schema: Schema, max_items: int, sparse_rows: int, dense_rows: int, law: Lengths
) -> tuple[tuple[PoolArray, ...], int]:
    """The arrays one after another, each on a boundary of 64 bytes, and the size of the whole."""

    together = min((k for k, i in enumerate(schema.inputs) if is_jagged(i)), default=0)

    def place(index: int, i: Input, offset: int) -> PoolArray:
        if is_jagged(i):
            index = together  # what an item has in its inputs lies in one row of all: its work is one sum
        rows = index + (dense_rows if isinstance(i, DenseInput) else sparse_rows)
        span = rows - max_items + 1 if i.per is Per.ITEM else rows
        if isinstance(i, SparseInput):
            jagged = i if i.jagged else None
            columns = max(1, ceil(law.mean(i.mean_lookups, i.lookups))) if jagged else i.lookups
            table_rows = schema.table(i.table).rows
            return PoolArray(
                i.name, offset, rows, columns, i.table, table_rows, span, fields=i.fields, jagged=jagged
            )
        return PoolArray(i.name, offset, rows, i.width, None, 0, span, i.ids)

    arrays: list[PoolArray] = []
    at = 0
    for index, i in enumerate(schema.inputs):
        arrays.append(place(index, i, at))
        at += -(-arrays[-1].bytes // ALIGN) * ALIGN
    return tuple(arrays), at


def _blocks(arrays: Iterable[PoolArray]) -> Iterable[tuple[PoolArray, int, int]]:
    """Blocks of rows, each filled by a generator of its own: array, index of the block, rows per block."""
    for a in arrays:
        step = _BLOCK if a.jagged else max(1, _BLOCK // a.columns)
        for index in range(-(-(a.most_ids if a.jagged else a.rows) // step)):
            yield a, index, step
