"""The simulator against the live node, all eight models: p95 at 50, 70 and 85 % of capacity, and capacity.

    python benchmarks/parity.py [MODEL ...]     about 2 minutes a model
    python benchmarks/parity.py --tables        only write the table from what was measured before

In turn, five times: live trials at three shares of the capacity, a search for the capacity (every other
time), and a latency profile; the profiles together are what the simulator is given, so that a machine that
drifts does so under all of them. Trials and profiles that were clearly slower than their like are left out
(`tune.pace`), and counted. The simulator then runs the very arrivals and sizes of the live trials, so that
chance is no part of the error. Keep the machine idle.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from common import ROOT, load, put_in, save
from deeprecsys.cli.live import LiveTrials, baseline, measure_profile, sample_sizes
from deeprecsys.cli.setup import Job
from deeprecsys.cli.tune import sizes_of
from deeprecsys.cli.virtual import SamplePath, virtual_node
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog, summarise
from deeprecsys.core.target import percentile
from deeprecsys.node.node import Node
from deeprecsys.report import format as f
from deeprecsys.simulate.fast import run
from deeprecsys.tune.by_model import Ranking
from deeprecsys.tune.capacity import CapacityResult, Settings, capacity
from deeprecsys.tune.hill_climb import HillClimb
from deeprecsys.tune.pace import Pace, slow
from deeprecsys.tune.profiler import quantiles_of
from deeprecsys.tune.work import saturation_qps
from models import MODELS

SHARES = (0.5, 0.7, 0.85)
ROUNDS = 5
PROFILE_S = 5.0
TRIAL_S = 3.0
CAPACITY_S = 12.0
REPETITIONS = 4


def measure(name: str) -> dict[str, Any]:
    """Everything about one model."""
    job = Job.resolve(
        model_name=name, rows_scale=1.0, engine="eager", precision="fp32", threads=1, workers=None,
        seed=0, locality="zipf:0.9",
    )  # fmt: skip
    trial_s = max(TRIAL_S, 10 * job.target.latency_s)
    with Node(job.node) as node:
        pieces = [measure_profile(node, job, PROFILE_S)]
        policy, about_qps = best_on(pieces[0], node, job)
        live: dict[float, list[RunLog]] = {share: [] for share in SHARES}
        found: list[CapacityResult] = []
        repeated = 0
        settings = replace(Settings.live(job.target), budget_s=max(CAPACITY_S, 6 * trial_s))
        for seed in range(ROUNDS):
            for share in SHARES:
                log, again = valid(node, job, policy, share * about_qps, trial_s, seed)
                live[share].append(log)
                repeated += again
            if seed % 2:
                trials = LiveTrials(node, job)
                found.append(
                    capacity(trials, policy, job.target, hint_qps=about_qps, settings=settings, seed=seed)
                )
            pieces.append(measure_profile(node, job, PROFILE_S))
        swift = [p for i, p in enumerate(pieces) if not slow(pace_of(p), map(pace_of, without(pieces, i)))]
        profile = mixture(swift)
        workers, where = node.workers, node.describe()
    predicted = capacity(
        virtual_node(profile, job.workload, workers, job.target),
        policy, job.target, hint_qps=about_qps, settings=Settings.virtual(job.target),
    ).capacity_qps  # fmt: skip
    rates = [c.capacity_qps for c in found if c.capacity_qps]
    live_qps = float(np.exp(np.mean(np.log(rates))))
    assert predicted is not None
    return {
        **policy.describe(),
        "points": [
            compare(share, sound(logs), profile, workers, policy, job) for share, logs in live.items()
        ],
        "left_out": {
            "profiles": len(pieces) - len(swift),
            "trials": sum(len(logs) - len(sound(logs)) for logs in live.values()),
        },
        "predicted_qps": predicted,
        "live_qps": live_qps,
        "live_runs_qps": rates,
        "capacity_error": predicted / live_qps - 1,
        "repeated": repeated,
        "host_us": 1e6 * profile.host_s,
        "node": where,
    }


def best_on(profile: LatencyProfile, node: Node, job: Job) -> tuple[Policy, float]:
    """The batch size that the simulator finds best, and about its capacity."""
    hint = saturation_qps(profile, baseline(node, job).batch_size, sample_sizes(job), node.workers)
    search = HillClimb(sizes_of(job, node.workers))
    Ranking(SamplePath(profile, job.workload, node.workers, job.target), job.target, hint).finish(search)
    assert search.best is not None
    return search.best.policy, search.best.qps


def valid(node: Node, job: Job, policy: Policy, rate: float, trial_s: float, seed: int) -> tuple[RunLog, int]:
    """A live trial that no stall of the machine disturbed, if there is one in a few; how often it was repeated.

    The profile leaves out batches that were held up as well (`core.runlog.STALL`).
    """
    stream = replace(job.workload, seed=seed).stream(rate, duration_s=trial_s)
    again = 0
    while True:
        log = node.run(policy, stream, job.target)
        summary = summarise(log, job.target)
        if again == REPETITIONS or not (summary.disturbed or summary.void):
            return log, again
        again += 1


def without(things: list[Any], i: int) -> list[Any]:
    return things[:i] + things[i + 1 :]


def sound(logs: list[RunLog]) -> list[RunLog]:
    """The logs of trials that the machine did not slow down."""
    paces = [Pace(log.rate_qps, log.extra["seconds_per_item"]) for log in logs]
    return [log for i, log in enumerate(logs) if not slow(paces[i], without(paces, i))]


def pace_of(profile: LatencyProfile) -> Pace:
    """What an item costs over a profile's larger batches, each and every level of contention counting alike."""
    return Pace(1.0, float(np.mean([np.mean(p.seconds) / p.batch for p in profile.points if p.batch >= 64])))


