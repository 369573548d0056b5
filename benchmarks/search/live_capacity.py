"""The capacity search, live: against queueing theory on an engine that only waits, and against itself.

    python -m benchmarks.search.live_capacity [MODEL ...]     by default dlrm-rmc1 and wnd, three times each
    python -m benchmarks.search.live_capacity --no-waiting    keep what was measured of the engine that waits

With constant service times a node of one worker is an M/D/1 queue, and of two an M/D/2 queue, whose
capacity is known exactly (the formulas are those of `tests/search/queues.py`). Keep the machine idle.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, load, put_in, save
from benchmarks.lib.interleaved_searches import Turns
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.trials import LiveTrials, quick_hint_qps
from deeprecsys.core.policy import DeepRecSched
from deeprecsys.core.target import Target
from deeprecsys.node.node import Node
from deeprecsys.report import format as f
from deeprecsys.search.capacity import CapacityResult, Settings, capacity
from deeprecsys.search.probes import Trial
from tests.search.queues import theory_qps

SERVICE_S = 5e-3
TARGETS = {1: 10 * SERVICE_S, 2: 6 * SERVICE_S}  # workers -> target
REPEATS = 3
BATCH = 256
BUDGET_S = {"waiting": 120.0, "repeated": 200.0}
"""Of each search: some 20,000 queries and more."""
RESOLUTION = 0.02


def job_of(**changes: Any) -> Experiment:
    options: dict[str, Any] = {
        "model_name": "ncf", "rows_scale": 1.0, "engine": "eager", "precision": "fp32", "threads": 1,
        "workers": None, "seed": 0, "locality": "zipf:0.9",
    }  # fmt: skip
    return Experiment.resolve(**{**options, **changes})


def waiting(workers: int) -> dict[str, Any]:
    """Found and theoretical capacity of `workers` that take SERVICE_S for every query."""
    target_s = TARGETS[workers]
    job = job_of(
        rows_scale=0.01, engine=f"wait:{1e3 * SERVICE_S:g}", workers=workers, sizes="fixed:10",
        sla_ms=1e3 * target_s,
    )  # fmt: skip
    # theory is in units of one service time
    theory = theory_qps(workers, Target(latency_s=target_s / SERVICE_S)) / SERVICE_S
    runs = []
    with Node(job.node) as node:
        hop_s = float(np.median(node.measure(10, workers, 200))) - SERVICE_S
        for seed in range(REPEATS):
            trial, hint = LiveTrials(node, job), 0.8 * workers / SERVICE_S
            found = search(trial, job, DeepRecSched(10), hint, seed, "waiting")
            runs.append(brief(found))
    rates = [r["qps"] for r in runs]
    return {
        "workers": workers,
        "service_ms": 1e3 * SERVICE_S,
        "hop_us": 1e6 * hop_s,
        "target_ms": 1e3 * target_s,
        "theory_qps": theory,
        "runs": runs,
        "worst_error": max(abs(q / theory - 1) for q in rates),
    }


def repeated(name: str) -> dict[str, Any]:
    """The capacity of one setting of a real model, found several times with other seeds.

    The searches take turns, trial by trial: a machine whose speed drifts does so under all of them, and
    what differs between them is the search's doing.
    """
    job = job_of(model_name=name)
    with Node(job.node) as node, ThreadPoolExecutor(REPEATS) as pool:
        hint = 0.8 * quick_hint_qps(node, job, BATCH)
        turns = Turns(REPEATS)

        def one(seed: int) -> dict[str, Any]:
            trial = turns.of(seed, LiveTrials(node, job))
            try:
                return brief(search(trial, job, DeepRecSched(BATCH), hint, seed, "repeated"))
            finally:
                turns.leave(seed)

        runs = list(pool.map(one, range(REPEATS)))
    rates = [r["qps"] for r in runs]
    return {"model": name, "batch_size": BATCH, "runs": runs, "spread": max(rates) / min(rates) - 1}


def search(
    trial: Trial, job: Experiment, policy: DeepRecSched, hint: float, seed: int, kind: str
) -> CapacityResult:
    settings = replace(Settings.live(job.target), budget_s=BUDGET_S[kind], resolution=RESOLUTION)
    return capacity(trial, policy, job.target, hint_qps=hint, settings=settings, seed=seed)


def brief(found: CapacityResult) -> dict[str, Any]:
    return {
        "qps": found.capacity_qps,
        "interval_qps": [found.low_qps, found.high_qps],
        "seconds": found.seconds,
        "queries": found.queries,
        "voids": found.voids,
    }


def tables(result: dict[str, Any]) -> str:
    rows = ["| queue | theory, QPS | found, QPS | worst error | hop |", "|---|---|---|---|---|"]
    for w in result["waiting"]:
        rates = ", ".join(f.figure(r["qps"]) for r in w["runs"])
        rows.append(
            f"| M/D/{w['workers']}, service {w['service_ms']:g} ms, p95 ≤ {w['target_ms']:g} ms | "
            f"{f.figure(w['theory_qps'])} | {rates} | {100 * w['worst_error']:.1f} % | {w['hop_us']:.0f} µs |"
        )
    rows += ["", "| model | batch size | three searches, QPS | greatest over least |", "|---|---|---|---|"]
    for r in result["repeated"]:
        rates = ", ".join(f.figure(x["qps"]) for x in r["runs"])
        rows.append(f"| {r['model']} | {r['batch_size']} | {rates} | +{100 * r['spread']:.1f} % |")
    return "\n".join(rows)


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or ["dlrm-rmc1", "wnd"]
    result = load("search_live_capacity")
    if "--tables" not in sys.argv:
        queues = result["waiting"] if "--no-waiting" in sys.argv else [waiting(w) for w in TARGETS]
        kept = [r for r in result.get("repeated", []) if r["model"] not in names]
        result = {"waiting": queues, "repeated": [*(repeated(n) for n in names), *kept]}
        save("search_live_capacity", result)
    text = tables(result)
    put_in(ROOT / "docs" / "results.md", "live-search", text)
    print(text)


if __name__ == "__main__":
    main()
