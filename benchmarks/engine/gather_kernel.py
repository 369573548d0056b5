"""The gather kernel against torch, on one core: ns per looked-up row, by model, locality, batch size.

Tables are scaled to 2 GB, far beyond any cache. Every call reads another query's rows. Contenders take turns, and the
median of the rounds counts: torch as it allocates against all at fp32; then the row formats. Two loops over the same
fp32 rows that pool nothing bound what can be had: `asking` prefetches each row's lines and reads none (a processor may
drop what is too much at once, so this is less than any gather can take); `reading` reads a word of each line, as much
at once as out-of-order execution manages. A few minutes, at most 6 GB of memory; keep the machine idle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.harness import Benchmark, Result, Run, markdown
from benchmarks.lib.engine_contenders import BATCHES, FORMS, RowFormats
from benchmarks.lib.machine_limits import Call, interleaved, row_loops
from deeprecsys.engine.gather import Gather
from deeprecsys.zoo import model
from deeprecsys.zoo.networks.sparse import SparseStage

MODELS = ("dlrm-rmc1", "dlrm-rmc1-artefact", "dlrm-rmc2", "dlrm-rmc2-artefact")
LOCALITIES, LOOPS = ("uniform", "zipf:0.9"), ("asking", "reading")
TABLE_BYTES, ROUNDS, ROUND_S = 2.05e9, 15, 2e-3


class Kernels:
    """All that gathers the rows of one model."""

    def __init__(self, memory: RowFormats) -> None:
        self.memory, self.schema = memory, memory.model.schema
        fp32 = memory.memory["fp32"]
        self._ids = {i.name: fp32.inputs[i.name] for i in self.schema.sparse}
        tables = {name: torch.from_numpy(t) for name, t in fp32.tables.items()}
        copies = {name: torch.empty(t.shape).copy_(t) for name, t in tables.items()}
        self._stages = {
            "torch": SparseStage(self.schema, copies),
            "torch, huge pages": SparseStage(self.schema, tables),
        }

    def kernel(self, items: int, form: str) -> Call:
        memory = self.memory.memory[form]
        widths = {i.name: self.schema.table(i.table).dim for i in self.schema.sparse}
        out = np.zeros((items, sum(widths.values())), np.float32)
        ends = np.cumsum(list(widths.values()))
        outputs = {n: out[:, end - w : end] for (n, w), end in zip(widths.items(), ends, strict=True)}
        gather = Gather(self.schema, memory.tables, {n: memory.inputs[n] for n in self._ids}, outputs)
        return self.memory.turns(items, lambda part: gather.gather([part]))

    def torch(self, items: int, which: str) -> Call:
        stage, ids = self._stages[which], {n: torch.from_numpy(x) for n, x in self._ids.items()}

        @torch.inference_mode()
        def gather(part: Any) -> None:
            stage({n: x[part.first[n] : part.first[n] + items] for n, x in ids.items()})

        return self.memory.turns(items, gather)


def measure(name: str, quick: bool) -> dict[str, Any]:
    full = model(name).schema
    found: dict[str, Any] = {"libraries": [], "formats": []}
    for locality in LOCALITIES:
        scale = min(1.0, (1e7 if quick else TABLE_BYTES) / full.table_bytes)
        memory = RowFormats(name, scale, locality)
        memory.make_resident()
        kernels, schema = Kernels(memory), memory.model.schema
        for items in BATCHES:
            huge = "torch, huge pages"
            both = {"fp32": kernels.kernel(items, "fp32"), huge: kernels.torch(items, huge)}
            loops = {
                name: memory.rows(loop, items, "fp32") for name, loop in zip(LOOPS, row_loops(), strict=True)
            }
            compact = {form: kernels.kernel(items, form) for form in FORMS if form != "fp32"}
            for key, calls in (("libraries", {**both, "torch": kernels.torch(items, "torch"), **loops}),
                               ("formats", {**both, **compact})):  # fmt: skip
                taken = interleaved(calls, 2 if quick else ROUNDS, ROUND_S)
                rows = items * sum(i.lookups for i in schema.sparse)
                ns = {n: 1e9 * taken.median(n) / rows for n in calls}
                found[key].append({"locality": locality, "batch": items, "ns_per_row": ns})
                print(f"{locality:9} {items:5} ", *(f"{n} {t:6.2f} " for n, t in ns.items()), flush=True)
        pages = {form: about["huge_page_fraction"] for form, about in memory.about().items()}
        memory.close()
    first = schema.tables[0]
    return {"tables": len(schema.tables), "rows": first.rows, "dim": first.dim, "lookups": schema.sparse[0].lookups,
            "table_bytes": schema.table_bytes, "huge_page_fraction": pages, **found}  # fmt: skip


def run(run: Run) -> None:
    torch.set_num_threads(1)
    run.each([(m,) for m in MODELS], lambda name: measure(name, run.quick), rounds=ROUNDS)


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
