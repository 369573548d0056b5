"""Two ways to find a queue's capacity, side by side: the artefact's rule and the capacity search.

Both look for the highest rate with p95 within the target on the same virtual M/D/1 and M/D/c queues, whose capacity
theory knows exactly. The artefact's rule is as its code runs it (docs/facts.md §4): 128 updates of
64 queries, each update raises the rate by one grid step where the p95 of its 64 samples is within the target and
lowers it otherwise; the answer is the median of the last 50 steps. Its step is not published: 5 % and 1 % are shown.
Its faults of another kind (gaps of whole milliseconds, queues drained) are left out here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from deeprecsys.search.capacity import capacity
from deeprecsys.search.confirm import ConfirmSettings, confirm
from deeprecsys.search.events import Event, TrialDone
from deeprecsys.search.history import Evaluation
from deeprecsys.search.result import Settings
from tests.search.queues import MDc, theory_qps, wait_tail  # the tests' own queues and theory

UPDATES, WINDOW, LAST = 128, 64, 50
QUEUES = [(1, 10.0), (1, 50.0), (4, 5.0), (16, 4.0)]
EXCESS = 1.1  # a point clearly misses its target where its true miss rate is this many times the allowed one


def artefact(servers: int, target: dr.Target, hint_qps: float, seed: int, step: float) -> tuple[float, int]:
    """The rate that the artefact's rule settles on, and its queries. The queue goes on from update to update."""
    rng = np.random.default_rng(seed)
    free = [0.0] * servers
    rate, now, number, rates = hint_qps, 0.0, 0, []
    for _ in range(UPDATES):
        latency = []
        for gap in rng.exponential(1 / rate, WINDOW):
            now += gap
            start = max(now, free[number % servers])  # equal services: each server takes every c-th query
            free[number % servers] = start + 1.0
            latency.append(start + 1.0 - now)
            number += 1
        rates.append(rate)
        rate *= 1 + step if np.percentile(latency, 95) <= target.latency_s else 1 / (1 + step)
    return float(np.median(rates[-LAST:])), number


def ours(
    settings: Settings, confirming: ConfirmSettings
) -> Callable[[int, dr.Target, float, int], tuple[float, float, int, bool]]:
    """The capacity search as a rule: estimate, confirmed point, queries, whether the interval covers theory."""

    def rule(servers: int, target: dr.Target, hint_qps: float, seed: int) -> tuple[float, float, int, bool]:
        trial, policy, queries = MDc(servers, target), dr.Static(1), 0

        def count(event: Event) -> None:
            nonlocal queries
            queries += event.queries if isinstance(event, TrialDone) else 0

        found = capacity(
            trial, policy, target, hint_qps=hint_qps, settings=settings, seed=seed, progress=count
        )
        assert found.capacity_qps is not None
        (point,) = confirm(trial, [Evaluation(policy, found)], target, confirming, seed=seed, progress=count)
        theory = theory_qps(servers, target)
        return found.capacity_qps, point.qps, queries, found.low_qps <= theory <= found.high_qps

    return rule


@cache
def _tail(servers: int, target: dr.Target) -> tuple[np.ndarray, np.ndarray]:
    """The exact miss rate on a fine grid of rates about the capacity, logarithms of both."""
    theory = theory_qps(servers, target)
    rates = np.linspace(0.8 * theory, min(1.1 * theory, 0.985 * servers), 80)
    return np.log(rates), np.log([wait_tail(r, servers, target.latency_s - 1.0) for r in rates])


def true_miss(rate: float, servers: int, target: dr.Target) -> float:
    """The long-run miss rate at a rate; 1 at and beyond what is stable."""
    rates, misses = _tail(servers, target)
    return float(np.exp(np.interp(np.log(rate), rates, misses, right=0.0)))


def figures(
    rule: str, servers: int, target: dr.Target, rows: list[tuple[float, float, int, bool | None]]
) -> dict[str, Any]:
    theory = theory_qps(servers, target)
    error = np.array([r[0] for r in rows]) / theory - 1
    misses = np.array([true_miss(r[1], servers, target) for r in rows])
    allowed = target.miss_rate
    return {
        "rule": rule,
        "queue": f"M/D/{servers}",
        "target_services": target.latency_s,
        "theory_qps": theory,
        "seeds": len(rows),
        "mean_error": float(error.mean()),
        "rms_error": float(np.sqrt((error**2).mean())),
        "largest_error": float(np.abs(error).max()),
        "point_misses": float((misses > allowed).mean()),
        "point_misses_clearly": float((misses > EXCESS * allowed).mean()),
        "mean_true_miss_rate": float(misses.mean()),
        "covered": None if rows[0][3] is None else float(np.mean([r[3] for r in rows])),
        "queries": float(np.mean([r[2] for r in rows])),
    }


def compare(servers: int, latency: float, seeds: int) -> list[dict[str, Any]]:
    """All rules on one queue, from the same hints."""
    target = dr.Target(latency_s=latency)
    hints = [servers * (0.9 if seed % 2 else 0.3) for seed in range(seeds)]
    found = []
    for step in (0.05, 0.01):
        answers = [artefact(servers, target, hint, seed, step) for seed, hint in enumerate(hints)]
        rows = [(rate, rate, queries, None) for rate, queries in answers]
        found.append(figures(f"artefact, steps of {100 * step:g} %", servers, target, rows))
    # As many queries as the artefact's rule takes, and as many as 1 % takes; each confirmed as `tune` does.
    budget_s = UPDATES * WINDOW / theory_qps(servers, target)
    equal = Settings(resolution=0.002, trial_s=budget_s / 15, budget_s=0.7 * budget_s, least_queries=50)
    fresh = ConfirmSettings(trial_s=0.1 * budget_s)
    exact = Settings.virtual(target)
    confirmed = ConfirmSettings(trial_s=10 * exact.trial_s, confidence=0.99, margin=0.01, step=0.01)
    for name, settings, confirming in (
        ("search, as many queries", equal, fresh),
        ("search, to 1 %", exact, confirmed),
    ):
        rule = ours(settings, confirming)
        rows = [rule(servers, target, hint, seed) for seed, hint in enumerate(hints)]
        found.append(figures(name, servers, target, rows))
    return found


def tables(result: Result) -> Tables:
    rows = [
        (f"{r['queue']}, {r['target_services']:g} services", r["rule"], f"{100 * r['mean_error']:+.1f} %",
         f"{100 * r['rms_error']:.1f} %", f"{100 * r['point_misses']:.0f} %",
         "–" if r["covered"] is None else f"{100 * r['covered']:.0f} %", f"{r['queries']:,.0f}")
        for r in result["rows"]
    ]  # fmt: skip
    header = ("queue, target", "rule", "mean error", "r.m.s. error", "its points miss the target",
              "interval covers", "queries")  # fmt: skip
    return {"artefact-rule": markdown(header, rows)}


def run(run: Run) -> Result:
    queues, seeds = (QUEUES[:1], 2) if run.quick else (QUEUES, run.options.seeds)
    return {"excess": EXCESS, "rows": [row for queue in queues for row in compare(*queue, seeds)]}


BENCHMARK = Benchmark(__file__, __doc__, run, tables, options={"--seeds": {"type": int, "default": 100}})

if __name__ == "__main__":
    BENCHMARK.main()
