"""The simulator against the live node, all eight models: p95 at 50, 70 and 85 % of capacity, and capacity.

    python benchmarks/parity.py [MODEL ...]     about 3 minutes a model
    python benchmarks/parity.py --tables        only write the table from what was measured before

In turn, five times: live trials at three shares of the capacity, a search for the capacity (the first and
the last time), and a latency profile; the profiles together are what the simulator is given, so that a machine
that drifts does so under all of them. Profiles that were clearly slower than their like are left out (`tune.pace`),
and counted. The simulator then runs the very arrivals and sizes of each live trial, so that chance is no part
of the error; the error at a share of the capacity is the median of its trials', so that no single slow phase of
the machine decides it. Keep the machine idle.

Every error is stated twice: as predicted, and at the live trial's own pace, the profile's times all multiplied by what
an item took live over what it took simulated. The first holds the machine's drift between profile and trial
as well, which no scheduler can know; the second is the simulator's own.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from math import log
from typing import Any

import numpy as np

from common import ROOT, load, put_in, save
from deeprecsys.cli.live import LiveTrials, baseline, measure_profile, sample_sizes
from deeprecsys.cli.setup import Job
from deeprecsys.cli.setups import sizes_of
from deeprecsys.cli.virtual import SamplePath, virtual_node
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile, slowdown
from deeprecsys.core.runlog import RunLog, Status, summarise
from deeprecsys.core.target import percentile
from deeprecsys.node.node import Node
from deeprecsys.report import format as f
from deeprecsys.simulate.fast import run
from deeprecsys.tune.by_model import Ranking
from deeprecsys.tune.capacity import CapacityResult, Settings, capacity
from deeprecsys.tune.hill_climb import HillClimb
from deeprecsys.tune.pace import NEAR, Pace, slow
from deeprecsys.tune.profiler import quantiles_of
from deeprecsys.tune.work import saturation_qps
from models import MODELS

SHARES = (0.5, 0.7, 0.85)
ROUNDS = 5
PROFILE_S = 3.0
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
        trials = Watched(node, job)
        settings = replace(Settings.live(job.target), budget_s=max(CAPACITY_S, 6 * trial_s))
        for seed in range(ROUNDS):
            for share in SHARES:
                log, again = valid(node, job, policy, share * about_qps, trial_s, seed)
                live[share].append(log)
                repeated += again
            if seed in (0, ROUNDS - 1):
                found.append(
                    capacity(trials, policy, job.target, hint_qps=about_qps, settings=settings, seed=seed)
                )
            pieces.append(measure_profile(node, job, PROFILE_S))
        swift = [p for i, p in enumerate(pieces) if not slow(pace_of(p), map(pace_of, without(pieces, i)))]
        profile = mixture(swift)
        workers, where = node.workers, node.describe()
    rates = [c.capacity_qps for c in found if c.capacity_qps]
    live_qps = float(np.exp(np.mean(np.log(rates))))
    predicted = predict(profile, job, workers, policy, about_qps)
    path = SamplePath(profile, job.workload, workers, job.target).log(policy, live_qps)
    pace = trials.pace_near(live_qps) / per_item(path)
    paced = predict(
        profile.slowed(pace * slowdown(profile.host_s, live_qps, workers)), job, workers, policy, live_qps
    )
    return {
        **policy.describe(),
        "points": [compare(share, logs, profile, workers, policy, job) for share, logs in live.items()],
        "profiles_left_out": len(pieces) - len(swift),
        "predicted_qps": predicted,
        "live_qps": live_qps,
        "live_runs_qps": rates,
        "capacity_error": predicted / live_qps - 1,
        "pace": pace,
        "paced_qps": paced,
        "paced_capacity_error": paced / live_qps - 1,
        "repeated": repeated,
        "host_us": 1e6 * profile.host_s,
        "node": where,
    }


def predict(profile: LatencyProfile, job: Job, workers: int, policy: Policy, hint_qps: float) -> float:
    """The capacity by the simulator."""
    node = virtual_node(profile, job.workload, workers, job.target)
    settings = Settings.virtual(job.target)
    found = capacity(node, policy, job.target, hint_qps=hint_qps, settings=settings).capacity_qps
    assert found is not None
    return found


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


def pace_of(profile: LatencyProfile) -> Pace:
    """What an item costs over a profile's larger batches, each and every level of contention counting alike."""
    return Pace(1.0, float(np.mean([np.mean(p.seconds) / p.batch for p in profile.points if p.batch >= 64])))


def compare(
    share: float, logs: list[RunLog], profile: LatencyProfile, workers: int, policy: Policy, job: Job
) -> dict[str, Any]:
    """Live percentiles of each trial at a share of the capacity, simulated ones of the same arrivals and sizes,
    and the medians of their errors."""
    virtual = [simulated(log, profile, workers, policy, seed) for seed, log in enumerate(logs)]
    paces = [occupied_per_item(log) / per_item(v) for log, v in zip(logs, virtual, strict=True)]
    paced = [
        simulated(log, profile.slowed(pace * inflation(log, profile, workers)), workers, policy, seed)
        for seed, (log, pace) in enumerate(zip(logs, paces, strict=True))
    ]
    kinds = {"live": logs, "simulated": virtual, "paced": paced}
    found = {
        f"{kind}_p{100 * q:g}_ms": [1e3 * percentile(r.latency_s[r.measured], q) for r in runs]
        for kind, runs in kinds.items()
        for q in (0.5, 0.95, 0.99)
    }
    live_ms = np.array(found["live_p95_ms"])
    return {
        "share": share,
        "rate_qps": logs[0].rate_qps,
        "void": sum(summarise(log, job.target).void for log in logs),
        "paces": paces,
        **found,
        "queries": sum(int(log.measured.sum()) for log in logs),
        "p95_error": float(np.median(np.array(found["simulated_p95_ms"]) / live_ms - 1)),
        "paced_p95_error": float(np.median(np.array(found["paced_p95_ms"]) / live_ms - 1)),
    }


