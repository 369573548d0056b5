"""The capacity search, live: against queueing theory on an engine that only waits, and against itself.

With constant service times a node of one worker is an M/D/1 queue, and of two an M/D/2 queue, whose
capacity is known exactly (the formulas are those of `tests/search/queues.py`). Models (by default dlrm-rmc1 and wnd)
are searched three times each. Keep the machine idle.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.experiments import MODELS, experiment
from benchmarks.lib.searches import interleaved
from deeprecsys.api.profiles import quick_hint_qps
from deeprecsys.api.trials import LiveTrials
from deeprecsys.report import format as f
from deeprecsys.search.capacity import capacity
from deeprecsys.search.probes import Trial
from deeprecsys.search.result import Settings
from tests.search.queues import theory_qps

USUAL = ("dlrm-rmc1", "wnd")
SERVICE_S = 5e-3
TARGETS = {1: 10 * SERVICE_S, 2: 6 * SERVICE_S}  # workers -> target
REPEATS, BATCH, RESOLUTION = 3, 256, 0.02
WAITING_S, REPEATED_S = 120.0, 200.0
"""Budget of each search: some 20,000 queries and more."""


def waiting(workers: int, budget_s: float) -> dict[str, Any]:
    """Found and theoretical capacity of `workers` that take SERVICE_S for every query."""
    target_s = TARGETS[workers]
    job = experiment(
        "ncf", rows_scale=0.01, engine=f"wait:{1e3 * SERVICE_S:g}", workers=workers, sizes="fixed:10",
        sla_ms=1e3 * target_s,
    )  # fmt: skip
    # theory is in units of one service time
    theory = theory_qps(workers, dr.Target(latency_s=target_s / SERVICE_S)) / SERVICE_S
    with dr.Node(job.node) as node:
        hop_s = float(np.median(node.measure(10, workers, 200))) - SERVICE_S
        trial, hint = LiveTrials(node, job), 0.8 * workers / SERVICE_S
        runs = [search(trial, job, dr.DeepRecSched(10), hint, seed, budget_s) for seed in range(REPEATS)]
    return {"workers": workers, "service_ms": 1e3 * SERVICE_S, "hop_us": 1e6 * hop_s, "target_ms": 1e3 * target_s,
            "theory_qps": theory, "runs": runs, "worst_error": max(abs(r["qps"] / theory - 1) for r in runs)}  # fmt: skip


def repeated(name: str, scale: float, budget_s: float) -> dict[str, Any]:
    """The capacity of one setting of a real model, found several times with other seeds, side by side."""
    job = experiment(name, rows_scale=scale)
    with dr.Node(job.node) as node:
        hint = 0.8 * quick_hint_qps(node, job, BATCH)
        searches = [
            partial(search, job=job, policy=dr.DeepRecSched(BATCH), hint=hint, seed=seed, budget_s=budget_s)
            for seed in range(REPEATS)
        ]
        runs = interleaved(LiveTrials(node, job), searches)
    rates = [r["qps"] for r in runs]
    return {"model": name, "batch_size": BATCH, "runs": runs, "spread": max(rates) / min(rates) - 1}


def search(
    trial: Trial, job: dr.Experiment, policy: dr.DeepRecSched, hint: float, seed: int, budget_s: float
) -> dict[str, Any]:
    settings = replace(Settings.live(job.target), budget_s=budget_s, resolution=RESOLUTION)
    found = capacity(trial, policy, job.target, hint_qps=hint, settings=settings, seed=seed)
    return {"qps": found.capacity_qps, "interval_qps": [found.low_qps, found.high_qps], "seconds": found.seconds,
            "queries": found.queries, "voids": found.voids}  # fmt: skip


def run(run: Run) -> Result:
    names = run.options.models or USUAL[: 1 if run.quick else None]
    scale, *budgets = (0.01, 4.0, 4.0) if run.quick else (1.0, WAITING_S, REPEATED_S)
    queues = run.result["waiting"] if run.options.no_waiting else [waiting(w, budgets[0]) for w in TARGETS]
    kept = [r for r in run.result.get("repeated", []) if r["model"] not in names]
    return {"waiting": queues, "repeated": [*(repeated(n, scale, budgets[1]) for n in names), *kept]}


def tables(result: Result) -> Tables:
    queues = [
        (f"M/D/{w['workers']}, service {w['service_ms']:g} ms, p95 ≤ {w['target_ms']:g} ms", f.figure(w["theory_qps"]),
         ", ".join(f.figure(r["qps"]) for r in w["runs"]), f"{100 * w['worst_error']:.1f} %", f"{w['hop_us']:.0f} µs")
        for w in result["waiting"]
    ]  # fmt: skip
    models = [
        (r["model"], r["batch_size"], ", ".join(f.figure(x["qps"]) for x in r["runs"]), f"+{100 * r['spread']:.1f} %")
        for r in result["repeated"]
    ]  # fmt: skip
    return {
        "live-search": markdown(("queue", "theory, QPS", "found, QPS", "worst error", "hop"), queues) + "\n\n"
        + markdown(("model", "batch size", "three searches, QPS", "greatest over least"), models)
    }  # fmt: skip


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables, MODELS,
    {"--no-waiting": {"action": "store_true", "help": "keep what was measured of the engine that waits"}},
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
