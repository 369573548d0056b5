"""All eight models, live on this machine: static, tuned, every batch size; tables for the documents.

    python -m benchmarks.search.eight_models [MODEL ...]      measure (all eight: about half an hour)
    python -m benchmarks.search.eight_models --no-sweep ...   static and tuned only: half of that
    python -m benchmarks.search.eight_models --duels          only the climb's choice beside the sweep's best
    python -m benchmarks.search.eight_models --tables         only write the tables from what was measured before

Each model is measured on one node in one go: profile, `tune --method live`, then an exhaustive sweep of the
batch sizes. Where climb and sweep differ, the two sizes are searched again side by side. Results are kept model by model, so that an interrupted run can go on.
Keep the machine idle.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from math import exp, log
from typing import Any

from benchmarks.harness import ROOT, load, measured_on, put_in, save
from benchmarks.lib.interleaved_searches import side_by_side
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.profiles import measure_profile, quick_hint_qps, sample_sizes
from deeprecsys.api.progress import SearchProgress, stage
from deeprecsys.api.runs import Record
from deeprecsys.api.trials import LiveTrials, document, offline_qps
from deeprecsys.api.tune import tune_settings
from deeprecsys.core.errors import TargetUnreachableError
from deeprecsys.core.policy import DeepRecSched
from deeprecsys.node.node import Node
from deeprecsys.report import format as f
from deeprecsys.search.capacity import CapacityResult, Settings, capacity
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.history import batch_sizes
from deeprecsys.search.saturation import saturation_qps
from deeprecsys.search.tuner import tune

MODELS = ("dlrm-rmc1", "dlrm-rmc2", "dlrm-rmc3", "ncf", "wnd", "mt-wnd", "din", "dien")
CLIMB_S = {"dlrm-rmc2": 80.0}  # a target of 400 ms makes each trial long
USUAL_CLIMB_S = 40.0
SWEEP_SEED = 1  # not the climb's
DUEL_S, DUEL_FACTOR = 24.0, {"dlrm-rmc2": 2}


def job_of(name: str) -> Experiment:
    """The model as it is measured here."""
    return Experiment.resolve(
        model=name, rows_scale=1.0, engine="eager", precision="fp32", threads=1, workers=None,
        seed=0, locality="zipf:0.9",
    )  # fmt: skip


def measure(name: str, with_sweep: bool) -> dict[str, Any]:
    """Everything about one model."""
    job = job_of(name)
    settings = tune_settings(job.target, CLIMB_S.get(name, USUAL_CLIMB_S))
    began = time.monotonic()
    with Node(job.node) as node:
        profile = measure_profile(node, job, 12.0)
        static = job.baseline(node.workers)
        hint = saturation_qps(profile, static.batch_size, sample_sizes(job), node.workers)
        sizes = batch_sizes(job.workload.sizes.cap, static.batch_size)
        with stage(f"{name}: searching", True) as report:
            listener = SearchProgress(report, Record(job.configuration()), settings.climb_budget_s)
            trials = LiveTrials(node, job, listener)
            tuned = tune(
                trials, job.target, static=static, search=HillClimb(sizes), hint_qps=hint,
                settings=settings, progress=listener,
            )  # fmt: skip
            swept = sweep(trials, job, sizes, tuned.tuned.qps, settings.candidate) if with_sweep else None
        offline = offline_qps(node, job, tuned.tuned.policy, hint)
        about = document(node, job)
    return {
        **about,
        **tuned.to_json(),
        "profile": profile.to_json(),
        "offline_qps": offline,
        "sweep": swept,
        "wall_s": time.monotonic() - began,
    }


def sweep(
    trials: LiveTrials, job: Experiment, sizes: tuple[int, ...], hint: float, settings: Any
) -> dict[str, Any]:
    """The capacity of every batch size, none given up early, with seeds that the climb never used."""
    points, seconds, queries = [], 0.0, 0
    for size in sizes:
        try:
            found: CapacityResult | None = capacity(
                trials, DeepRecSched(size), job.target, hint_qps=hint, settings=settings, seed=SWEEP_SEED
            )
        except TargetUnreachableError:
            found = None
        seconds += found.seconds if found else 0.0
        queries += found.queries if found else 0
        points.append({"batch_size": size, **(found.to_json() if found else {"capacity_qps": 0.0})})
    return {"points": points, "seconds": seconds, "queries": queries}


def judge(result: dict[str, Any]) -> dict[str, Any]:
    """The climb's choice and the sweep's best; the share is that of the duel between the two."""
    points = {p["batch_size"]: p["capacity_qps"] or 0.0 for p in result["sweep"]["points"]}
    best = max(points, key=lambda b: points[b])
    chosen = result["tuned"]["batch_size"]
    duel = result.get("duel") or {}
    same = (duel.get("chosen"), duel.get("best")) == (chosen, best)
    share = 1.0 if chosen == best else duel["share"] if same else None
    return {"best": best, "best_qps": points[best], "chosen": chosen, "share": share}


def duel(name: str, chosen: int, best: int) -> dict[str, Any]:
    """The capacities of two batch sizes side by side."""
    job = job_of(name)
    settings = replace(Settings.live(job.target), budget_s=DUEL_S * DUEL_FACTOR.get(name, 1), resolution=0.02)
    with Node(job.node) as node:
        hint = 0.8 * quick_hint_qps(node, job, best)
        policies = [DeepRecSched(chosen), DeepRecSched(best)]
        found = side_by_side(
            LiveTrials(node, job), policies, job.target, hint_qps=hint, settings=settings, seed=2
        )
    ours, theirs = (one.to_json() for one in found)
    share = ours["capacity_qps"] / theirs["capacity_qps"]
    return {"chosen": chosen, "best": best, "share": share, "ours": ours, "theirs": theirs}


def tables(results: dict[str, Any]) -> tuple[str, str]:
    """The table of the eight models, and that of climb against sweep, as Markdown."""
    done = [(m, results[m]) for m in MODELS if m in results]
    rows = ["| model | p95 target | static: batch, QPS | tuned: batch, QPS | tuned p95, p99 ms | ratio | offline QPS |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    climb = ["| model | climb chose | sweep's best | capacity reached | climb: queries, seconds | sweep: queries, seconds |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, r in done:
        s, t = r["static"], r["tuned"]
        base = f"{s['batch_size']}, {f.figure(s['qps'])}" if s else "cannot meet it"
        rows.append(
            f"| {name} | {r['target']['latency_ms']:g} ms | {base} | {t['batch_size']}, {f.figure(t['qps'])} | "
            f"{f.ms(t['p95_ms'])}, {f.ms(t['p99_ms'])} | {ratio_cell(r)} | {f.figure(r['offline_qps'])} |"
        )
        if not r["sweep"]:
            continue
        j, c, w = judge(r), r["search"], r["sweep"]
        share = "–" if j["share"] is None else f"{100 * j['share']:.1f} %"
        climb.append(
            f"| {name} | {j['chosen']} | {j['best']} | {share} | "
            f"{c['queries']:,}, {c['seconds']:.0f} | {w['queries']:,}, {w['seconds']:.0f} |"
        )
    ratios = [r["ratio"] for _, r in done if r["ratio"]]
    if ratios:
        mean = exp(sum(map(log, ratios)) / len(ratios))
        rows.append(f"| geometric mean | | | | | {mean:.2f} | |")
    return "\n".join(rows), "\n".join(climb)


def ratio_cell(r: dict[str, Any]) -> str:
    """Tuned over static, with its interval where the search resolved one."""
    if r["kept_static"]:
        return "1, static kept"
    if not r["ratio"]:
        return "–"
    low, high = r["ratio_interval"]
    known = isinstance(high, float) and low > 0
    return f"{r['ratio']:.2f} ({low:.2f}–{high:.2f})" if known else f"{r['ratio']:.2f}, interval open"


def write(results: dict[str, Any]) -> None:
    """Put the tables into the documents."""
    main_table, climb_table = tables(results)
    measured = next(iter(results.values()))
    where = (
        f"{measured_on(measured['machine'])}, engine {measured['engine']} {measured['precision']}, sizes `production`, Poisson arrivals; "
        "every offered query served. `python -m benchmarks.search.eight_models` makes this table."
    )
    put_in(ROOT / "docs" / "results.md", "models", f"{main_table}\n\n{where}")
    swept = any(r["sweep"] for r in results.values())
    put_in(ROOT / "docs" / "results.md", "climb", climb_table if swept else "Not measured yet.")


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(MODELS)
    results = load("search_eight_models").get("models", {})
    if not {"--tables", "--duels"} & set(sys.argv):
        for name in names:
            r = results[name] = measure(name, "--no-sweep" not in sys.argv)
            print(f"{name}: static {r['static'] and r['static']['qps']}, tuned {r['tuned']['qps']:.1f} "
                  f"at {r['tuned']['batch_size']}, ratio {r['ratio']}, {r['wall_s']:.0f} s", flush=True)  # fmt: skip
            save("search_eight_models", {"models": results})
    if "--no-sweep" not in sys.argv and "--tables" not in sys.argv:
        for name in names:
            r = results[name]
            j = judge(r)
            if j["share"] is None:
                r["duel"] = duel(name, j["chosen"], j["best"])
                print(
                    f"{name}: {j['chosen']} reaches {100 * r['duel']['share']:.1f} % of {j['best']}",
                    flush=True,
                )
                save("search_eight_models", {"models": results})
    write(results)


if __name__ == "__main__":
    main()
