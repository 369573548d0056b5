"""The simulator against the live node, all eight models: p95 at 50, 70 and 85 % of capacity, and capacity.

In turn, five times: a search for the capacity (every other time), live trials at three shares of the first one found,
and a latency profile; the profiles together are what the simulator is given, so that a machine that drifts does so
under all of them. The simulator then runs the very arrivals and sizes of each live trial, so that chance of the load
is no part of the error, several times, each with another stretch of the profile's ranks; their median counts. The
error at a share of the capacity is the median of its trials', so that no single slow phase of the machine decides
it. The capacity that is predicted is the median of each profile's own, beside the median of the live searches: they see
the machine for seconds too.
About 5 minutes a model; keep the machine idle.

Every error is stated three times. As predicted: it holds the machine's drift between profile and trial as well,
which no scheduler can know. At the live trial's own pace: the profile's times all multiplied by what an item took
live over what it took simulated. And given its batch times: each simulated batch takes what the live one with its
number took, so that what is left is the error of the scheduling alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import log
from typing import Any, NamedTuple

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown, measured_on
from benchmarks.lib.experiments import MODELS, experiment, ranking_of
from deeprecsys.api.profiles import measure_profile
from deeprecsys.api.trials import LiveTrials
from deeprecsys.api.virtual import NodeModel
from deeprecsys.core.profile import quantiles_of, slowdown
from deeprecsys.core.runlog import RunLog, Status, summarise
from deeprecsys.core.target import percentile
from deeprecsys.node.driver import Recording
from deeprecsys.report import format as f
from deeprecsys.search.capacity import capacity
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.intervals import NEAR
from deeprecsys.search.rank import Ranking
from deeprecsys.search.result import CapacityResult, Settings
from deeprecsys.simulate import fast
from deeprecsys.simulate.driver import Services

SHARES = (0.5, 0.7, 0.85)
ROUNDS = 5
PROFILE_S = 3.0
TRIAL_S = 3.0
CAPACITY_S = 12.0
REPETITIONS = 4
ERRORS = {"p95_error": "simulated", "paced_p95_error": "paced", "given_p95_error": "given"}
"""Key of a point's error -> which simulation it is of."""
STRETCHES = 9
"""Simulations of each live trial."""
QUANTILES = 41
"""Number of quantiles that are kept of the times of all profiles together."""


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Everything about one model."""
    job = experiment(name, rows_scale=0.01 if quick else 1.0)
    rounds, profile_s, capacity_s = (1, 1.0, 2.0) if quick else (ROUNDS, PROFILE_S, CAPACITY_S)
    trial_s = max(0.5 if quick else TRIAL_S, 10 * job.target.latency_s)
    with dr.Node(job.node) as node:
        pieces = [measure_profile(node, job, profile_s)]
        policy, hint_qps = best_on(pieces[0], node, job)
        live: dict[float, list[Live]] = {share: [] for share in SHARES}
        found: list[CapacityResult] = []
        repeated = 0
        trials = Watched(node, job)
        settings = replace(Settings.live(job.target), budget_s=max(capacity_s, 6 * trial_s))
        for seed in range(rounds):
            if seed % 2 == 0:
                found.append(
                    capacity(trials, policy, job.target, hint_qps=hint_qps, settings=settings, seed=seed)
                )
                hint_qps = found[-1].capacity_qps or hint_qps
            about_qps = found[0].capacity_qps or hint_qps
            for share in SHARES:
                ran, again = valid(node, job, policy, share * about_qps, trial_s, seed)
                live[share].append(ran)
                repeated += again
            pieces.append(measure_profile(node, job, profile_s))
        profile = mixture(pieces)
        workers, where = node.workers, node.describe()
    rates = [c.capacity_qps for c in found if c.capacity_qps]
    live_qps = float(np.median(rates))
    predicted = float(np.median([predict(p, job, workers, policy, live_qps) for p in pieces]))
    paths = [NodeModel.of(job, p, workers).path()(policy, live_qps) for p in pieces]
    paces = [trials.pace_near(live_qps) / per_item(path) for path in paths]
    at_pace = [
        predict(p.slowed(pace * slowdown(p.host_s, live_qps, workers)), job, workers, policy, live_qps)
        for p, pace in zip(pieces, paces, strict=True)
    ]
    paced_qps = float(np.median(at_pace))
    return {
        **policy.describe(),
        "points": [compare(share, logs, profile, workers, policy, job) for share, logs in live.items()],
        "predicted_qps": predicted,
        "live_qps": live_qps,
        "live_runs_qps": rates,
        "capacity_error": predicted / live_qps - 1,
        "pace": float(np.median(paces)),
        "paced_qps": paced_qps,
        "paced_capacity_error": paced_qps / live_qps - 1,
        "repeated": repeated,
        "host_us": 1e6 * profile.host_s,
        "node": where,
    }


def predict(
    profile: dr.LatencyProfile, job: dr.Experiment, workers: int, policy: dr.Policy, hint_qps: float
) -> float:
    """The capacity by the simulator."""
    path = NodeModel.of(job, profile, workers).path()
    found = Ranking(path, job.target, hint_qps).score(policy, None).capacity_qps
    assert found is not None
    return found


def best_on(profile: dr.LatencyProfile, node: dr.Node, job: dr.Experiment) -> tuple[dr.Policy, float]:
    """The batch size that the simulator finds best, and about its capacity."""
    search = HillClimb(NodeModel.of(job, profile, node.workers).policies.batches)
    ranking_of(job, profile, node.workers).finish(search)
    assert search.best is not None
    return search.best.policy, search.best.qps


class Live(NamedTuple):
    """A live trial, and what each of its batches took, in order of their numbers."""

    log: RunLog
    batch_s: list[float]


def valid(
    node: dr.Node, job: dr.Experiment, policy: dr.Policy, rate: float, trial_s: float, seed: int
) -> tuple[Live, int]:
    """A live trial that no stall of the machine disturbed, if there is one in a few; how often it was repeated.

    The profile leaves out batches that were held up as well (`core.runlog.STALL`).
    """
    stream = replace(job.workload, seed=seed).stream(rate, duration_s=trial_s)
    again = 0
    while True:
        recording = Recording()
        log = node.run(policy, stream, job.target, recording=recording)
        summary = summarise(log, job.target)
        if again == REPETITIONS or not (summary.disturbed or summary.void):
            return Live(log, [heard - posted for _, posted, _, _, heard in recording.numbered]), again
        again += 1


def compare(
    share: float,
    trials: list[Live],
    profile: dr.LatencyProfile,
    workers: int,
    policy: dr.Policy,
    job: dr.Experiment,
) -> dict[str, Any]:
    """Live percentiles of each trial at a share of the capacity, simulated ones of the same arrivals and sizes,
    and the medians of their errors."""
    kinds: dict[str, list[list[RunLog]]] = {"live": [], "simulated": [], "paced": [], "given": []}
    paces = []
    for record, batch_s in trials:
        virtual = [simulated(record, profile, workers, policy, seed) for seed in range(STRETCHES)]
        each = [occupied_per_item(record) / per_item(v) for v in virtual]
        paces.append(float(np.median(each)))
        kinds["live"].append([record])
        kinds["simulated"].append(virtual)
        host = slowdown(profile.host_s, record.rate_qps, workers)  # a slowed profile has it no more
        kinds["paced"].append(
            [
                simulated(record, profile.slowed(pace * host), workers, policy, k)
                for k, pace in enumerate(each)
            ]
        )
        kinds["given"].append([simulated(record, Given(batch_s), workers, policy, 0)])
    found = {
        f"{kind}_p{100 * q:g}_ms": [
            float(np.median([1e3 * percentile(r.latency_s[r.measured], q) for r in runs])) for runs in logs
        ]
        for kind, logs in kinds.items()
        for q in (0.5, 0.95, 0.99)
    }
    live_ms = np.array(found["live_p95_ms"])
    errors = {
        key: float(np.median(np.array(found[f"{kind}_p95_ms"]) / live_ms - 1)) for key, kind in ERRORS.items()
    }
    logs = [t.log for t in trials]
    return {
        "share": share,
        "rate_qps": logs[0].rate_qps,
        "void": sum(summarise(log, job.target).void for log in logs),
        "paces": paces,
        **found,
        "queries": sum(int(log.measured.sum()) for log in logs),
        **errors,
    }


class Given:
    """Batch times that are known, by number; tests of the live node hold that it numbers as the simulator does."""

    def __init__(self, batch_s: list[float]) -> None:
        self._left = iter(batch_s)

    def __call__(self, batch_items: int, busy_workers: int, u: float, /) -> float:
        return next(self._left)


def simulated(log: RunLog, service: Services, workers: int, policy: dr.Policy, seed: int) -> RunLog:
    """A live trial's queries in virtual time."""
    return fast.run(
        policy, log.arrival_s, log.size, service, workers,
        seed=seed, warmup_s=log.warmup_s, rate_qps=log.rate_qps,
    )  # fmt: skip


