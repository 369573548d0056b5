"""What a call of the compiled engine costs at one item besides its stages, and what of that is cold caches.

`in place`: the whole call less what it spends in the gather kernel and in the dense route, timed where they happen.
`warm`: the same path with both left out, so that nothing but itself has used the caches since the call
before. What lies between is the price of a path whose code and objects the model's own weights and rows have
displaced; the bytes of weights that each call reads are given too. About two minutes; keep the machine idle.
"""

from __future__ import annotations

from statistics import median
from timeit import timeit
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.engine_contenders import Inside
from benchmarks.lib.experiments import MODELS, filled_memory
from benchmarks.lib.machine_limits import in_turn
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.report import format as f
from deeprecsys.zoo import model
from deeprecsys.zoo.networks import weighted

QUERIES, ROUNDS, CALLS, WARM_CALLS = 4096, 7, 200, 2000


def measure(name: str, scale: float, rounds: int) -> dict[str, float]:
    """Medians of the rounds, both kinds in turn."""
    memory = filled_memory(name, scale, 1)
    network = model(name).scaled(scale)
    engine: Any = build("compiled", Assembly(network, memory.tables, memory.inputs))
    out = np.zeros((1, network.schema.outputs), np.float32)
    handles = np.random.default_rng(0).integers(0, 1 << 62, QUERIES).tolist()
    slices = [SliceView(memory.features.rows_at(h), 0, 1, out) for h in handles]
    call = in_turn(slices, lambda part: engine.score([part]))
    inside = Inside(engine)
    whole, in_place, warm = [], [], []
    for _ in range(rounds + 1):
        whole.append(1e6 * timeit(call, number=CALLS) / CALLS)
        in_place.append(inside.excess_us(call, CALLS))
        warm.append(inside.without_us(call, WARM_CALLS))
    memory.close()
    return {
        "whole_us": median(whole[1:]),  # the first warms up
        "in_place_us": median(in_place[1:]),
        "warm_us": median(warm[1:]),
        "weight_bytes": sum(p.numel() * p.element_size() for p in weighted(network, 0).parameters()),
    }


def run(run: Run) -> None:
    scale, rounds = (0.01, 1) if run.quick else (1.0, ROUNDS)
    run.each([(m,) for m in MODELS], lambda name: measure(name, scale, rounds))


def tables(result: Result) -> Tables:
    header = ("model", "whole call, µs", "weights", "besides its stages, in place, µs", "warm, µs")
    rows = [
        (m, f.figure(r["whole_us"]), f"{r['weight_bytes'] / 1e6:.1f} MB", f.figure(r["in_place_us"]), f.figure(r["warm_us"]))
        for m in MODELS if (r := result["models"].get(m))
    ]  # fmt: skip
    return {"call": markdown(header, rows)}


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
