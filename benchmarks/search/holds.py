"""Whether tuned points hold: `tune`, then ten runs of a minute at the rate that it states, over more than an hour.

All eight models at the medium target and three at the low one. Points take turns: a round runs each once, and begins at
least 400 s after the one before it. Before each run a reference batch is timed; where it takes longer than in the tuning by
more than the stated margin, the machine is not the one that was tuned for, and the run is counted apart. The result is saved
after each run: `--more` goes on. About two and a half hours; keep the machine idle.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown, measured_on
from benchmarks.lib.experiments import MODELS, tuned
from deeprecsys.api.policies import from_description
from deeprecsys.core.runlog import summarise
from deeprecsys.report import format as f
from deeprecsys.search.sustain import sustained

POINTS = [(m, "medium") for m in MODELS] + [(m, "low") for m in ("dlrm-rmc1", "wnd", "din")]
RUNS, RUN_S, ROUND_S = 10, 60.0, 400.0
LOOK_S = 0.5
QUICK = ("--rows-scale", "0.01", "--engine", "compiled", "--budget", "2", "--sla-ms", "100")
KEPT = ("tuned", "eager", "static", "target", "engine", "precision", "engine_gain", "engine_gain_interval",
        "scheduling_gain", "scheduling_gain_interval", "limit_today_qps", "limit_interval_qps", "margin_percent",
        "drift_percent", "reference", "near", "wall_s")  # fmt: skip
SEED = 7_000
"""The first of the runs' seeds; the tuning used none of them."""


def tune(name: str, level: str, quick: bool) -> dict[str, Any]:
    """The tuning of a model, as far as it is kept."""
    found = tuned(name, *(QUICK if quick else ("--target", level)))
    return {k: found.get(k) for k in KEPT}


def held(name: str, level: str, tuning: dict[str, Any], number: int, quick: bool) -> dict[str, Any]:
    """One run at the tuned rate, on a node of its own."""
    point = tuning["tuned"]
    about: dict[str, Any] = {"sla_ms": 100.0, "rows_scale": 0.01} if quick else {"target": level}
    engine = {k: point.get(k) or tuning.get(k) for k in ("engine", "precision")}
    job = dr.Experiment.resolve(name, threads=point.get("threads") or 1, **engine, **about)
    batch, usual_s = tuning["reference"]["batch"], tuning["reference"]["seconds"]
    with dr.Node(job.node) as node:
        looks = node.measure(batch, node.workers, max(5, int(LOOK_S * node.workers / usual_s)))
        stream = replace(job.workload, seed=SEED + number).stream(
            point["qps"], duration_s=2.0 if quick else RUN_S
        )
        log = node.run(from_description(point), stream, job.target)
    s = summarise(log, job.target)
    return {
        "at_s": time.time(),
        "drift_percent": 100 * (float(np.median(looks)) / usual_s - 1),
        "met": s.meets(job.target),
        "served": s.served,
        "miss_rate": s.miss_rate,
        "p95_ms": s.p95_ms,
        "utilisation": s.utilisation,
        "void": s.void,
        "sustained": sustained(log, job.target).to_json(),
    }


def run(run: Run) -> None:
    asked = [p for p in POINTS if not run.options.models or p[0] in run.options.models]
    points: Result = run.result.get("points", {}) if run.options.more and not run.quick else {}
    rounds, least_s = (1, 0.0) if run.quick else (RUNS, ROUND_S)
    for name, level in asked[:1] if run.quick else asked:
        if f"{name} {level}" not in points:
            points[f"{name} {level}"] = {"tune": tune(name, level, run.quick), "runs": []}
            run.save({"points": points})
            print(name, level, f.figure(points[f"{name} {level}"]["tune"]["tuned"]["qps"]), flush=True)
    for number in range(rounds):
        began = time.monotonic()
        behind = [k for k in points if len(points[k]["runs"]) <= number]
        for key in behind:
            point = points[key]
            point["runs"].append(held(*key.split(), point["tune"], number, run.quick))
            run.save({"points": points})
            print(number, key, verdict(point, point["runs"][-1]), flush=True)
        if behind and number < rounds - 1:
            time.sleep(max(least_s - (time.monotonic() - began), 0.0))


def verdict(point: dict[str, Any], one: dict[str, Any]) -> str:
    """`held`, `missed`; or `apart` where the machine was slower than the margin allows."""
    if one["void"] or one["drift_percent"] > point["tune"]["margin_percent"]:
        return "apart"
    return "held" if one["met"] and one["served"] == 1 else "missed"


def tables(result: Result) -> Tables:
    rows = []
    for key, point in result["points"].items():
        t, runs = point["tune"], point["runs"]
        said = [verdict(point, r) for r in runs]
        counted = len(runs) - said.count("apart")
        p95 = [r["p95_ms"] for r in runs]
        drifts = [r["drift_percent"] for r in runs]
        hours = (runs[-1]["at_s"] - runs[0]["at_s"]) / 3600 if runs else 0.0
        apart = [r for r, v in zip(runs, said, strict=True) if v == "apart"]
        rows.append((
            key, f"{t['target']['latency_ms']:g} ms", f"{f.figure(t['tuned']['qps'])}, {f.figure(t['limit_today_qps'])}",
            t["tuned"]["sustained"]["verdict"], f"{t['margin_percent']:.1f} %",
            f"{said.count('held')} of {counted}", f"{sum(r['met'] for r in apart)} of {len(apart)}",
            f"{f.figure(min(p95, default=None))} to {f.figure(max(p95, default=None))}",
            f"{min(drifts, default=0.0):+.1f} to {max(drifts, default=0.0):+.1f} %", f"{hours:.1f}",
        ))  # fmt: skip
    header = ("model, target", "p95 target", "tuned QPS, limit then", "its run", "margin", "runs that held",
              "of those beyond the margin", "p95 ms", "reference batch", "hours")  # fmt: skip
    where = f"{measured_on(result['machine'])}, runs of {RUN_S:g} s. `python -m benchmarks.search.holds` makes this table."
    return {"holds": f"{markdown(header, rows)}\n\n{where}"}


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
