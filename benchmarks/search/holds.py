"""The main table, and whether it holds: `tune`, then ten runs of a minute at the rate that it states, over more than an hour.

All eight models at the medium target and three at the low one; the three points of the tunings at the medium target are the
main table of the results. Points take turns: a round runs each once, and begins at least 400 s after the one before it.
Before each run a reference batch is timed; where it takes longer than in the tuning by more than the stated margin, the
machine is not the one that was tuned for, and the run is counted apart. The result is saved after each tuning and each run:
`--more` goes on, and tries again what failed. About three hours; keep the machine idle.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from statistics import geometric_mean
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, duration, markdown, measured_on, now
from benchmarks.lib.experiments import MODELS, tuned
from deeprecsys.api.policies import from_description
from deeprecsys.core.runlog import summarise
from deeprecsys.report import format as f
from deeprecsys.search.sustain import sustained

POINTS = [(m, "medium") for m in MODELS] + [(m, "low") for m in ("dlrm-rmc1", "wnd", "din")]
RUNS, RUN_S, ROUND_S = 10, 60.0, 400.0
LOOK_S = 0.5
TUNE_S, START_S = 240.0, 15.0
"""About what a tuning takes, and what starting a node does."""
QUICK = ("--rows-scale", "0.01", "--engine", "compiled", "--budget", "2", "--sla-ms", "100")
KEPT = ("tuned", "eager", "static", "target", "engine", "precision", "engine_gain", "engine_gain_interval",
        "scheduling_gain", "scheduling_gain_interval", "limit_today_qps", "limit_interval_qps", "margin_percent",
        "drift_percent", "reference", "near", "wall_s")  # fmt: skip
SEED = 7_000
"""The first of the runs' seeds; the tuning used none of them."""


def tune(name: str, level: str, quick: bool) -> dict[str, Any]:
    """The tuning of a model, as far as it is kept."""
    found = tuned(name, *(QUICK if quick else ("--target", level)))
    return {"at": now(), **{k: found.get(k) for k in KEPT}}