def simulated(log: RunLog, profile: LatencyProfile, workers: int, policy: Policy, seed: int) -> RunLog:
    """A live trial's queries in virtual time."""
    return run(
        policy, log.arrival_s, log.size, profile, workers,
        seed=seed, warmup_s=log.warmup_s, rate_qps=log.rate_qps,
    )  # fmt: skip


def inflation(log: RunLog, profile: LatencyProfile, workers: int) -> float:
    """What the node's own process added to the times at this rate: a slowed profile has it no more."""
    return slowdown(profile.host_s, log.rate_qps, workers)


def occupied_per_item(log: RunLog) -> float:
    """Worker-seconds from dispatch to completion that an item took live: what a profile's times are."""
    return float(log.extra["occupied_s"]) / int(log.size.sum())


def per_item(log: RunLog) -> float:
    return log.busy_s / int(log.size.sum())


class Watched(LiveTrials):
    """Live trials whose pace is remembered."""

    def __init__(self, node: Node, job: Job) -> None:
        super().__init__(node, job)
        self.seen: list[tuple[float, float, float]] = []  # rate, occupied seconds, items

    def __call__(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        log = super().__call__(policy, rate_qps, duration_s, seed)
        done = log.status == Status.SERVED
        if done.all():  # of others it is not known what the time went to
            self.seen.append((rate_qps, log.extra["occupied_s"], float(log.size.sum())))
        return log

    def pace_near(self, rate_qps: float) -> float:
        """Seconds that an item took in the trials about a rate; in the nearest one where none was about it."""
        nearest = min(abs(log(r / rate_qps)) for r, _, _ in self.seen)
        near = [(s, n) for r, s, n in self.seen if abs(log(r / rate_qps)) <= max(nearest, NEAR)]
        return sum(s for s, _ in near) / sum(n for _, n in near)


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
    rows = [
        "| model | batch | p95 at 50 %: live, simulated (error), at its pace (error) | at 70 % | at 85 % "
        "| capacity: live, predicted, at its pace | pace |",
        "|---|---|---|---|---|---|---|",
    ]
    errors: dict[str, list[float]] = {"p95_error": [], "paced_p95_error": []}
    capacities: dict[str, list[float]] = {"capacity_error": [], "paced_capacity_error": []}
    for name in [m for m in MODELS if m in results]:
        r = results[name]
        cells = [cell(p) for p in r["points"]]
        paces = [x for p in r["points"] for x in p["paces"]]
        rows.append(
            f"| {name} | {r['batch_size']} | {' | '.join(cells)} | {f.figure(r['live_qps'])}, "
            f"{f.figure(r['predicted_qps'])}, {f.figure(r['paced_qps'])} QPS | {min(paces):.2f}–{max(paces):.2f} |"
        )
        for key, kept in errors.items():
            kept += [abs(p[key]) for p in r["points"]]
        for key, kept in capacities.items():
            kept.append(abs(r[key]))
    rows.append("")
    for which, key in (("As predicted", ""), ("At the live trials' own pace", "paced_")):
        e, c = errors[f"{key}p95_error"], capacities[f"{key}capacity_error"]
        rows.append(
            f"{which}, the p95 is off by {100 * float(np.median(e)):.1f} % in the median of {len(e)} points (worst "
            f"{100 * max(e):.0f} %), the capacity by {100 * float(np.median(c)):.1f} % (worst {100 * max(c):.1f} %)."
        )
    return "\n".join(rows)


def cell(p: dict[str, Any]) -> str:
    """Medians of the trials, in milliseconds, with the median errors."""
    live, simulated, paced = (
        f.ms(float(np.median(p[f"{k}_p95_ms"]))) for k in ("live", "simulated", "paced")
    )
    return f"{live}, {simulated} ({100 * p['p95_error']:+.0f} %), {paced} ms ({100 * p['paced_p95_error']:+.0f} %)"


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(MODELS)
    results = load("parity").get("models", {})
    if "--tables" not in sys.argv:
        for name in names:
            r = results[name] = measure(name)
            errors = ", ".join(
                f"{100 * p['p95_error']:+.1f} % ({100 * p['paced_p95_error']:+.1f} % paced)"
                for p in r["points"]
            )
            print(f"{name}: batch {r['batch_size']}, p95 off by {errors}; capacity {r['live_qps']:.1f} live, "
                  f"{r['predicted_qps']:.1f} predicted, {r['paced_qps']:.1f} paced", flush=True)  # fmt: skip
            save("parity", {"models": results})
    text = tables(results)
    put_in(ROOT / "docs" / "results.md", "parity", text)
    print(text)


if __name__ == "__main__":
    main()
