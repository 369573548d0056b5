"""The gather kernel against torch, on one core: ns per looked-up row, by model, locality, batch size.

    python -m benchmarks.engine.gather_kernel [MODEL ...]      a few minutes; at most 5 GB of memory

Tables are scaled to 2 GB, far beyond any cache. Every call reads other rows of the id pool. Contenders
take turns, call group by call group, and the median of the rounds counts. Two sittings per model, since all
tables in all formats would not fit: torch as it allocates against all at fp32; then the row formats.
Two loops over the same fp32 rows that pool nothing bound what can be had: `asking` prefetches each row's lines
and reads none (a processor may drop what is too much at once, so this is less than any gather can take);
`reading` reads a word of each line, as much at once as out-of-order execution manages.
Times are of the thread's own CPU time, so that a pause is no slowness. Keep the machine idle all the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from numba import njit

from benchmarks.harness import load, save
from deeprecsys.engine.gather import Gather, RowFormat, convert
from deeprecsys.engine.protocol import SliceView
from deeprecsys.engine.vectors import half_word, prefetch, real
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.workload.locality import parse
from deeprecsys.zoo import model
from deeprecsys.zoo.networks.sparse import SparseStage
from deeprecsys.zoo.rows import columns, dtype
from deeprecsys.zoo.schema import Schema
from deeprecsys.zoo.tables import fill

MODELS = ("dlrm-rmc1", "dlrm-rmc1-artefact", "dlrm-rmc2", "dlrm-rmc2-artefact")
LOCALITIES = ("uniform", "zipf:0.9")
BATCHES = (1, 16, 64, 256, 1024)
TABLE_BYTES = 2.05e9
POOL_ROWS = 8192
ROUNDS = 15
GROUP_ROWS = 200_000  # embedding rows per timed group of calls, at least

Call = Callable[[int, int], None]
"""Gathers `items` items that begin at a pool row."""


@njit(nogil=True)
def _ask(ids: Any, lookups: int, tables: Any, stride: int, first: int, items: int) -> None:
    """Prefetch every row of a batch: addresses of the id pools and tables, one each per input."""
    for i in range(len(ids)):
        at = ids[i] + first * lookups * 4
        for k in range(items * lookups):
            row = tables[i] + half_word(at + 4 * k) * stride
            for line in range(0, stride, 64):
                prefetch(row + line)


@njit(nogil=True)
def _read(ids: Any, lookups: int, tables: Any, stride: int, first: int, items: int) -> float:
    """Read a word of each line of every row of a batch."""
    total = np.float32(0)
    for i in range(len(ids)):
        at = ids[i] + first * lookups * 4
        for k in range(items * lookups):
            row = tables[i] + half_word(at + 4 * k) * stride
            for line in range(0, stride, 64):
                total += real(row + line)
    return total


class Tables:
    """All tables of a schema in one segment on huge pages."""

    def __init__(self, schema: Schema, form: RowFormat) -> None:
        item = np.dtype(dtype(form)).itemsize
        widths = [columns(form, t.dim) for t in schema.tables]
        sizes = [-(-t.rows * w * item // 64) * 64 for t, w in zip(schema.tables, widths, strict=True)]
        self.segment = Segment.create(f"bench-{form}", sum(sizes))
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

    def __init__(self, name: str) -> None:
        full = model(name)
        self.schema = full.scaled(min(1.0, TABLE_BYTES / full.schema.table_bytes)).schema
        self.rows_per_item = sum(i.lookups for i in self.schema.sparse)
        self.fp32 = Tables(self.schema, RowFormat.FP32)
        self.fp32.segment.collapse()
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
            rows = self.schema.table(i.table).rows
            ids = self.ids[i.name]
            scatter = rng.permutation(rows).astype(np.int32)
            ids.reshape(-1)[:] = scatter[law.ranks(rng, rows, ids.size)]

    def ours(self, tables: Tables) -> Call:
        outputs, at = {}, 0
        for i in self.schema.sparse:
            dim = self.schema.table(i.table).dim
            outputs[i.name] = self.out[:, at : at + dim]
            at += dim
        gather = Gather(self.schema, tables.arrays, self.ids, outputs)
        none = np.empty((0, 1), np.float32)
        names = list(self.ids)

        def call(first: int, items: int) -> None:
            assert not gather.gather([SliceView(dict.fromkeys(names, first), 0, items, none)])

        return call

    def torch(self, tables: dict[str, torch.Tensor]) -> Call:
        stage = SparseStage(self.schema, tables)
        ids = {name: torch.from_numpy(rows) for name, rows in self.ids.items()}

        def call(first: int, items: int) -> None:
            with torch.inference_mode():
                stage({name: rows[first : first + items] for name, rows in ids.items()})

        return call

    def loop(self, function: Callable[..., Any]) -> Call:
        """`_ask` or `_read` over the fp32 tables."""
        inputs = self.schema.sparse
        ids = np.array([self.ids[i.name].ctypes.data for i in inputs])
        tables = np.array([self.fp32.arrays[i.table].ctypes.data for i in inputs])
        lookups, stride = inputs[0].lookups, 4 * self.schema.tables[0].dim

        def call(first: int, items: int) -> None:
            function(ids, lookups, tables, stride, first, items)

        return call


def turns(bench: Bench, contenders: dict[str, Call], items: int) -> dict[str, float]:
    """Median ns per row of each, by turns."""
    rows = items * bench.rows_per_item
    calls = max(1, -(-GROUP_ROWS // rows))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    at = 0
    for turn in range(ROUNDS + 1):
        for name, call in contenders.items():
            began = time.thread_time()
            for _ in range(calls):
                call(at, items)
                at = (at + items) % POOL_ROWS
            if turn:  # the first warms up
                times[name].append((time.thread_time() - began) / calls / rows * 1e9)
    return {name: median(t) for name, t in times.items()}


def sitting(bench: Bench, contenders: dict[str, Call], label: str) -> list[dict[str, Any]]:
    """All localities and batch sizes."""
    found = []
    for locality in LOCALITIES:
        bench.draw(locality)
        for items in BATCHES:
            ns = turns(bench, contenders, items)
            found.append({"locality": locality, "batch": items, "ns_per_row": ns})
            print(
                f"{label:20} {locality:9} {items:5}  " + "  ".join(f"{n} {t:6.2f}" for n, t in ns.items()),
                flush=True,
            )
    return found


def measure(name: str) -> dict[str, Any]:
    bench = Bench(name)
    on_huge = {n: torch.from_numpy(t) for n, t in bench.fp32.arrays.items()}
    plain = {n: torch.empty(t.shape).copy_(torch.from_numpy(t)) for n, t in bench.fp32.arrays.items()}
    ours = {"fp32": bench.ours(bench.fp32), "torch, huge pages": bench.torch(on_huge)}
    libraries = sitting(
        bench,
        {**ours, "torch": bench.torch(plain), "asking": bench.loop(_ask), "reading": bench.loop(_read)},
        name,
    )
    plain.clear()
    others = {}
    for form in (RowFormat.BF16, RowFormat.INT8):
        others[form] = Tables(bench.schema, form)
        others[form].segment.collapse()
        for t, rows in bench.fp32.arrays.items():
            convert(rows, form, others[form].arrays[t])
    compact = {form.value: bench.ours(t) for form, t in others.items()}
    formats = sitting(bench, {**ours, **compact}, name)
    result = {
        "tables": len(bench.schema.tables),
        "rows": bench.schema.tables[0].rows,
        "dim": bench.schema.tables[0].dim,
        "lookups": bench.schema.sparse[0].lookups,
        "table_bytes": bench.schema.table_bytes,
        "huge_page_fraction": {
            "fp32": bench.fp32.segment.huge_fraction(),
            **{form.value: t.segment.huge_fraction() for form, t in others.items()},
        },
        "libraries": libraries,
        "formats": formats,
    }
    on_huge.clear()
    ours.clear()
    compact.clear()
    for tables in (bench.fp32, *others.values()):
        tables.close()
    return result


def table(results: dict[str, Any]) -> str:
    """Ratios to torch as Markdown; bf16 and int8 through fp32, which sat in both sittings."""
    lines = [
        "| model | ids | batch | torch | torch, huge pages | fp32 | bf16 | int8 | asking | reading | fp32: torch | bf16: torch |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        for a, b in zip(r["libraries"], r["formats"], strict=True):
            one, two = a["ns_per_row"], b["ns_per_row"]
            ratio = one["torch"] / one["fp32"]
            cells = (
                one["torch"],
                one["torch, huge pages"],
                one["fp32"],
                two["bf16"],
                two["int8"],
                one["asking"],
                one["reading"],
            )
            lines.append(
                f"| {name} | {a['locality']} | {a['batch']} | " + " | ".join(f"{c:.2f}" for c in cells)
                + f" | {ratio:.2f} | {ratio * two['fp32'] / two['bf16']:.2f} |"
            )  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    results = load("engine_gather_kernel").get("models", {})
    for name in sys.argv[1:] or MODELS:
        results[name] = measure(name)
        save("engine_gather_kernel", {"rounds": ROUNDS, "pool_rows": POOL_ROWS, "models": results})
    print(table(results))


if __name__ == "__main__":
    main()