def occupied_per_item(log: RunLog) -> float:
    """Worker-seconds from dispatch to completion that an item took live: what a profile's times are."""
    return log.occupied_s / int(log.size.sum())


def per_item(log: RunLog) -> float:
    """Worker-seconds that an item took in virtual time."""
    return log.busy_s / int(log.size.sum())


class Watched(LiveTrials):
    """Live trials whose pace is remembered."""

    def __init__(self, node: dr.Node, job: dr.Experiment) -> None:
        super().__init__(node, job)
        self.seen: list[tuple[float, float, float]] = []  # rate, occupied seconds, items

    def __call__(self, policy: dr.Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        log = super().__call__(policy, rate_qps, duration_s, seed)
        if (log.status == Status.SERVED).all():  # of others it is not known what the time went to
            self.seen.append((rate_qps, log.occupied_s, float(log.size.sum())))
        return log

    def pace_near(self, rate_qps: float) -> float:
        """Seconds that an item took in the trials about a rate; in the nearest one where none was about it."""
        nearest = min(abs(log(r / rate_qps)) for r, _, _ in self.seen)
        near = [(s, n) for r, s, n in self.seen if abs(log(r / rate_qps)) <= max(nearest, NEAR)]
        return sum(s for s, _ in near) / sum(n for _, n in near)


def mixture(pieces: list[dr.LatencyProfile]) -> dr.LatencyProfile:
    """One profile: the times of all pieces, in the order of all of theirs, one after the other."""
    together = list(zip(*(piece.points for piece in pieces), strict=True))
    points = tuple(
        replace(same[0], seconds=quantiles_of(np.concatenate([p.seconds for p in same]), QUANTILES))
        for same in together
    )
    swings = []
    for i, piece in enumerate(pieces):
        relative = [
            np.array(same[i].seconds) / point.mean_s for same, point in zip(together, points, strict=True)
        ]
        spread = np.mean(relative, axis=0)
        swings.append(np.interp(piece.ranks, np.linspace(0, 1, len(spread)), spread))
    host_s = float(np.mean([piece.host_s for piece in pieces]))
    detail = {"pieces": [dict(p.detail) for p in pieces]}
    whole = replace(pieces[0], points=points, detail=detail, host_s=host_s)
    return whole.ordered(np.concatenate(swings))


def run(run: Run) -> None:
    run.each([(m,) for m in MODELS], lambda name: measure(name, run.quick))


def tables(result: Result) -> Tables:
    results = {m: result["models"][m] for m in MODELS if m in result["models"]}
    rows = [
        (name, str(r["batch_size"]), *map(cell, r["points"]),
         f"{f.figure(r['live_qps'])} ({f.figure(min(r['live_runs_qps']))}, {f.figure(max(r['live_runs_qps']))}), "
         f"{f.figure(r['predicted_qps'])}, {f.figure(r['paced_qps'])} QPS", paces(r))
        for name, r in results.items()
    ]  # fmt: skip
    points = [p for r in results.values() for p in r["points"]]
    said = []
    for which, key in (("As predicted", ""), ("At the live trials' own pace", "paced_")):
        p95, worst = off((p[f"{key}p95_error"] for p in points), 0)
        carried, most = off((r[f"{key}capacity_error"] for r in results.values()), 1)
        said.append(f"{which}, the p95 is off by {p95} in the median of {len(points)} points (worst {worst}), "
                    f"the capacity by {carried} (worst {most}).")  # fmt: skip
    p95, worst = off((p["given_p95_error"] for p in points), 0)
    apart = [max(r["live_runs_qps"]) / min(r["live_runs_qps"]) - 1 for r in results.values()]
    said += [
        f"Given the live trials' own batch times, the p95 is off by {p95} in the median (worst {worst}).",
        f"Live searches for one capacity, minutes apart, differ by {100 * float(np.median(apart)):.0f} % in the median "
        f"of {len(apart)} models (worst {100 * max(apart):.0f} %).",
        "",
        f"{measured_on(result['machine'])}, engine eager fp32. `python -m benchmarks.simulate.parity` makes this table.",
    ]
    header = ("model", "batch", "live p95 at 50 %: error as predicted, at its pace, given its batch times", "at 70 %",
              "at 85 %", "capacity: live (from, to), predicted, at its pace", "pace")  # fmt: skip
    return {"parity": "\n".join([markdown(header, rows), "", *said])}


def off(errors: Iterable[float], digits: int) -> tuple[str, str]:
    """The median and the worst size of some errors."""
    sizes = [abs(e) for e in errors]
    return f"{100 * float(np.median(sizes)):.1f} %", f"{100 * max(sizes):.{digits}f} %"


def paces(r: dict[str, Any]) -> str:
    every = [x for p in r["points"] for x in p["paces"]]
    return f"{min(every):.2f}–{max(every):.2f}"


def cell(p: dict[str, Any]) -> str:
    """The median of the trials, in milliseconds, and the median errors."""
    each = ", ".join(f"{100 * p[key]:+.0f} %" for key in ERRORS)
    return f"{f.figure(float(np.median(p['live_p95_ms'])))} ms: {each}"


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
