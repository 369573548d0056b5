"""The gather kernel against torch, on one core: ns per looked-up row, by model, locality, batch size.

Tables are scaled to 2 GB, far beyond any cache. Every call reads other rows of the id pool. Contenders
take turns, and the median of the rounds counts. Two sittings per model, since all tables in all formats would
not fit: torch as it allocates against all at fp32; then the row formats. Two loops over the same fp32 rows that
pool nothing bound what can be had: `asking` prefetches each row's lines and reads none (a processor may drop what
is too much at once, so this is less than any gather can take); `reading` reads a word of each line, as much at
once as out-of-order execution manages. A few minutes, at most 5 GB of memory; keep the machine idle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Benchmark, Result, Run, markdown
from benchmarks.lib.machine_limits import in_turn, interleaved, row_loops
from deeprecsys.engine.gather import Gather, RowFormat, convert
from deeprecsys.engine.protocol import SliceView
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.workload.locality import parse
from deeprecsys.zoo import model
from deeprecsys.zoo.networks.sparse import SparseStage
from deeprecsys.zoo.rows import columns, dtype
from deeprecsys.zoo.schema import Schema
from deeprecsys.zoo.tables import fill

MODELS = ("dlrm-rmc1", "dlrm-rmc1-artefact", "dlrm-rmc2", "dlrm-rmc2-artefact")
LOCALITIES, BATCHES = ("uniform", "zipf:0.9"), (1, 16, 64, 256, 1024)
TABLE_BYTES, POOL_ROWS = 2.05e9, 8192
ROUNDS, ROUND_S = 15, 2e-3

GatherCall = Callable[[int, int], Any]
"""Gathers `items` items that begin at a pool row."""


class Tables:
    """All tables of a schema in one segment on huge pages."""

    def __init__(self, schema: Schema, form: RowFormat) -> None:
        item = np.dtype(dtype(form)).itemsize
        widths = [columns(form, t.dim) for t in schema.tables]
        sizes = [-(-t.rows * w * item // 64) * 64 for t, w in zip(schema.tables, widths, strict=True)]
        self.segment = Segment.create(f"bench-{form}", sum(sizes))
        self.segment.collapse()
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.arrays = {
            t.name: self.segment.array(dtype(form), (t.rows, w), int(start))
            for t, w, start in zip(schema.tables, widths, starts, strict=True)
        }

    def close(self) -> None:
        self.arrays = {}
        self.segment.close()


class Bench:
    """One model's tables and id pools, and the contenders over them."""

    def __init__(self, name: str, table_bytes: float) -> None:
        full = model(name)
        self.schema = full.scaled(min(1.0, table_bytes / full.schema.table_bytes)).schema
        self.rows_per_item = sum(i.lookups for i in self.schema.sparse)
        self.fp32 = Tables(self.schema, RowFormat.FP32)
        for i, table in enumerate(self.fp32.arrays.values()):
            fill(table, (0, i), threads=1)
        width = sum(self.schema.table(i.table).dim for i in self.schema.sparse)
        self.out = np.zeros((max(BATCHES), width), np.float32)
        self.ids = {
            i.name: np.zeros((POOL_ROWS + max(BATCHES), i.lookups), np.int32) for i in self.schema.sparse
        }

    def draw(self, locality: str) -> None:
        """New ids in the pools."""
        law, rng = parse(locality), np.random.default_rng(1)
        for i in self.schema.sparse:
            rows, ids = self.schema.table(i.table).rows, self.ids[i.name]
            scatter = rng.permutation(rows).astype(np.int32)
            ids.reshape(-1)[:] = scatter[law.ranks(rng, rows, ids.size)]

    def kernel(self, tables: Tables) -> GatherCall:
        outputs, at = {}, 0
        for i in self.schema.sparse:
            dim = self.schema.table(i.table).dim
            outputs[i.name] = self.out[:, at : at + dim]
            at += dim
        gather = Gather(self.schema, tables.arrays, self.ids, outputs)
        none, names = np.empty((0, 1), np.float32), list(self.ids)

        def call(first: int, items: int) -> None:
            assert not gather.gather([SliceView(dict.fromkeys(names, first), 0, items, none)])

        return call

    def torch(self, tables: dict[str, torch.Tensor]) -> GatherCall:
        stage = SparseStage(self.schema, tables)
        ids = {name: torch.from_numpy(rows) for name, rows in self.ids.items()}

        def call(first: int, items: int) -> None:
            with torch.inference_mode():
                stage({name: rows[first : first + items] for name, rows in ids.items()})

        return call

    def loop(self, function: Callable[..., Any]) -> GatherCall:
        """A loop of `row_loops` over the fp32 tables."""
        inputs = self.schema.sparse
        ids = np.array([self.ids[i.name].ctypes.data for i in inputs])
        lookups = np.array([i.lookups for i in inputs])
        tables = np.array([self.fp32.arrays[i.table].ctypes.data for i in inputs])
        size = np.array([self.fp32.arrays[i.table].strides[0] for i in inputs])
        return lambda first, items: function(ids + 4 * first * lookups, items * lookups, tables, size, size)

    def sitting(self, contenders: dict[str, GatherCall], quick: bool) -> list[dict[str, Any]]:
        """Median ns per row of each contender, at all localities and batch sizes."""
        found = []
        for locality in LOCALITIES:
            self.draw(locality)
            for items in BATCHES:
                starts = range(0, POOL_ROWS, items)
                calls = {
                    name: in_turn(starts, lambda first, call=call, items=items: call(first, items))
                    for name, call in contenders.items()
                }
                taken = interleaved(calls, 2 if quick else ROUNDS, ROUND_S)
                ns = {name: 1e9 * taken.median(name) / (items * self.rows_per_item) for name in calls}
                found.append({"locality": locality, "batch": items, "ns_per_row": ns})
                print(
                    f"{locality:9} {items:5}  " + "  ".join(f"{n} {t:6.2f}" for n, t in ns.items()),
                    flush=True,
                )
        return found


