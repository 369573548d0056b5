"""All eight models, live on this machine: static, tuned, every batch size; tables for the documents.

Each model is measured on one node in one go: profile, `tune --method live`, then an exhaustive sweep of the
batch sizes. Where climb and sweep differ, the two sizes are searched again side by side. Results are kept model by
model. All eight take about half an hour; keep the machine idle.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, load, markdown, measured_on
from benchmarks.lib.experiments import MODELS, experiment, tune_settings
from benchmarks.lib.searches import SWEEP_SEED, Sweep, duel, searched
from deeprecsys.api.profiles import measure_profile, quick_hint_qps, sample_sizes
from deeprecsys.api.trials import LiveTrials, document, offline_qps
from deeprecsys.report import format as f
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.history import batch_size_of, batch_sizes
from deeprecsys.search.rank import saturation_qps
from deeprecsys.search.result import Settings
from deeprecsys.search.tuner import tune

CLIMB_S, LONG = 40.0, {"dlrm-rmc2": 2}  # a target of 400 ms makes each trial long
PROFILE_S, DUEL_S = 12.0, 24.0


def measure(name: str, with_sweep: bool, quick: bool) -> dict[str, Any]:
    """Everything about one model."""
    job = experiment(name, rows_scale=0.01 if quick else 1.0)
    settings = tune_settings(job.target, 3.0 if quick else CLIMB_S * LONG.get(name, 1))
    began = time.monotonic()
    with dr.Node(job.node) as node:
        profile = measure_profile(node, job, 2.0 if quick else PROFILE_S)
        static = job.baseline(node.workers)
        hint = saturation_qps(profile, static.batch_size, sample_sizes(job), node.workers)
        sizes = batch_sizes(job.workload.sizes.cap, static.batch_size)[: 2 if quick else None]
        trials = LiveTrials(node, job)
        climb = HillClimb(sizes)
        tuned = tune(trials, job.target, static=static, search=climb, hint_qps=hint, settings=settings)
        swept = sweep(trials, job, sizes, tuned.tuned.qps, settings.candidate) if with_sweep else None
        offline = offline_qps(node, job, tuned.tuned.policy, hint)
        about = document(node, job)
    return {**about, **tuned.to_json(), "profile": profile.to_json(), "offline_qps": offline, "sweep": swept,
            "wall_s": time.monotonic() - began}  # fmt: skip


def sweep(
    trials: LiveTrials, job: dr.Experiment, sizes: tuple[int, ...], hint: float, settings: Settings
) -> dict[str, Any]:
    """The capacity of every batch size, none given up early, with seeds that the climb never used."""
    every = Sweep(dr.DeepRecSched(size) for size in sizes)
    cost = searched(every, trials, job.target, hint, settings, SWEEP_SEED)
    points = [
        {"batch_size": batch_size_of(t.policy), "capacity_qps": t.qps, **t.score.to_json()}
        for t in every.told
    ]
    return {
        "points": points,
        "seconds": sum(c.seconds for c in cost),
        "queries": sum(c.queries for c in cost),
    }


def judge(result: dict[str, Any]) -> dict[str, Any]:
    """The climb's choice and the sweep's best; the share is that of the duel between the two."""
    points = {p["batch_size"]: p["capacity_qps"] or 0.0 for p in result["sweep"]["points"]}
    best = max(points, key=lambda b: points[b])
    chosen = result["tuned"]["batch_size"]
    duel = result.get("duel") or {}
    same = (duel.get("chosen"), duel.get("best")) == (chosen, best)
    share = 1.0 if chosen == best else duel["share"] if same else None
    return {"best": best, "chosen": chosen, "share": share}


def side_by_side(name: str, chosen: int, best: int, quick: bool) -> dict[str, Any]:
    """The capacities of two batch sizes side by side."""
    job = experiment(name, rows_scale=0.01 if quick else 1.0)
    budget_s = 2.0 if quick else DUEL_S * LONG.get(name, 1)
    settings = replace(Settings.live(job.target), budget_s=budget_s, resolution=0.02)
    with dr.Node(job.node) as node:
        hint, pair = 0.8 * quick_hint_qps(node, job, best), (dr.DeepRecSched(chosen), dr.DeepRecSched(best))
        found = duel(LiveTrials(node, job), *pair, job.target, hint, settings)
    return {"chosen": chosen, "best": best, **found}


def run(run: Run) -> None:
    o = run.options
    if not o.duels:
        run.each([(m,) for m in MODELS], lambda name: measure(name, not o.no_sweep, run.quick))
    results = run.result.get("models", {})
    for name in o.models or list(results):
        r = results[name]
        if not o.no_sweep and r["sweep"] and (j := judge(r))["share"] is None:
            r["duel"] = side_by_side(name, j["chosen"], j["best"], run.quick)
            share = 100 * r["duel"]["share"]
            print(f"{name}: {j['chosen']} reaches {share:.1f} % of {j['best']}", flush=True)
            run.save({"models": results})


def tables(result: Result) -> Tables:
    """The table of the eight models, and that of climb against sweep."""
    results = result["models"]
    done = [(m, results[m]) for m in MODELS if m in results]
    rows: list[tuple[str, ...]] = []
    climb = []
    for name, r in done:
        s, t = r["static"], r["tuned"]
        base = f"{s['batch_size']}, {f.figure(s['qps'])}" if s else "cannot meet it"
        rows.append((name, f"{r['target']['latency_ms']:g} ms", base, f"{t['batch_size']}, {f.figure(t['qps'])}",
                     f"{f.figure(t['p95_ms'])}, {f.figure(t['p99_ms'])}", ratio_cell(r), f.figure(r["offline_qps"])))  # fmt: skip
        if r["sweep"]:
            j, c, w = judge(r), r["search"], r["sweep"]
            share = "–" if j["share"] is None else f"{100 * j['share']:.1f} %"
            cost = (f"{x['queries']:,}, {x['seconds']:.0f}" for x in (c, w))
            climb.append((name, j["chosen"], j["best"], share, *cost))
    ratios = [r["ratio"] for _, r in done if r["ratio"]]
    if ratios:
        rows.append(("geometric mean", "", "", "", "", f"{geometric_mean(ratios):.2f}", ""))
    header = (
        "model",
        "p95 target",
        "static: batch, QPS",
        "tuned: batch, QPS",
        "tuned p95, p99 ms",
        "ratio",
        "offline QPS",
    )
    climb_header = ("model", "climb chose", "sweep's best", "capacity reached", "climb: queries, seconds",
                    "sweep: queries, seconds")  # fmt: skip
    m = next(iter(results.values()))
    where = (
        f"{measured_on(m['machine'])}, engine {m['engine']} {m['precision']}, sizes `production`, Poisson arrivals; "
        "every offered query served. `python -m benchmarks.search.eight_models` makes this table."
    )
    found = {"climb": markdown(climb_header, climb) if climb else "Not measured yet."}
    # The main table is that of `holds`, once there is one.
    return found if load("search_holds") else {**found, "models": f"{markdown(header, rows)}\n\n{where}"}


def ratio_cell(r: dict[str, Any]) -> str:
    """Tuned over static, with its interval where the search resolved one."""
    if r["kept_static"]:
        return "1, static kept"
    if not r["ratio"]:
        return "–"
    low, high = r["ratio_interval"]
    known = isinstance(high, float) and low > 0
    return f"{r['ratio']:.2f} ({low:.2f}–{high:.2f})" if known else f"{r['ratio']:.2f}, interval open"


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables, MODELS,
    {
        "--no-sweep": {"action": "store_true", "help": "static and tuned only: half of the time"},
        "--duels": {"action": "store_true", "help": "only the climb's choice beside the sweep's best"},
    },
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