def held(name: str, level: str, tuning: dict[str, Any], number: int, quick: bool) -> dict[str, Any]:
    """One run at the tuned rate, on a node of its own."""
    point = tuning["tuned"]
    about: dict[str, Any] = {"sla_ms": 100.0, "rows_scale": 0.01} if quick else {"target": level}
    engine = {k: point.get(k) or tuning.get(k) for k in ("engine", "precision")}
    job = dr.Experiment.resolve(name, threads=point.get("threads") or 1, **engine, **about)
    batch, usual_s = tuning["reference"]["batch"], tuning["reference"]["seconds"]
    at = now()
    with dr.Node(job.node) as node:
        looks = node.measure(batch, node.workers, max(5, int(LOOK_S * node.workers / usual_s)))
        stream = replace(job.workload, seed=SEED + number).stream(
            point["qps"], duration_s=2.0 if quick else RUN_S
        )
        log = node.run(from_description(point), stream, job.target)
    s = summarise(log, job.target)
    return {
        "at": at,
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
    asked = [f"{m} {level}" for m, level in POINTS if not run.options.models or m in run.options.models]
    points: Result = run.result.get("points", {}) if run.options.more and not run.quick else {}
    rounds, least_s = (1, 0.0) if run.quick else (RUNS, ROUND_S)
    asked = asked[:1] if run.quick else asked

    def said(key: str, words: str) -> None:
        run.save({"points": points})
        print(f"{now()} {key}: {words}; about {duration(left_s(points, asked))} left", flush=True)

    for key in asked:
        if key not in points:
            found = run.tried(f"tune {key}", tune, *key.split(), run.quick)
            if found:
                points[key] = {"tune": found, "runs": []}
                said(key, f"tuned, {f.figure(found['tuned']['qps'])} queries/s")
    for number in range(rounds):
        began = time.monotonic()
        behind = [k for k in asked if k in points and len(points[k]["runs"]) <= number]
        for key in behind:
            point = points[key]
            name = f"run {number + 1} {key}"
            one = run.tried(name, held, *key.split(), point["tune"], number, run.quick)
            if one:
                point["runs"].append(one)
                said(key, f"run {number + 1} of {rounds}, {verdict(point, one)}")
        if behind and number < rounds - 1:
            time.sleep(max(least_s - (time.monotonic() - began), 0.0))


def left_s(points: Result, asked: list[str]) -> float:
    """About how long tunings and rounds that are left take."""
    tunes = sum(key not in points for key in asked)
    rounds = RUNS - min((len(points[key]["runs"]) for key in asked if key in points), default=0)
    return tunes * TUNE_S + rounds * max(ROUND_S, len(asked) * (RUN_S + START_S))


def verdict(point: dict[str, Any], one: dict[str, Any]) -> str:
    """`held`, `missed`; or `apart` where the machine was slower than the margin allows."""
    if one["void"] or one["drift_percent"] > point["tune"]["margin_percent"]:
        return "apart"
    return "held" if one["met"] and one["served"] == 1 else "missed"


def holding(result: Result) -> str:
    """How each point held."""
    rows = []
    for key, point in result["points"].items():
        t, runs = point["tune"], point["runs"]
        said = [verdict(point, r) for r in runs]
        counted = len(runs) - said.count("apart")
        p95 = [r["p95_ms"] for r in runs]
        drifts = [r["drift_percent"] for r in runs]
        at = [datetime.fromisoformat(r["at"]) for r in runs]
        hours = (
            f"{at[0]:%H:%M} to {at[-1]:%H:%M}, {(at[-1] - at[0]).total_seconds() / 3600:.1f} h" if at else "–"
        )
        apart = [r for r, v in zip(runs, said, strict=True) if v == "apart"]
        rows.append((
            key, f"{t['target']['latency_ms']:g} ms", f"{f.figure(t['tuned']['qps'])}, {f.figure(t['limit_today_qps'])}",
            t["tuned"]["sustained"]["verdict"], f"{t['margin_percent']:.1f} %",
            f"{said.count('held')} of {counted}", f"{sum(r['met'] for r in apart)} of {len(apart)}",
            f"{f.figure(min(p95, default=None))} to {f.figure(max(p95, default=None))}",
            f"{min(drifts, default=0.0):+.1f} to {max(drifts, default=0.0):+.1f} %", hours,
        ))  # fmt: skip
    header = ("model, target", "p95 target", "tuned QPS, limit then", "its run", "margin", "runs that held",
              "of those beyond the margin", "p95 ms", "reference batch", "from, to (UTC)")  # fmt: skip
    return markdown(header, rows)


def three_points(result: Result) -> str:
    """The usual way, the engine and the tuned point of each model at the medium target, and what each gains."""
    rows: list[tuple[str, ...]] = []
    gains: dict[str, list[float]] = {"engine": [], "scheduling": []}
    for name in (m for m in MODELS if f"{m} medium" in result["points"]):
        t = result["points"][f"{name} medium"]["tune"]
        points = [t[role] or {} for role in ("eager", "static", "tuned")]
        best, ratios = points[-1], []
        for what, kept in gains.items():
            value, (low, high) = t[f"{what}_gain"], t[f"{what}_gain_interval"] or (None, None)
            kept += [value] if value else []
            ratios.append(f"{value:.2f}" + (f" ({low:.2f}–{high:.2f})" if low else "") if value else "–")
        size = best.get("batch_size") or best.get("finest")
        rows.append((
            name, f"{t['target']['latency_ms']:g} ms", *map(limit, points), *ratios,
            f"{best['policy']}, {size}, {t['engine']}", f"{f.figure(best['qps'])}, {best['sustained']['verdict']}",
            f"{f.figure(best['p95_ms'])}, {f.figure(best['p99_ms'])}",
        ))  # fmt: skip
    means = [f"{geometric_mean(kept):.2f}" if kept else "–" for kept in gains.values()]
    rows.append(("geometric mean", *("",) * 4, *means, *("",) * 3))
    header = ("model", "p95 target", "eager, usual batch: limit QPS", "engine, usual batch: limit QPS", "tuned: limit QPS",
              "engine ×", "scheduling ×", "tuned: policy, batch, engine", "runs at QPS", "p95, p99 ms")  # fmt: skip
    said = (
        "Limits, with 95 % intervals, are the rates that met the target then, without a margin; the three points took turns, and "
        "both gains are ratios of limits. None is above the bound of its policy. The tuned point runs below its limit by the margin: that rate was held uninterrupted. "
        "The usual batch is the largest query over the number of cores."
    )
    return f"{markdown(header, rows)}\n\n{said}"


def limit(point: Result) -> str:
    """A limit with its interval."""
    rate, interval = point.get("limit_today_qps"), point.get("limit_interval_qps")
    return f"{f.figure(rate)} ({f.interval(*interval)})" if rate and interval else "–"


def tables(result: Result) -> Tables:
    where = f"{measured_on(result['machine'])}"
    load = "sizes `production`, Poisson arrivals; every offered query served"
    by = "`python -m benchmarks.search.holds` makes this table."
    main = f"{three_points(result)}\n\n{where}, fp32, {load}. {by}"
    holds = f"{holding(result)}\n\n{where}, runs of {RUN_S:g} s. {by}"
    return {"holds": holds, "models": main}


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
