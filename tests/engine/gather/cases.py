"""Random gathers of every kind, and what they must give, the obvious way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from deeprecsys.engine.gather import Gather, Ids, RowFormat, convert
from deeprecsys.engine.protocol import SliceView
from deeprecsys.zoo.rows import HEADER, dtype, format_of, row_bytes
from deeprecsys.zoo.schema import DenseInput, Per, Pooling, Schema, SparseInput, Table
from tests.engine.rows import jagged as jagged_ids
from tests.engine.rows import restore

# Vectors and a tail; more than one vector's widest. Each dimension, format, width of ids and kind of input
# is a function of its own that is compiled, which takes seconds: here a dimension has one width of ids, and
# wide rows are float32 without weights; `test_every_dimension_and_width_is_gathered_right` has the others.
WIDE = 72
WIDTHS = {7: np.int64, WIDE: np.int32}
POOL = 40
NOTHING = np.empty((0, 1), np.float32)


@dataclass
class Case:
    """A gather, the arrays behind it, and a batch."""

    schema: Schema
    tables: dict[str, np.ndarray]
    pools: dict[str, Any]
    outputs: dict[str, np.ndarray]
    slices: list[SliceView]

    def gather(self, **options: int) -> Gather:
        return Gather(self.schema, self.tables, self.pools, self.outputs, **options)

    def bags(self, i: SparseInput, s: SliceView) -> list[tuple[np.ndarray, np.ndarray]]:
        """(ids, weights) of each output row that one slice writes of an input."""
        pool = self.pools[i.name]
        if not isinstance(pool, Ids):
            pool = Ids(pool)
        first = s.first[i.name]
        rows = range(first + s.start, first + s.stop) if i.per is Per.ITEM else [first]
        weights = np.ones(pool.values.shape) if pool.weights is None else pool.weights
        if pool.offsets is None:
            return [(pool.values[r], weights[r]) for r in rows]
        spans = [slice(pool.offsets[r], pool.offsets[r + 1]) for r in rows]
        return [(pool.values[span], weights[span]) for span in spans]

    def expected(self, i: SparseInput) -> tuple[np.ndarray, np.ndarray]:
        """What the batch writes of an input, [rows, width] float64, and the sum of the terms' sizes."""
        values, sizes = exact(self.schema.table(i.table), self.tables[i.table])
        out, size = [], []
        for s in self.slices:
            for ids, weights in self.bags(i, s):
                rows, terms = values[ids] * weights[:, None], sizes[ids] * np.abs(weights)[:, None]
                if i.pooling in (Pooling.CONCAT, Pooling.SEQUENCE):
                    missing = np.zeros((i.lookups - len(rows), rows.shape[1]))
                    out.append(np.concatenate([rows, missing]).reshape(-1))
                    size.append(np.concatenate([terms, missing]).reshape(-1))
                    continue
                share = 1 / max(1, len(rows)) if i.pooling is Pooling.MEAN else 1
                out.append(rows.sum(axis=0) * share)
                size.append(terms.sum(axis=0) * share)
        width = self.outputs[i.name][0].size
        return np.array(out).reshape(-1, width), np.array(size).reshape(-1, width)

    def check(self) -> None:
        """Outputs are right where the batch writes, to rounding, and untouched elsewhere."""
        for i in self.schema.inputs:
            got = self.outputs[i.name].reshape(len(self.outputs[i.name]), -1)
            if isinstance(i, DenseInput):
                want = np.concatenate([self.dense_rows(i, s) for s in self.slices])
                np.testing.assert_array_equal(got[: len(want)], want)
            else:
                want, size = self.expected(i)
                # Each addition rounds the sum so far, which is no more than the terms' sizes.
                terms = max([1, *(len(ids) for s in self.slices for ids, _ in self.bags(i, s))])
                limit = (terms + 2) * 2**-24 * size + 1e-37
                assert (np.abs(got[: len(want)] - want) <= limit).all(), i
            assert np.isnan(got[len(want) :]).all()

    def dense_rows(self, i: DenseInput, s: SliceView) -> np.ndarray:
        first = s.first[i.name]
        rows = self.pools[i.name]
        return rows[first : first + 1] if i.per is Per.QUERY else rows[first + s.start : first + s.stop]


