"""The first batches after a pause, with the walks of an idle worker and without.

    python -m benchmarks.engine.after_pause [MODEL]       some six minutes (dlrm-rmc1 by default)
    python -m benchmarks.engine.after_pause --tables      only write the table from what was measured before

One engine over the model's whole tables, uniform ids. It sleeps through pauses, and in turn walks over its
memory every few seconds as a worker does (`node.warmth`); then it scores a few batches, each of another query.
Medians over repetitions. On a machine without a hypervisor, or with one that keeps what was mapped, both are
alike. Keep the machine idle.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, load, put_in, save
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.node.runtime.layout import FeaturePool, ModelLayout, ModelMemory
from deeprecsys.node.runtime.page_walk import EVERY_S, PageWalker, virtual
from deeprecsys.report import format as f
from deeprecsys.zoo import model

PAUSES_S = (5, 20, 60)
REPETITIONS = 2
ITEMS, SHOWN, SETTLE = 256, (1, 2, 5, 20), 60
"""Items of a batch; batches after the pause that are shown; batches in a row that end each repetition."""


def measure(name: str) -> dict[str, Any]:
    """Milliseconds of the batches after each pause, by kind; and in a row."""
    pool = FeaturePool(ITEMS, max_open=1, locality="uniform")
    memory = ModelMemory.of_trials(ModelLayout(name, 1.0, "fp32", pool), seed=0)
    network = model(name)
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
    for _ in range(REPETITIONS):
        for seconds in PAUSES_S:
            for kind in ("asleep", "walking"):
                pause(seconds, kind == "walking")
                times = [batch() for _ in range(SETTLE)]
                kept = found["pauses"].setdefault(seconds, {}).setdefault(kind, [])
                kept.append(times[: max(SHOWN)])
                found["in_a_row_ms"] += times[-10:]
    began = time.perf_counter()
    walker.walk()
    found["walk_ms"] = 1e3 * (time.perf_counter() - began)
    found |= {"table_bytes": network.schema.table_bytes, "virtual": virtual()}
    memory.close()
    return found


def table(results: dict[str, Any]) -> str:
    lines = ["| model | pause | " + " | ".join(f"batch {k}: asleep → walking, ms" for k in SHOWN) + " | in a row, ms |",
             "|---" * (3 + len(SHOWN)) + "|"]  # fmt: skip
    notes = []
    for name, r in results.items():
        usual = f.figure(median(r["in_a_row_ms"]))
        for seconds, kinds in r["pauses"].items():
            cells = [
                " → ".join(
                    f.figure(median(run[k - 1] for run in kinds[kind])) for kind in ("asleep", "walking")
                )
                for k in SHOWN
            ]
            lines.append(f"| {name} | {seconds} s | {' | '.join(cells)} | {usual} |")
        notes.append(
            f"A walk over {name}'s {r['table_bytes'] / 1e9:.2f} GB of tables takes {f.figure(r['walk_ms'])} ms where all is "
            f"at hand. The machine is {'' if r['virtual'] else 'not '}virtual."
        )
    return "\n".join([*lines, "", *notes])


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or ["dlrm-rmc1"]
    results = load("engine_after_pause").get("models", {})
    if "--tables" not in sys.argv:
        for name in names:
            results[name] = measure(name)
            save("engine_after_pause", {"models": results})
    print(table(results))
    put_in(ROOT / "docs" / "results.md", "idle", table(results))


if __name__ == "__main__":
    main()
