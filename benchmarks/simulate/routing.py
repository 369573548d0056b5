"""Routers before 64 machines of two kinds, in virtual time: the load each carries, and decisions per second.

32 machines of 16 workers, 32 of 8 workers that take twice as long; production sizes, Poisson arrivals, p95 within 30 ms. The load is a
share of what all workers can do. `weighted` has the best of twelve weights, the others those of the machines' capacities.
Decisions are those of the live router, in Python, on one core, by processor time.
"""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from deeprecsys.core.deadlines import Forecast, LateBudget
from deeprecsys.core.routing import Kind, Router
from deeprecsys.simulate.fleet import ROUTERS, run_fleet
from deeprecsys.workload.sizes import parse

MACHINES, WITHIN_S, MISSES = 32, 0.03, 0.05
QUERIES, DECISIONS, WEIGHTS = 200_000, 200_000, tuple(float(w) for w in np.geomspace(2, 10, 12))


def kinds(sizes: list[int]) -> tuple[Kind, Kind]:
    found = []
    for slow, workers in ((1.0, 16), (2.0, 8)):
        forecast = Forecast([slow * (5e-4 + n * 4e-5) for n in range(1025)], 64, False, LateBudget(MISSES))
        mean_s = float(np.mean([forecast.work_s(n) for n in sizes]))
        found.append(Kind(forecast, workers, workers / mean_s))
    return found[0], found[1]


def run(run: Run) -> Result:
    count = QUERIES // 20 if run.quick else QUERIES
    rng = np.random.default_rng(1)
    size = parse("production").of(rng.random(count), np.zeros(count))
    unit_s = np.cumsum(rng.exponential(size=count))
    both = kinds(size[:4000].tolist())
    most = MACHINES * sum(k.capacity_qps for k in both)

    def carried(router: str, weights: tuple[float, float] | None = None) -> float:
        """By bisection, on one path of queries; its first fifth fills the machines."""
        low, high = 0.0, 1.1
        while high - low > (0.05 if run.quick else 0.002):
            load = (low + high) / 2
            log = run_fleet(
                both, [MACHINES] * 2, unit_s / (load * most), size, router, within_s=WITHIN_S, weights=weights
            )
            late = float((log.latency_s[count // 5 :] > WITHIN_S).mean())
            low, high = (load, high) if late <= MISSES else (low, load)
        return low

    tried = WEIGHTS[:2] if run.quick else WEIGHTS
    best, weight = max((carried("weighted", (w, 1.0)), w) for w in tried)
    found = {r: carried(r) for r in ROUTERS if r != "weighted"} | {"weighted": best}
    return {"carried": found, "best_weight": weight, "decisions_per_s": decisions(both, size, run.quick)}


def decisions(both: tuple[Kind, Kind], size: Any, quick: bool) -> float:
    router = Router(both, [0] * MACHINES + [1] * MACHINES, random.Random(1).random)
    asked = np.resize(size, DECISIONS // 20 if quick else DECISIONS).tolist()
    began = time.process_time()
    for items in asked:
        router.completed(router.route(items, WITHIN_S), items)
    return len(asked) / (time.process_time() - began)


def tables(r: Result) -> Tables:
    says = {
        "completion": "least predicted completion of three, by own account (`core/routing.py`)",
        "least request": "fewest open queries of all 64, by weight",
        "weighted": f"at random, the best weights ({r['best_weight']:.1f} : 1)",
        "power of two": "fewer open queries of two", "round robin": "in turn",
    }  # fmt: skip
    rows = [(says[name], f"{100 * r['carried'][name]:.1f} %") for name in says]
    rows.append(("decisions of the first, on one core", f"{r['decisions_per_s']:,.0f} per second"))
    return {"simulate-routing": markdown(("router", "load at p95 within 30 ms"), rows)}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()