def exact(table: Table, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table's values as float64, and how large the terms are that make up each."""
    if format_of(table, rows) is not RowFormat.INT8:
        values = restore(table, rows).astype(np.float64)
        return values, np.abs(values)
    scale, bias = rows[:, :HEADER].copy().view(np.float32).astype(np.float64).T[:, :, None]
    codes = rows[:, HEADER : HEADER + table.dim] * scale
    return codes + bias, codes + np.abs(bias)


def stored(table: Table, form: RowFormat, rng: np.random.Generator) -> np.ndarray:
    """A table that begins on a cache line, or every case would need code of its own."""
    values = rng.standard_normal((table.rows, table.dim), np.float32)
    size = table.rows * row_bytes(form, table.dim)
    room = np.zeros(size + 64, np.uint8)
    skip = -room.ctypes.data % 64
    out = room[skip : skip + size].view(dtype(form)).reshape(table.rows, -1)
    return convert(values, form, out)


def slices(schema: Schema, counts: list[tuple[int, int]], rng: np.random.Generator) -> list[SliceView]:
    """Slices of (start, items) whose rows lie anywhere in pools of POOL rows."""
    made = []
    for start, items in counts:
        first = {
            i.name: int(rng.integers(POOL - (start + items if i.per is Per.ITEM else 1) + 1))
            for i in schema.inputs
        }
        made.append(SliceView(first, start, start + items, NOTHING))
    return made


def ids(i: SparseInput, rows: int, rng: np.random.Generator, kind: Any, jagged: bool, weighted: bool) -> Any:
    """A pool of ids that are all in range."""
    most = i.lookups if i.pooling in (Pooling.CONCAT, Pooling.SEQUENCE) else 2 * i.lookups
    lengths = rng.integers(most + 1, size=POOL)
    shape: Any = int(lengths.sum()) if jagged else (POOL, i.lookups)
    values = rng.integers(rows, size=shape).astype(kind)
    weights = rng.standard_normal(shape, np.float32) if weighted and i.pooling is not Pooling.MEAN else None
    if jagged:
        return jagged_ids(values, lengths, weights)
    return values if weights is None else Ids(values, weights=weights)


def output(i: SparseInput, dim: int, rows: int, three: bool) -> np.ndarray:
    """Room for `rows` rows amid a wider array, all NaN."""
    apart = i.pooling in (Pooling.CONCAT, Pooling.SEQUENCE)
    if apart and three:
        return np.full((rows, i.lookups, dim + 3), np.nan, np.float32)[:, :, 2 : 2 + dim]
    width = i.lookups * dim if apart else dim
    return np.full((rows, width + 5), np.nan, np.float32)[:, 1 : 1 + width]


@st.composite
def cases(draw: st.DrawFn, formats: tuple[RowFormat, ...] = tuple(RowFormat)) -> Case:
    """Cases of up to three tables, five inputs and four slices."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tables = tuple(
        Table(f"t{k}", draw(st.integers(1, 60)), draw(st.sampled_from(sorted(WIDTHS))))
        for k in range(draw(st.integers(1, 3)))
    )
    sparse = [
        SparseInput(
            f"x{k}", draw(st.sampled_from(tables)).name, draw(st.integers(1, 12)),
            draw(st.sampled_from(Pooling)), draw(st.sampled_from(Per)),
        )
        for k in range(draw(st.integers(1, 4)))
    ]  # fmt: skip
    dense = [DenseInput("d", draw(st.integers(1, 9)), draw(st.sampled_from(Per)))]
    schema = Schema(tables, (*sparse, *dense[: draw(st.integers(0, 1))]))
    made = {
        t.name: stored(t, draw(st.sampled_from(formats)) if t.dim < WIDE else RowFormat.FP32, rng)
        for t in tables
    }
    pools: dict[str, Any] = {
        i.name: ids(
            i, schema.table(i.table).rows, rng, WIDTHS[schema.table(i.table).dim],
            draw(st.booleans()), draw(st.booleans()) and schema.table(i.table).dim < WIDE,
        )
        for i in sparse
    }  # fmt: skip
    outputs = {i.name: output(i, schema.table(i.table).dim, POOL, draw(st.booleans())) for i in sparse}
    for d in schema.dense:
        pools[d.name] = rng.standard_normal((POOL, d.width), np.float32)
        outputs[d.name] = np.full((POOL, d.width + 2), np.nan, np.float32)[:, :-2]
    counts = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4))
    return Case(schema, made, pools, outputs, slices(schema, counts, rng))
