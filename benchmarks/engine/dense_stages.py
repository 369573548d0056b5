"""The dense stages alone: eager torch against each route, one thread, beside the machine's matrix rate.

In one run: the best library's matrix product at each layer's shape, and for every model, batch and route the
median CPU time of interleaved rounds. Eager is the network called on contiguous tensors, one per input, as its own sparse
stage makes them; a route reads its buffers in place. Keep the machine idle.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.machine_limits import Products, interleaved, product_rates
from benchmarks.lib.multiply_add import register_gflops
from deeprecsys.engine.dense import DenseStage, build, installed
from deeprecsys.zoo import MODELS, Model
from deeprecsys.zoo.interest import DienArtefact
from deeprecsys.zoo.networks import weighted
from deeprecsys.zoo.schema import Per

BATCHES, ROUNDS = (1, 16, 64, 256, 1024), 15
SHAPES = ((1024, 2560, 512), (1024, 1024, 512), (512, 1024, 1024), (1024, 1024, 1024))
"""Rows, inputs, outputs of the matrix products that the machine's rate is the best of."""
ROUND_S = 0.02
"""A round repeats a call for about this time, so that the clock's own cost does not show."""


def flops(model: Model, items: int) -> float:
    """FLOPs of the dense stage for one slice; the artefact's DIEN less the layer that the routes leave out."""
    total = model.flops(Per.QUERY) + items * model.flops(Per.ITEM)
    if isinstance(model, DienArtefact):
        total -= items * 2 * model.steps * model.hidden**2
    return float(total)


@torch.inference_mode()
def measure(model: Model, batches: list[int], rounds: int, round_s: float) -> list[dict[str, Any]]:
    """Seconds of eager and every route at each batch size."""
    network = weighted(model, 0)
    stages: dict[str, DenseStage] = {r: build(r, model, network) for r in installed() if r != "eager"}
    rng = np.random.default_rng(1)
    found = []
    for items in batches:
        calls: dict[str, Callable[[], Any]] = {}
        for route, stage in stages.items():
            stage.reserve(items, 1)
            for buffer in stage.buffers.values():
                buffer[...] = rng.uniform(-1, 1, buffer.shape)
            out = np.empty((items, model.schema.outputs), np.float32)
            calls[route] = lambda stage=stage, out=out, items=items: stage.run(items, None, out)
        rows = {b.name: items if b.per is Per.ITEM else 1 for b in stage.layout.buffers}
        views = stage.layout.views({n: b[: rows[n]] for n, b in stage.buffers.items()})
        x = {name: torch.from_numpy(view.copy()) for name, view in views.items()}
        calls["eager"] = lambda x=x: network(x, None)
        taken = interleaved(calls, rounds, round_s)
        seconds = {name: taken.median(name) for name in calls}
        found.append({"batch": items, "flops": flops(model, items), "seconds": seconds})
        eager = seconds["eager"]
        gains = ", ".join(f"{r} {eager / s:.2f}×" for r, s in seconds.items() if r != "eager")
        print(f"{model.name:20} {items:5} eager {1e6 * eager:9.1f} µs; {gains}", flush=True)
    return found


def run(run: Run) -> None:
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # numpy reads it as it is loaded
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        os.execv(sys.executable, sys.orig_argv)
    torch.set_num_threads(1)
    rounds, round_s = (2, 1e-3) if run.quick else (run.options.rounds, ROUND_S)
    batches = BATCHES[:2] if run.quick else [int(b) for b in run.options.batches.split(",")]
    products = Products()
    limit = product_rates(products, ("numpy", *products.libraries()), SHAPES, rounds, round_s)
    about = {"threads": 1, "clock": "cpu", "precision": "fp32", "register_gflops": register_gflops(),
             "matrix_gflops": limit}  # fmt: skip
    run.each([(m,) for m in MODELS], lambda name: measure(MODELS[name], batches, rounds, round_s), **about)


def tables(result: Result) -> Tables:
    """Per model and batch eager's milliseconds, ONNX Runtime's, the gain, the share of the best product."""
    best, models = result["matrix_gflops"]["best"], result["models"]
    lines = []
    for name, rows in models.items():
        cells = []
        for row in rows:
            eager, s = row["seconds"]["eager"], row["seconds"]["onnxruntime"]
            share = 1e-9 * row["flops"] / s / best
            cells.append(f"{1e3 * eager:.3g} → {1e3 * s:.3g}, {eager / s:.2f}×, {100 * share:.0f} %")
        lines.append((name, *cells))
    about = (
        f"Milliseconds of one thread at fp32, eager → ONNX Runtime, the gain, and the share of the best matrix "
        f"product measured in the same run ({best:.1f} GFLOP/s; fused multiply-adds on registers alone: "
        f"{result['register_gflops']:.1f}). {result['machine']['cpu']}; `python -m benchmarks.engine.dense_stages` makes this table."
    )
    header = ("model", *(f"b = {row['batch']}" for row in next(iter(models.values()))))
    return {"docs/design/0008-dense-stage.md#dense": f"{markdown(header, lines)}\n\n{about}"}


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables, tuple(MODELS),
    {"--batches": {"default": ",".join(map(str, BATCHES))}, "--rounds": {"type": int, "default": ROUNDS}},
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