def compare(
    share: float, logs: list[RunLog], profile: LatencyProfile, workers: int, policy: Policy, job: Job
) -> dict[str, Any]:
    """Live percentiles at a share of the capacity, and simulated ones of the same arrivals and sizes."""
    virtual = [
        run(
            policy, log.arrival_s, log.size, profile, workers,
            seed=seed, warmup_s=log.warmup_s, rate_qps=log.rate_qps,
        )
        for seed, log in enumerate(logs)
    ]  # fmt: skip
    found: dict[str, float] = {}
    for kind, runs in (("live", logs), ("simulated", virtual)):
        latency_s = np.concatenate([r.latency_s[r.measured] for r in runs])
        found |= {f"{kind}_p{100 * q:g}_ms": 1e3 * percentile(latency_s, q) for q in (0.5, 0.95, 0.99)}
        found["queries"] = len(latency_s)
    return {
        "share": share,
        "rate_qps": logs[0].rate_qps,
        "void": sum(summarise(log, job.target).void for log in logs),
        **found,
        "p95_error": found["simulated_p95_ms"] / found["live_p95_ms"] - 1,
    }


def mixture(pieces: list[LatencyProfile]) -> LatencyProfile:
    """One profile whose times are drawn from all pieces alike."""
    first = pieces[0]
    points = []
    for i, p in enumerate(first.points):
        count = len(p.seconds)
        u = (np.arange(200 * count) + 0.5) / (200 * count)
        knots = np.linspace(0, 1, count)
        times = np.concatenate([np.interp(u, knots, piece.points[i].seconds) for piece in pieces])
        points.append(replace(p, seconds=quantiles_of(times, count)))
    host_s = float(np.mean([piece.host_s for piece in pieces]))
    detail = {"pieces": [dict(p.detail) for p in pieces]}
    return replace(first, points=tuple(points), detail=detail, host_s=host_s)


def tables(results: dict[str, Any]) -> str:
    rows = ["| model | batch | p95 at 50 %: live, simulated | at 70 % | at 85 % | capacity: live, predicted | error |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    errors, capacities = [], []
    for name in [m for m in MODELS if m in results]:
        r = results[name]
        cells = [f"{f.ms(p['live_p95_ms'])}, {f.ms(p['simulated_p95_ms'])} ms" for p in r["points"]]
        rows.append(
            f"| {name} | {r['batch_size']} | {' | '.join(cells)} | {f.figure(r['live_qps'])}, "
            f"{f.figure(r['predicted_qps'])} QPS | {f.signed_share(r['capacity_error'])} |"
        )
        errors += [abs(p["p95_error"]) for p in r["points"]]
        capacities.append(abs(r["capacity_error"]))
    rows.append("")
    rows.append(
        f"Median error of the p95: {100 * float(np.median(errors)):.1f} % of {len(errors)} points (worst "
        f"{100 * max(errors):.0f} %); of the predicted capacity: {100 * float(np.median(capacities)):.1f} % "
        f"(worst {100 * max(capacities):.1f} %)."
    )
    return "\n".join(rows)


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(MODELS)
    results = load("parity").get("models", {})
    if "--tables" not in sys.argv:
        for name in names:
            r = results[name] = measure(name)
            errors = ", ".join(f"{100 * p['p95_error']:+.1f} %" for p in r["points"])
            print(f"{name}: batch {r['batch_size']}, p95 off by {errors}; capacity {r['live_qps']:.1f} live, "
                  f"{r['predicted_qps']:.1f} predicted", flush=True)  # fmt: skip
            save("parity", {"models": results})
    text = tables(results)
    put_in(ROOT / "docs" / "results.md", "parity", text)
    print(text)


if __name__ == "__main__":
    main()
