"""Policies against their bounds on 40 simulated cores: eight models, three targets, and load that changes.

Batch times are the means of `profiles/`, as measured with all workers busy, without spread and without
further contention: then the bounds hold (docs/facts.md §6), and what a policy leaves is its own doing. Every
policy of a case runs the same queries. Nothing here is a measurement of 40 cores. About half an hour.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.experiments import MODELS, kept_profile
from deeprecsys.bounds.bounds import BoundKind
from deeprecsys.bounds.path import bounds_of
from deeprecsys.bounds.work import batch_times
from deeprecsys.core.profile import Point
from deeprecsys.core.runlog import Status
from deeprecsys.core.target import LEVELS, percentile
from deeprecsys.report import format as f
from deeprecsys.search.climbs import HillClimb, finer, model_search
from deeprecsys.search.history import UNREACHABLE, Score, Search, batch_sizes
from deeprecsys.search.rank import capacity_on_path
from deeprecsys.simulate import fast
from deeprecsys.simulate.table import Tabulated
from deeprecsys.zoo import model

CORES = 40
QUERIES = 20_000
TOLERANCE = 2e-3
LOADS = {
    "diurnal": ("diurnal:3,{day}", "production"),
    "bursts": ("bursts:3,0.2,{burst}", "production"),
    "changing sizes": ("poisson", "mix:production@0,mlperf@{part}/{day}"),
}
"""Loads that change: two days in the run, twenty bursts, two size distributions in turn."""


@dataclass(frozen=True)
class Case:
    """One model under one target and load."""

    model: str
    level: str
    load: str = "steady"
    queries: int = QUERIES

    @property
    def target(self) -> dr.Target:
        return dr.Target(latency_s=model(self.model).medium_target_ms / 1e3 * LEVELS[self.level])


class Path:
    """The case's queries, scaled to any rate, and what each policy makes of them."""

    def __init__(self, case: Case, about_qps: float, profile: dr.LatencyProfile | None = None) -> None:
        self.target, self.about_qps, self.sims = case.target, about_qps, 0
        span_s = case.queries / about_qps
        marks = {"day": span_s / 2, "burst": span_s / 20, "part": span_s / 4}
        arrivals, sizes = LOADS.get(case.load, ("poisson", "production"))
        workload = dr.Workload.parse(arrivals.format(**marks), sizes.format(**marks), seed=7)
        self.stream = workload.stream(about_qps, queries=case.queries)
        self._service = Tabulated(profile or steady_profile(case.model))

    def latency_s(self, policy: dr.Policy, rate_qps: float) -> tuple[np.ndarray[Any, Any], bool]:
        arrival_s = self.stream.arrival_s * (self.about_qps / rate_qps)
        log = fast.run(policy, arrival_s, self.stream.size, self._service, CORES, rate_qps=rate_qps)
        self.sims += 1
        return log.latency_s, bool((log.status == Status.SERVED).all())

    def capacity(self, policy: dr.Policy, hint_qps: float, floor_qps: float | None = None) -> float:
        def meets(rate_qps: float) -> bool:
            latency_s, served = self.latency_s(policy, rate_qps)
            return served and percentile(latency_s, self.target.quantile) <= self.target.latency_s

        return capacity_on_path(meets, hint_qps, floor_qps=floor_qps, tolerance=TOLERANCE)

    def finish(self, search: Search, hint_qps: float) -> tuple[dr.Policy | None, float]:
        """The best policy that a search finds, and its capacity."""
        while (policy := search.ask()) is not None:
            found = self.capacity(policy, hint_qps, search.floor_qps)
            search.tell(policy, Score.exactly(found) if found else UNREACHABLE)
        return (search.best.policy, search.best.qps) if search.best else (None, 0.0)


def steady_profile(name: str) -> dr.LatencyProfile:
    """The measured profile of a model with all workers busy, as constant times."""
    measured = kept_profile(name)
    # A batch that is slower than a longer one was disturbed; the simulator's policies would exploit it.
    curve = measured.curve(max(measured.busy_levels))
    means = np.minimum.accumulate(np.array([p.mean_s for p in curve])[::-1])[::-1]
    points = [Point(1, p.batch, (float(s),)) for p, s in zip(curve, means, strict=True)]
    return dr.LatencyProfile(name, tuple(points), measured.engine, machine=measured.machine)


def path_of(case: Case) -> tuple[Path, np.ndarray[Any, Any]]:
    """The case's queries, and s(b) for every b."""
    times = batch_times(steady_profile(case.model), 1000)
    sample = dr.Workload.parse(seed=7).stream(1.0, queries=2000).size
    return Path(case, CORES / float(times[sample - 1].mean())), times


