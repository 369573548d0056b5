"""A day in minutes: the rate rises and falls, the mix of sizes changes; live retuning beside fixed settings.

    python benchmarks/serve_day.py [--quick]

Each setting serves the same day. What counts is queries answered within the target. Keep the machine idle.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np

from common import ROOT, put_in, save
from deeprecsys.core.target import Target
from deeprecsys.workload.stream import Workload
from serving import Bodies, capacity, cores_of_layout, load, on_cores, server

MODEL, TARGET = "wnd", Target(0.025)
FIXED = (32, 64, 128, 256, 512, 1000)
PEAK = 1.1
"""Of the day, over the tuned point's capacity on the production mix."""
WINDOWS = 24
PARTS = ("production", "fixed:16", "lognormal")


def day(seconds: float) -> str:
    """Sizes that change twice within a day."""
    third = seconds / len(PARTS)
    return "mix:" + ",".join(f"{name}@{k * third:g}" for k, name in enumerate(PARTS))


def main() -> None:
    quick = "--quick" in sys.argv
    scale, seconds, trial_s = (0.01, 12.0, 2.0) if quick else (1.0, 360.0, 10.0)
    fixed = FIXED[2:3] if quick else FIXED
    ours, clients = cores_of_layout()
    common = ("--rows-scale", str(scale), "--sla-ms", f"{1e3 * TARGET.latency_s:g}", "--max-items", "1000")
    carries: dict[str, Any] = {}
    runs: dict[str, dict[str, Any]] = {}
    stream = None
    for name in ("retuned", *fixed):
        options = () if name == "retuned" else ("--batch-size", str(name))
        with server(MODEL, *common, *options, cores=ours) as s:
            on_cores(clients)
            bodies = Bodies(MODEL, scale, 1000)
            if stream is None:
                carries = capacity(s, bodies, Workload.parse(), TARGET, trial_s)
                mean = PEAK * carries["qps"] / 1.5  # a diurnal day's peak over its mean
                arrivals = f"diurnal:3,{seconds:g}"
                stream = Workload.parse(arrivals, day(seconds), seed=4).stream(mean, duration_s=seconds)
            before = len(s.changes())
            answers = load(s, bodies, stream)
            edges = np.linspace(0, seconds, WINDOWS + 1)
            p95 = [answers.between(a, b).summary(TARGET, 1.0)["p95_ms"] for a, b in pairwise(edges)]
            runs[str(name)] = {
                **answers.summary(TARGET, seconds), "windows_p95_ms": p95, "changes": s.changes()[before:],
            }  # fmt: skip
    best = max((str(b) for b in fixed), key=lambda b: runs[b]["goodput_qps"])
    result = {"model": MODEL, "rows_scale": scale, "seconds": seconds, "sizes": day(seconds),
              "capacity_qps": carries["qps"], "runs": runs, "best_fixed": best}  # fmt: skip
    if quick:
        print(table(result))
        return
    print(save("serve_day", result))
    put_in(ROOT / "docs" / "results.md", "serve-day", table(result))


def table(r: dict[str, Any]) -> str:
    lines = [
        "| setting | offered | answered | within the target per second | p95 of answers | worst window's p95 | changes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in r["runs"].items():
        label = name if name == "retuned" else f"batch size {name}"
        best = " (best fixed)" if name == r["best_fixed"] else ""
        worst = np.nanmax(run["windows_p95_ms"])
        lines.append(
            f"| {label}{best} | {run['offered']:,} | {run['served']:,} | {run['goodput_qps']:.1f} "
            f"| {run['p95_ms']:.1f} ms | {worst:.1f} ms | {len(run['changes'])} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
