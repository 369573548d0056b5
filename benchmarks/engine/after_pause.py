"""The first batches after a pause, with the page walks of an idle worker and without.

One engine over the model's whole tables, uniform ids. It sleeps through pauses, and in turn walks over its
memory every few seconds as a worker does (`node.runtime.page_walk`); then it scores a few batches, each of another query.
Medians over repetitions. On a machine without a hypervisor, or with one that keeps what was mapped, both are
alike. Some six minutes a model (dlrm-rmc1 unless others are named); keep the machine idle.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.experiments import MODELS, filled_memory
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.node.runtime.page_walk import EVERY_S, PageWalker, virtual
from deeprecsys.report import format as f
from deeprecsys.zoo import model

USUAL, KINDS = ("dlrm-rmc1",), ("asleep", "walking")
PAUSES_S, REPETITIONS = (5.0, 20.0, 60.0), 2
ITEMS, SHOWN, SETTLE = 256, (1, 2, 5, 20), 60
"""Items of a batch; batches after the pause that are shown; batches in a row that end each repetition."""


def measure(name: str, scale: float, pauses_s: tuple[float, ...], repetitions: int) -> dict[str, Any]:
    """Milliseconds of the batches after each pause, by kind; and in a row."""
    memory = filled_memory(name, scale, ITEMS)
    network = model(name).scaled(scale)
    engine = build("compiled", Assembly(network, memory.tables, memory.inputs))
    out = np.zeros((ITEMS, network.schema.outputs), np.float32)
    handles = np.random.default_rng(0)
    walker = PageWalker(lambda: [memory.segments[n] for n in ("tables", "inputs")])

    def batch() -> float:
        part = SliceView(memory.features.rows_at(int(handles.integers(0, 1 << 62))), 0, ITEMS, out)
        began = time.perf_counter()
        engine.score([part])
        return 1e3 * (time.perf_counter() - began)

    def pause(seconds: float, walks: bool) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, EVERY_S) if walks else left)
            if walks:
                walker.walk()

    found: dict[str, Any] = {"in_a_row_ms": [], "pauses": {}}
    for _ in range(SETTLE):
        batch()
    for _ in range(repetitions):
        for seconds in pauses_s:
            for kind in KINDS:
                pause(seconds, kind == "walking")
                times = [batch() for _ in range(SETTLE)]
                kept = found["pauses"].setdefault(f"{seconds:g}", {}).setdefault(kind, [])
                kept.append(times[: max(SHOWN)])
                found["in_a_row_ms"] += times[-10:]
    began = time.perf_counter()
    walker.walk()
    found["walk_ms"] = 1e3 * (time.perf_counter() - began)
    found |= {"table_bytes": network.schema.table_bytes, "virtual": virtual()}
    memory.close()
    return found


def run(run: Run) -> None:
    run.options.models = run.options.models or list(USUAL)
    how = (0.01, (0.1,), 1) if run.quick else (1.0, PAUSES_S, REPETITIONS)
    run.each([(m,) for m in MODELS], lambda name: measure(name, *how))


def tables(result: Result) -> Tables:
    rows, notes = [], []
    for name, r in result["models"].items():
        usual = f.figure(median(r["in_a_row_ms"]))
        for seconds, kinds in r["pauses"].items():
            ms = {k: [f.figure(median(once[k - 1] for once in kinds[kind])) for kind in KINDS] for k in SHOWN}
            cells = map(" → ".join, ms.values())
            rows.append((name, f"{seconds} s", *cells, usual))
        notes.append(
            f"A walk over {name}'s {r['table_bytes'] / 1e9:.2f} GB of tables takes {f.figure(r['walk_ms'])} ms where all is "
            f"resident. The machine is {'' if r['virtual'] else 'not '}virtual."
        )
    header = ("model", "pause", *(f"batch {k}: asleep → walking, ms" for k in SHOWN), "in a row, ms")
    return {"idle": "\n".join([markdown(header, rows), "", *notes])}


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