def measure(name: str, quick: bool) -> dict[str, Any]:
    bench = Bench(name, 1e7 if quick else TABLE_BYTES)
    on_huge = {n: torch.from_numpy(t) for n, t in bench.fp32.arrays.items()}
    plain = {n: torch.empty(t.shape).copy_(torch.from_numpy(t)) for n, t in bench.fp32.arrays.items()}
    ours = {"fp32": bench.kernel(bench.fp32), "torch, huge pages": bench.torch(on_huge)}
    asking, reading = row_loops()
    loops = {"asking": bench.loop(asking), "reading": bench.loop(reading)}
    libraries = bench.sitting({**ours, "torch": bench.torch(plain), **loops}, quick)
    plain.clear()
    others = {}
    for form in (RowFormat.BF16, RowFormat.INT8):
        others[form] = Tables(bench.schema, form)
        for t, rows in bench.fp32.arrays.items():
            convert(rows, form, others[form].arrays[t])
    compact = {form.value: bench.kernel(t) for form, t in others.items()}
    formats = bench.sitting({**ours, **compact}, quick)
    every = {RowFormat.FP32: bench.fp32, **others}
    result = {
        "tables": len(bench.schema.tables),
        "rows": bench.schema.tables[0].rows,
        "dim": bench.schema.tables[0].dim,
        "lookups": bench.schema.sparse[0].lookups,
        "table_bytes": bench.schema.table_bytes,
        "huge_page_fraction": {form.value: t.segment.huge_fraction() for form, t in every.items()},
        "libraries": libraries,
        "formats": formats,
    }
    for views in (on_huge, ours, loops, compact):
        views.clear()
    for tables in every.values():
        tables.close()
    return result


def run(run: Run) -> None:
    torch.set_num_threads(1)
    run.each(
        [(m,) for m in MODELS], lambda name: measure(name, run.quick), rounds=ROUNDS, pool_rows=POOL_ROWS
    )


def show(result: Result) -> None:
    """Ratios to torch; bf16 and int8 through fp32, which sat in both sittings."""
    rows = []
    for name, r in result["models"].items():
        for a, b in zip(r["libraries"], r["formats"], strict=True):
            one, two = a["ns_per_row"], b["ns_per_row"]
            ratio = one["torch"] / one["fp32"]
            cells = (*(one[k] for k in ("torch", "torch, huge pages", "fp32")), two["bf16"], two["int8"],
                     one["asking"], one["reading"], ratio, ratio * two["fp32"] / two["bf16"])  # fmt: skip
            rows.append((name, a["locality"], a["batch"], *(f"{c:.2f}" for c in cells)))
    header = ("model", "ids", "batch", "torch", "torch, huge pages", "fp32", "bf16", "int8", "asking", "reading",
              "fp32: torch", "bf16: torch")  # fmt: skip
    print(markdown(header, rows))


BENCHMARK = Benchmark(__file__, __doc__, run, models=MODELS, finish=show)

if __name__ == "__main__":
    BENCHMARK.main()