def compute(case: Case) -> dict[str, Any]:
    """Bounds, the best fixed batch size, and every policy's best."""
    began = time.monotonic()
    path, times = path_of(case)
    reference, about = path.stream, path.about_qps
    bounds = {}
    for shared in (False, True):
        found = bounds_of(
            times, CORES, path.target, reference.arrival_s, reference.size, coalescing=shared, rate_qps=about
        )
        bounds |= {b.name: b.rate_qps for b in found.values()}
    hint = 0.9 * bounds["o_fcfs"] if np.isfinite(bounds["o_fcfs"]) and bounds["o_fcfs"] else about
    sizes = batch_sizes(1000, 25)

    policies: dict[str, dict[str, Any]] = {}

    def keep(name: str, policy: dr.Policy | None, qps: float) -> None:
        policies[name] = {"qps": qps, **(policy.describe() if policy else {})}
        if policy and qps:
            latency_s, _ = path.latency_s(policy, qps)
            policies[name]["p99_ms"] = 1e3 * percentile(latency_s, 0.99)

    keep("static", dr.Static(25), path.capacity(dr.Static(25), hint))
    fixed = {b: path.capacity(dr.DeepRecSched(b), hint) for b in sizes}
    best_b = max(fixed, key=lambda b: fixed[b])
    keep("best fixed", dr.DeepRecSched(best_b), fixed[best_b])
    path.sims = 0
    climbed = path.finish(HillClimb(sizes), hint)
    keep("hill climb", *climbed)
    climb_sims = path.sims
    top = max(hint, fixed[best_b])
    for name, kind in LATE_CUTS.items():
        keep(name, *exhaustive(path, merging(kind, sizes), top))
    path.sims = 0
    searched = path.finish(model_search(sizes), hint)
    keep("search by model", *searched)
    search_sims = path.sims
    for name, candidates in others(case, best_b).items():
        keep(name, *exhaustive(path, candidates, top))
    return {
        "model": case.model, "level": case.level, "load": case.load, "queries": len(reference),
        "target_ms": 1e3 * path.target.latency_s, "bounds": bounds, "policies": policies,
        "fixed": fixed, "climb_sims": climb_sims, "search_sims": search_sims,
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def others(case: Case, best_b: int) -> dict[str, list[dr.Policy]]:
    """Deadline order, and what other servers do, each with the knobs that its users would try."""
    limit_s = case.target.latency_s
    delays = (0.0, limit_s / 10)
    ours: dict[str, list[dr.Policy]] = {"deadline": [dr.Deadline(best_b, limit_s)]}
    if case.load != "steady":
        return ours
    return ours | {
        "tf-serving": [dr.TFServing(best_b, d) for d in delays],
        "triton": [dr.Triton(1000, d) for d in delays],
        "bentoml": [dr.BentoML(1000)],
        "clipper": [dr.Clipper(limit_s / 2)],
    }


def merging(kind: type[dr.Adaptive | dr.Coalescing], sizes: Sequence[int]) -> list[dr.Policy]:
    """Every pair of sizes; and one size for both, those between the rungs too."""
    pairs: list[dr.Policy] = [kind(b, x) for b in sizes for x in sizes if x <= b]
    return [*pairs, *(kind(b, b) for b in finer(finer(sizes)))]


def exhaustive(path: Path, candidates: Sequence[dr.Policy], hint: float) -> tuple[dr.Policy | None, float]:
    """The best of all candidates, and its capacity; None and 0 where none meets the target."""
    best, best_qps = None, 0.0
    for policy in candidates:
        found = path.capacity(policy, hint, best_qps or None)
        if found > best_qps:
            best, best_qps = policy, found
    return best, best_qps


LATE_CUTS = {"adaptive": dr.Adaptive, "coalescing": dr.Coalescing}
SHOWN = ("adaptive", "coalescing", "deadline", "tf-serving", "triton", "bentoml", "clipper")
OURS = ("adaptive", "coalescing", "deadline")
SHARED = ("coalescing", "triton", "tf-serving", "bentoml", "clipper")


def share(row: Result, name: str, kind: BoundKind) -> float:
    """A policy's share of a bound, of that with coalescing where it shares batches."""
    bound = row["bounds"][f"{kind}{'_coalescing' if name in SHARED else ''}"]
    return float(row["policies"][name]["qps"] / bound) if bound else float("nan")


def main_table(rows: list[Result]) -> str:
    """Each policy's capacity in per cent of O_fcfs; the best of ours is bold."""
    header = ("model", "target", "O_fcfs, QPS", "static", "best fixed (batch)", *SHOWN)
    out: list[tuple[str, ...]] = []
    for r in rows:
        bound, found, target = r["bounds"]["o_fcfs"], r["policies"], f"{r['target_ms']:g} ms"
        name = r["model"] if r["load"] == "steady" else f"{r['model']}, {r['load']}"
        if not bound:
            out.append((r["model"], target, "no query of the largest 5 % fits", *("",) * 9))
            continue
        shares = {n: f"{100 * p['qps'] / bound:.1f}" for n, p in found.items()}
        cells = {n: shares.get(n, "–") for n in ("static", "best fixed", *SHOWN)}
        best = max((n for n in ("best fixed", *OURS) if n in found), key=lambda n: found[n]["qps"])
        shown = {n: f"**{c}**" if c == cells[best] and n in SHOWN else c for n, c in cells.items()}
        shown["best fixed"] += f" ({found['best fixed']['batch_size']})"
        out.append((name, target, f.figure(bound), *shown.values()))
    return markdown(header, out)


def most(row: Result, *names: str) -> float:
    """The capacity of the best of some policies of a case."""
    return max(float(row["policies"][n]["qps"]) for n in names)


def verdict(rows: list[Result]) -> str:
    """What the case table shows, in words."""
    steady = [r for r in rows if r["load"] == "steady" and r["bounds"]["o_fcfs"]]
    lines = []
    for level in LEVELS:
        here = [r for r in steady if r["level"] == level]
        shares = {r["model"]: max(share(r, n, BoundKind.O_FCFS) for n in LATE_CUTS) for r in here}
        if shares:
            worst = min(shares, key=lambda m: shares[m])
            lines.append(
                f"- {level} target: the better of adaptive and coalescing reaches {100 * shares[worst]:.1f} % of its bound at the least ({worst}), {100 * geometric_mean(shares.values()):.1f} % in the geometric mean of {len(shares)} models."
            )
    met = [r for r in rows if most(r, "best fixed")]
    climbs = [most(r, "hill climb") / most(r, "best fixed") for r in met]
    searches = [most(r, "search by model") / most(r, "best fixed", *LATE_CUTS) for r in met]
    gains = [most(r, *LATE_CUTS, "search by model") / most(r, "best fixed") for r in met]
    over = [(r["model"], r["level"], r["load"], n) for r in rows if r["bounds"]["o_fcfs"] for n in r["policies"]
            if n in OURS + SHARED and share(r, n, BoundKind.O_DROP) > 1 + TOLERANCE]  # fmt: skip
    sims = int(np.median([r["search_sims"] for r in rows]))
    lines += [
        f"- The best of our policies carries {min(gains):.3f} times what the best fixed batch size does at the least, "
        f"{geometric_mean(gains):.2f} times in the geometric mean, {max(gains):.2f} times at the most ({len(gains)} cases).",
        f"- The hill climb over batch sizes reaches {100 * min(climbs):.1f} % of the best batch size at the least ({len(climbs)} cases).",
        f"- The search over all policies reaches {100 * min(searches):.1f} % of the exhaustive optimum at the least, with {sims} simulated trials in the median and no live query.",
        f"- Policies above their O_drop bound: {over or 'none'}.",
    ]
    return "\n".join(lines)


def cases(quick: bool) -> list[Case]:
    if quick:
        return [Case("wnd", "medium", load, 500) for load in ("steady", "bursts")]
    steady = [Case(m, level) for m in MODELS for level in LEVELS]
    return steady + [Case(m, "medium", load) for m in MODELS for load in LOADS]


def run(run: Run) -> None:
    rows = run.result.get("cases", []) if run.options.more and not run.quick else []
    done = {(r["model"], r["level"], r["load"]) for r in rows}
    todo = [c for c in cases(run.quick) if (c.model, c.level, c.load) not in done]
    with ProcessPoolExecutor(2) as pool:
        for row in pool.map(compute, todo):
            rows.append(row)
            run.save({"cores": CORES, "cases": rows})
            best = max(row["policies"], key=lambda n: row["policies"][n]["qps"])
            print(f"{row['model']} {row['level']} {row['load']}: {best} best", flush=True)


def tables(result: Result) -> Tables:
    rows = result["cases"]
    steady, changing = ([r for r in rows if (r["load"] == "steady") == s] for s in (True, False))
    return {"policy-verdict": verdict(rows), "policies-steady": main_table(steady),
            "policies-changing": main_table(changing)}  # fmt: skip


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables,
    options={"--more": {"action": "store_true", "help": "keep the cases that were computed before"}},
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
