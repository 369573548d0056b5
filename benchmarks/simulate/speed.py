"""How fast the simulator is: the compiled path beside the reference driver, on one core.

16 workers, production sizes, Poisson arrivals at 90 % of what the workers can do. The two take turns, so that
neither has the quieter machine; of each the best round counts. The numbers of both are compared on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, figures
from deeprecsys.core.profile import Point
from deeprecsys.core.runlog import RunLog
from deeprecsys.simulate import fast as simulator
from deeprecsys.simulate.driver import simulate
from deeprecsys.simulate.table import Tabulated
from deeprecsys.workload.sizes import parse

WORKERS = 16
UTILISATION = 0.9
QUERIES, QUERIES_REFERENCE = 1_000_000, 20_000
ROUNDS = 5
BATCH_SIZES = (25, 50, 100, 200, 1000)
FACTORS = (0.9, 0.97, 1.0, 1.05, 1.4)


def profile(spread: bool) -> Tabulated:
    """s(b) = 0.3 + 0.05 b ms; with `spread`, five quantiles and three levels of contention."""
    factors, levels = (FACTORS, (1, 8, 16)) if spread else ((1.0,), (1,))
    points = [
        Point(busy, b, tuple(f * (0.3e-3 + 0.05e-3 * b) * (1 + (busy - 1) / 64) for f in factors))
        for busy in levels
        for b in (1, 1000)
    ]
    return Tabulated(dr.LatencyProfile("affine", tuple(points)))


def timed(run: Callable[[], RunLog]) -> tuple[float, RunLog]:
    began = time.perf_counter()
    log = run()
    return time.perf_counter() - began, log


def same(a: RunLog, b: RunLog) -> bool:
    pairs = ((a.start_s, b.start_s), (a.finish_s, b.finish_s), (a.status, b.status))
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in pairs)


def measure(batch_size: int, spread: bool, size: NDArray[np.int32], rounds: int) -> dict[str, Any]:
    times = profile(spread)
    slices = -(-size // batch_size)
    mean_s = float((slices * 0.3e-3 + size * 0.05e-3).mean()) * (1.25 if spread else 1.0)
    gaps = np.random.default_rng(2).exponential(mean_s / (UTILISATION * WORKERS), len(size))
    arrival_s = np.cumsum(gaps)
    few = min(QUERIES_REFERENCE, len(size))

    def fast(n: int) -> RunLog:
        return simulator.run(dr.Static(batch_size), arrival_s[:n], size[:n], times, WORKERS)

    def reference() -> RunLog:
        return simulate(dr.Static(batch_size), arrival_s[:few], size[:few], times, WORKERS)

    if not same(fast(few), reference()):
        raise SystemExit("the compiled path and the reference driver differ")
    best_fast = best_reference = float("inf")
    for _ in range(rounds):
        seconds, log = timed(lambda: fast(len(size)))
        best_fast = min(best_fast, seconds)
        best_reference = min(best_reference, timed(reference)[0])
    ways = {"fast": (len(size), best_fast), "reference": (few, best_reference)}
    return {
        "batch_size": batch_size, "spread": spread, "slices_per_query": float(slices.mean()),
        "utilisation": log.busy_s / (WORKERS * log.duration_s),
        **{way: {"queries_per_s": n / took, "slices_per_s": float(slices[:n].sum()) / took} for way, (n, took) in ways.items()},
    }  # fmt: skip


def run(run: Run) -> Result:
    queries, rounds = (20_000, 1) if run.quick else (QUERIES, ROUNDS)
    size = parse("production").of(np.random.default_rng(1).random(queries), np.zeros(queries))
    cases = []
    for spread in (False, True):
        for batch_size in BATCH_SIZES:
            cases.append(measure(batch_size, spread, size, rounds))
            rates = {f"{way} {k}": v for way in ("fast", "reference") for k, v in cases[-1][way].items()}
            print(f"batch {batch_size:4d} {'spread' if spread else 'constant'}: {figures(rates)}", flush=True)
    return {"workers": WORKERS, "sizes": "production", "queries": queries, "cases": cases}


BENCHMARK = Benchmark(__file__, __doc__, run)

if __name__ == "__main__":
    BENCHMARK.main()
