"""A day in minutes: the rate rises and falls, the mix of sizes changes; live retuning beside fixed settings.

The load in items follows the hour, whatever the sizes: where queries are small, more of them come. Its peak is
set from the items that the tuned server answers in time when it is offered far too much. Each setting serves the
same day. What counts is queries answered within the target. Keep the machine idle.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.live_server import Bench, Extent, Row, bench, load, verdicts
from deeprecsys.workload.stream import Stream

MODEL, TARGET = "wnd", dr.Target(latency_s=0.025)
FIXED = (64, 128, 256, 512, 1000)
PEAK = 0.75
"""The day's peak in items per second, over what is answered in time when twice the stated load is offered."""
PEAK_OVER_MEAN = 1.5  # of a diurnal day whose peak is three times its trough
WINDOWS = 24
PARTS = ("production", "fixed:32", "lognormal")


def day(items_per_s: float, seconds: float) -> Stream:
    """Arrivals of a given mean of items per second, of sizes that change twice.

    Each part is what comes, within its share of the day, of a day that has its sizes throughout.
    """
    parts = []
    for k, name in enumerate(PARTS):
        workload = dr.Workload.parse(f"diurnal:3,{seconds:g}", name, seed=4 + k)
        whole = workload.stream(items_per_s / workload.sizes.mean, duration_s=seconds)
        begin, end = k * seconds / len(PARTS), (k + 1) * seconds / len(PARTS)
        ours = (whole.arrival_s >= begin) & (whole.arrival_s < end)
        parts.append((whole.arrival_s[ours], whole.size[ours], whole.features[ours]))
    arrival_s, size, features = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Stream(len(size) / seconds, arrival_s, size, features)


def run(run: Run) -> Result:
    extent = Extent.of(run.quick)
    seconds, fixed = (6.0, FIXED[2:3]) if extent.quick else (150.0, FIXED)
    runs: dict[str, dict[str, Any]] = {}
    options = ("--max-items", "1000")
    with bench(MODEL, TARGET, extent, *options, "--no-retune", carries={}) as b:
        swamped = b.load(2 * b.server.stated_qps, extent.trial_s, seed=3).summary(TARGET, extent.trial_s)
    stream = day(PEAK * swamped["goodput_items_per_s"] / PEAK_OVER_MEAN, seconds)
    for setting in ("retuned", *map(str, fixed)):
        pinned = () if setting == "retuned" else ("--batch-size", setting)
        with bench(MODEL, TARGET, extent, *options, *pinned, carries={}) as b:
            runs[setting] = served(b, stream, seconds)
    best = max((str(size) for size in fixed), key=lambda size: runs[size]["goodput_qps"])
    return {"model": MODEL, "rows_scale": extent.rows_scale, "seconds": seconds, "sizes": PARTS,
              "target_ms": 1e3 * TARGET.latency_s, "swamped": swamped, "runs": runs, "best_fixed": best}  # fmt: skip


def served(b: Bench, stream: Stream, seconds: float) -> dict[str, Any]:
    """What became of the day under one setting."""
    before = len(b.server.changes())
    answers = load(b.server, b.bodies, stream, TARGET)
    edges = np.linspace(0, seconds, WINDOWS + 1)
    p95 = [answers.between(at, end).summary(TARGET, 1.0)["p95_ms"] for at, end in pairwise(edges)]
    return {
        **answers.summary(TARGET, seconds), "windows_p95_ms": p95, "changes": b.server.changes()[before:],
    }  # fmt: skip


def settings(r: dict[str, Any]) -> str:
    header = ("setting", "offered", "answered", "within the target per second", "p95 of answers",
              "worst window's p95", "changes")  # fmt: skip
    rows = []
    for name, once in r["runs"].items():
        label = name if name == "retuned" else f"batch size {name}"
        best = " (best fixed)" if name == r["best_fixed"] else ""
        rows.append((f"{label}{best}", f"{once['offered']:,}", f"{once['served']:,}", f"{once['goodput_qps']:.1f}",
                     f"{once['p95_ms']:.1f} ms", f"{worst(once):.1f} ms", len(once["changes"])))  # fmt: skip
    return markdown(header, rows)


def worst(once: dict[str, Any]) -> float:
    return max((x for x in once["windows_p95_ms"] if x == x), default=float("nan"))


def rows(r: dict[str, Any]) -> list[Row]:
    tuned, fixed = r["runs"]["retuned"], r["runs"][r["best_fixed"]]
    most, gain = worst(tuned), tuned["goodput_qps"] / max(fixed["goodput_qps"], 1e-9) - 1
    inside = sum(x <= r["target_ms"] for x in tuned["windows_p95_ms"])
    return [
        Row("windows whose p95 was within the target, retuned", f"{inside} of {len(tuned['windows_p95_ms'])}",
            "all", most <= r["target_ms"]),
        Row("changes of the operating point", f"{len(tuned['changes'])}", "≥ 1", len(tuned["changes"]) > 0),
        Row("answers within the target, over the best fixed setting's", f"{100 * gain:+.1f} %", "> 0", gain > 0),
    ]  # fmt: skip


def tables(result: Result) -> Tables:
    return {"serve-day": f"{settings(result)}\n\n{verdicts(rows(result))}"}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()
