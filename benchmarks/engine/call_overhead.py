"""What a call of the compiled engine costs at one item besides its stages, and what of that is cold caches.

    python -m benchmarks.engine.call_overhead [MODEL ...]     about two minutes
    python -m benchmarks.engine.call_overhead --tables        only write the table from what was measured before

`in place`: the whole call less what it spends in the gather kernel and in the dense route, timed where they happen.
`warm`: the very same path with both left out, so that nothing but itself has used the caches since the call
before. What lies between is the price of a path whose code and objects the model's own weights and rows have
displaced; the bytes of weights that each call reads stand beside it. Keep the machine idle.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, load, put_in, save
from benchmarks.lib.engine_contenders import Inside
from benchmarks.search.eight_models import MODELS
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.node.runtime.layout import FeaturePool, ModelLayout, ModelMemory
from deeprecsys.report import format as f
from deeprecsys.zoo import model
from deeprecsys.zoo.networks import weighted

QUERIES, ROUNDS, CALLS, WARM_CALLS = 4096, 7, 200, 2000


def measure(name: str) -> dict[str, float]:
    """Medians of the rounds, both kinds in turn."""
    pool = FeaturePool(1, max_open=1, locality="uniform")
    memory = ModelMemory.of_trials(ModelLayout(name, 1.0, "fp32", pool), seed=0)
    network = model(name)
    engine: Any = build("compiled", Assembly(network, memory.tables, memory.inputs))
    out = np.zeros((1, network.schema.outputs), np.float32)
    handles = np.random.default_rng(0).integers(0, 1 << 62, QUERIES).tolist()
    parts = [SliceView(memory.features.rows_at(h), 0, 1, out) for h in handles]
    turn = 0

    def call() -> None:
        nonlocal turn
        turn = (turn + 1) % QUERIES
        engine.score([parts[turn]])

    inside = Inside(engine)
    whole, in_place, warm = [], [], []
    for _ in range(ROUNDS + 1):
        whole.append(1e6 * per_call(call, CALLS))
        in_place.append(inside.excess_us(call, CALLS))
        warm.append(inside.without_us(call, WARM_CALLS))
    dense = weighted(network, 0)
    found = {
        "whole_us": median(whole[1:]),  # the first warms up
        "in_place_us": median(in_place[1:]),
        "warm_us": median(warm[1:]),
        "weight_bytes": sum(p.numel() * p.element_size() for p in dense.parameters()),
    }
    memory.close()
    return found


def per_call(call: Callable[[], None], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def table(results: dict[str, Any]) -> str:
    lines = [
        "| model | whole call, µs | weights | besides its stages, in place, µs | warm, µs |",
        "|---" * 5 + "|",
    ]
    for name in (m for m in MODELS if m in results):
        r = results[name]
        lines.append(f"| {name} | {f.figure(r['whole_us'])} | {r['weight_bytes'] / 1e6:.1f} MB "
                     f"| {f.figure(r['in_place_us'])} | {f.figure(r['warm_us'])} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(MODELS)
    results = load("engine_call_overhead").get("models", {})
    if "--tables" not in sys.argv:
        for name in names:
            results[name] = measure(name)
            print(name, {k: round(v, 1) for k, v in results[name].items()}, flush=True)
            save("engine_call_overhead", {"models": results})
    print(table(results))
    put_in(ROOT / "docs" / "results.md", "call", table(results))


if __name__ == "__main__":
    main()
