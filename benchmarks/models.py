"""All eight models, live on this machine: static, tuned, every batch size; tables for the documents.

    python benchmarks/models.py [MODEL ...]      measure (all eight: about half an hour)
    python benchmarks/models.py --no-sweep ...   static and tuned only: half of that
    python benchmarks/models.py --tables         only write the tables from what was measured before

Each model is measured on one node in one go: profile, `tune`, then an exhaustive sweep of the batch sizes
that judges the hill climb. Results are kept model by model, so that an interrupted run can go on.
Keep the machine idle.
"""

from __future__ import annotations

import sys
import time
from math import exp, log
from typing import Any

from common import ROOT, load, put_in, save
from deeprecsys.cli.live import LiveTrials, baseline, document, measure_profile, offline_qps, sample_sizes
from deeprecsys.cli.searching import Listener, tune_settings
from deeprecsys.cli.setup import Job
from deeprecsys.core.errors import TargetUnreachableError
from deeprecsys.core.policy import DeepRecSched
from deeprecsys.node.node import Node
from deeprecsys.report import format as f
from deeprecsys.tune.capacity import CapacityResult, capacity
from deeprecsys.tune.hill_climb import HillClimb
from deeprecsys.tune.search import batch_sizes
from deeprecsys.tune.tuner import tune
from deeprecsys.tune.work import saturation_qps

MODELS = ("dlrm-rmc1", "dlrm-rmc2", "dlrm-rmc3", "ncf", "wnd", "mt-wnd", "din", "dien")
CLIMB_S = {"dlrm-rmc2": 80.0}  # a target of 400 ms makes each trial long
USUAL_CLIMB_S = 40.0
SWEEP_SEED = 1  # not the climb's


def measure(name: str, with_sweep: bool) -> dict[str, Any]:
    """Everything about one model."""
    job = Job.resolve(
        model_name=name, rows_scale=1.0, engine="eager", precision="fp32", threads=1, workers=None,
        seed=0, locality="zipf:0.9",
    )  # fmt: skip
    settings = tune_settings(job.target, CLIMB_S.get(name, USUAL_CLIMB_S))
    began = time.monotonic()
    with Node(job.node) as node:
        profile = measure_profile(node, job, 12.0)
        static = baseline(node, job)
        hint = saturation_qps(profile, static.batch_size, sample_sizes(job), node.workers)
        sizes = batch_sizes(job.workload.sizes.cap, static.batch_size)
        with Listener(name, None, settings) as listener:
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


def sweep(trials: LiveTrials, job: Job, sizes: tuple[int, ...], hint: float, settings: Any) -> dict[str, Any]:
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
    """How far the climb's choice is from the sweep's best, by the sweep's own figures."""
    points = {p["batch_size"]: p["capacity_qps"] or 0.0 for p in result["sweep"]["points"]}
    best = max(points, key=lambda b: points[b])
    chosen = result["tuned"]["batch_size"]
    return {"best": best, "best_qps": points[best], "chosen": chosen, "share": points[chosen] / points[best]}


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
        climb.append(
            f"| {name} | {j['chosen']} | {j['best']} | {100 * j['share']:.1f} % | "
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
    m = measured["machine"]
    where = (
        f"Measured on {m['cpu']} ({', '.join(m['isa'])}), {m['cores']} cores, "
        f"engine {measured['engine']} {measured['precision']}, sizes `production`, Poisson arrivals; "
        "every offered query served. `python benchmarks/models.py` makes this table."
    )
    put_in(ROOT / "README.md", "models", f"{main_table}\n\n{where}")
    put_in(ROOT / "docs" / "results.md", "models", f"{main_table}\n\n{where}")
    swept = any(r["sweep"] for r in results.values())
    put_in(ROOT / "docs" / "results.md", "climb", climb_table if swept else "Not measured yet.")


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(MODELS)
    results = load("models").get("models", {})
    if "--tables" not in sys.argv:
        for name in names:
            r = results[name] = measure(name, "--no-sweep" not in sys.argv)
            share = f"{100 * judge(r)['share']:.1f} %" if r["sweep"] else "unknown"
            print(f"{name}: static {r['static'] and r['static']['qps']}, tuned {r['tuned']['qps']:.1f} "
                  f"at {r['tuned']['batch_size']}, ratio {r['ratio']}, climb's share of the best: {share}, "
                  f"{r['wall_s']:.0f} s", flush=True)  # fmt: skip
            save("models", {"models": results})
    write(results)


if __name__ == "__main__":
    main()
