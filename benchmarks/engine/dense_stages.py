"""The dense stages alone: eager torch against each route, one thread, beside the machine's matrix rate.

    python -m benchmarks.engine.dense_stages [--models A,B] [--batches 1,16] [--rounds N] [--no-save]
    python -m benchmarks.engine.dense_stages --tables      only write the table from what was measured before

In one run: the best library's matrix product at each layer's shape, and for every model, batch and route the
median CPU time of interleaved rounds. Eager is the network called on contiguous tensors, one per input, as its own sparse
stage makes them; a route reads its buffers in place. Keep the machine idle.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks.harness import ROOT, load, put_in, save
from benchmarks.lib.multiply_add import peak_gflops
from deeprecsys.engine.dense import DenseStage, build, installed
from deeprecsys.zoo import MODELS, Model
from deeprecsys.zoo.interest import DienArtefact
from deeprecsys.zoo.networks import weighted
from deeprecsys.zoo.schema import Per

BATCHES = (1, 16, 64, 256, 1024)
CLOCK = time.process_time
"""CPU time, of one thread: who else runs on the machine, or stops this process, costs only caches."""
SHAPES = ((1024, 2560, 512), (1024, 1024, 512), (512, 1024, 1024), (1024, 1024, 1024))
"""Rows, inputs, outputs of the matrix products that the machine's rate is the best of."""
ROUND_S = 0.02
"""A round repeats a call for about so long, so that the clock's own cost does not show."""


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, rounds of all in turn: what disturbs the machine disturbs all alike."""
    repeats = {}
    for name, call in calls.items():
        call()
        began = CLOCK()
        call()
        repeats[name] = max(1, min(500, round(ROUND_S / (CLOCK() - began))))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = CLOCK()
            for _ in range(repeats[name]):
                call()
            taken[name].append((CLOCK() - began) / repeats[name])
    return {name: float(np.median(t)) for name, t in taken.items()}


def matrix_rates(rounds: int) -> dict[str, Any]:
    """GFLOP/s of torch's, numpy's and ONNX Runtime's fp32 product by shape, and the best of all."""
    rates: dict[str, dict[str, float]] = {}
    rng = np.random.default_rng(0)
    for m, k, n in SHAPES:
        x, w = rng.random((m, k), np.float32), rng.random((k, n), np.float32)
        y = np.empty((m, n), np.float32)
        tx, tw, ty = (torch.from_numpy(a) for a in (x, w, y))
        bound = _bound_product(x, w, y)
        calls = {
            "numpy": lambda x=x, w=w, y=y: np.matmul(x, w, out=y),
            "torch": lambda tx=tx, tw=tw, ty=ty: torch.mm(tx, tw, out=ty),
            "onnxruntime": bound,
        }
        taken = interleaved(calls, rounds)
        rates[f"{m}x{k}x{n}"] = {name: 2e-9 * m * k * n / t for name, t in taken.items()}
    return {"by_shape": rates, "best": max(max(r.values()) for r in rates.values())}


def _bound_product(x: Any, w: Any, y: Any) -> Callable[[], Any]:
    """A graph of one product, its weight prepacked."""
    from onnx import TensorProto, helper, numpy_helper

    def info(name: str, a: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape)

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [info("x", x)], [info("y", y)],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


def flops(model: Model, items: int) -> float:
    """Of the dense stage for one slice; the artefact's DIEN less the layer that the routes leave out."""
    total = model.flops(Per.QUERY) + items * model.flops(Per.ITEM)
    if isinstance(model, DienArtefact):
        total -= items * 2 * model.steps * model.hidden**2
    return float(total)


def measure(model: Model, batches: list[int], rounds: int) -> list[dict[str, Any]]:
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
        taken = interleaved(calls, rounds)
        found.append({"batch": items, "flops": flops(model, items), "seconds": taken})
    return found


def line(name: str, row: dict[str, Any], best: float) -> str:
    eager = row["seconds"]["eager"]
    cells = [f"{name:20} {row['batch']:5} {1e6 * eager:9.1f}"]
    for route, s in row["seconds"].items():
        if route != "eager":
            rate = 1e-9 * row["flops"] / s
            cells.append(f"{1e6 * s:9.1f} {eager / s:5.2f}x {rate:6.1f} {100 * rate / best:4.0f} %")
    return "  ".join(cells)


def table(saved: dict[str, Any]) -> str:
    """Markdown: per model and batch eager's milliseconds, ONNX Runtime's, the gain, the share of the best product."""
    best, models = saved["matrix_gflops"]["best"], saved["models"]
    batches = [row["batch"] for row in next(iter(models.values()))]
    lines = ["| model | " + " | ".join(f"b = {b}" for b in batches) + " |", "|---" * (1 + len(batches)) + "|"]
    for name, rows in models.items():
        cells = []
        for row in rows:
            eager, s = row["seconds"]["eager"], row["seconds"]["onnxruntime"]
            share = 1e-9 * row["flops"] / s / best
            cells.append(f"{1e3 * eager:.3g} → {1e3 * s:.3g}, {eager / s:.2f}×, {100 * share:.0f} %")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    m = saved["machine"]
    about = (
        f"Milliseconds of one thread at fp32, eager → ONNX Runtime, the gain, and the share of the best matrix "
        f"product measured in the same run ({best:.1f} GFLOP/s; fused multiply-adds on registers alone: "
        f"{saved['register_gflops']:.1f}). {m['cpu']}; `python -m benchmarks.engine.dense_stages` makes this table."
    )
    return "\n".join(lines) + "\n\n" + about


def flags() -> set[str]:
    """What the CPU can do, in the kernel's words."""
    with open("/proc/cpuinfo") as f:
        return next((set(line.split()) for line in f if line.startswith("flags")), set())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    if args.tables:
        put_in(ROOT / "docs" / "design" / "0008-dense-stage.md", "dense", table(load("engine_dense_stages")))
        return
    torch.set_num_threads(1)
    limit = matrix_rates(args.rounds)
    peak = peak_gflops(16 if "avx512f" in flags() else 8)
    print(f"fused multiply-adds on registers: {peak:.1f} GFLOP/s; best matrix product: {limit['best']:.1f}")
    for shape, rates in limit["by_shape"].items():
        print(f"  {shape}: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    routes = [r for r in installed() if r != "eager"]
    print(
        "model                batch  eager us  "
        + "  ".join(f"{r[:11]:>11} us, gain, GFLOP/s" for r in routes)
    )
    results = {}
    with torch.inference_mode():
        for name in args.models.split(","):
            rows = measure(MODELS[name], [int(b) for b in args.batches.split(",")], args.rounds)
            results[name] = rows
            for row in rows:
                print(line(name, row, limit["best"]), flush=True)
    if not args.no_save:
        about = {
            "threads": 1,
            "clock": "cpu",
            "precision": "fp32",
            "register_gflops": peak,
            "matrix_gflops": limit,
        }
        print(save("engine_dense_stages", {**about, "models": results}))


if __name__ == "__main__":
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # numpy reads it as it is loaded
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
