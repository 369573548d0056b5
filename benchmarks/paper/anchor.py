"""Eager torch's batches of all eight models, part by part, and the limits of one core: the anchor of modelled platforms.

Each operator is timed where it runs in its batch, between batches that are timed whole. Limits: those that
`platform_check` needs, and terms of the hardware alone (clock, bytes per cycle of each cache, latencies, lines in flight),
which data sheets have too. Written beside the platforms' code; `--isa avx2` measures a machine of narrower vectors.
One core, some five minutes; keep the machine idle.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Run, commit
from benchmarks.lib.core_limits import limits_of_machine
from benchmarks.lib.experiments import filled_memory
from benchmarks.lib.machine_limits import in_turn
from deeprecsys.engine import isa as isas
from deeprecsys.machine.record import machine_record
from deeprecsys.paper.platforms.anchored import FORMAT
from deeprecsys.paper.platforms.anchors import EAGER_FILE
from deeprecsys.paper.published import MODELS
from deeprecsys.zoo import model

ZEN_5_INSTRUCTIONS = 1.07 * 1.19 * 1.13 * 1.16
"""Zen 2 over Skylake (AnandTech's review of the Ryzen 3000, SPECint2017 by clock); Zen 3, 4, 5 each over the one before
(AMD, at their launches)."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
SECONDS = 0.5
"""Of each batch size, at least."""
LEAST = 6
"""Rounds of each batch size."""
QUERIES = 4096
"""Whose features are read in turn."""
PRODUCTS = ("linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "gru")


def kind() -> str:
    """The name of this kind of machine, under the instruction set that it is held to."""
    record = machine_record()
    cpu = record["cpu"].split()[0].lower()
    family = record["cpu_family_model"].replace("/", "-")
    held = next(
        (
            n
            for n in isas.ISAS
            if os.environ.get("ATEN_CPU_CAPABILITY") == isas.ISAS[n].environment["ATEN_CPU_CAPABILITY"]
        ),
        None,
    )
    widest = "avx512" if "avx512f" in record["isa"] else "avx2"
    return f"{cpu}-{family}-{held or widest}"


def rows_of(name: str, shapes: tuple[tuple[int, ...], ...]) -> int:
    """Rows of the left matrix of a product; 0 of what is none."""
    operator = name.removeprefix("aten.").split(".")[0]
    if operator not in PRODUCTS:
        return 0
    if operator == "gru":  # step by step
        return shapes[0][-2]
    left = shapes[1] if operator in ("addmm", "baddbmm") else shapes[0]
    return int(np.prod(left[:-1]))


def launch_s(timer: Any) -> float:
    """What a timed operator on next to nothing takes."""
    import torch

    x = torch.zeros(1, 8)
    with torch.inference_mode(), timer:
        for _ in range(2000):
            torch.relu_(x)
    return float(np.median([c.seconds for c in timer.calls]))


def batches(name: str, scale: float, sizes: tuple[int, ...], seconds: float) -> Iterator[dict[str, Any]]:
    """Each batch size of a model: whole batches and timed operators in turn; medians."""
    from deeprecsys.engine import Assembly, SliceView
    from deeprecsys.engine.eager import EagerEngine
    from deeprecsys.paper.operator_timer import OperatorTimer
    from deeprecsys.paper.operators import kind_of

    memory, network = filled_memory(name, scale, max(sizes), "zipf"), model(name).scaled(scale)
    engine = EagerEngine(Assembly(network, memory.tables, memory.inputs))
    handles = np.random.default_rng(0).integers(0, 1 << 62, QUERIES).tolist()
    empty, timer = launch_s(OperatorTimer(engine.network)), OperatorTimer(engine.network)
    for items in sizes:
        out = np.zeros((items, network.schema.outputs), np.float32)
        slices = [SliceView(memory.features.rows_at(h), 0, items, out) for h in handles]
        score = in_turn(slices, lambda part: engine.score([part]))
        whole, timed = [], []
        until = time.perf_counter() + seconds
        while len(whole) < 2 * LEAST or time.perf_counter() < until:
            for _ in range(2):
                began = time.perf_counter()
                score()
                whole.append(time.perf_counter() - began)
            timer.calls.clear()
            with timer:
                score()
            timed.append([c.seconds for c in timer.calls])
        spent = defaultdict(lambda: [0, 0.0])
        for call, took in zip(timer.calls, np.median(np.array(timed), axis=0), strict=True):
            rows = rows_of(call.name, call.shapes)
            part = "product" if rows else "rows" if kind_of(call) == "embedding" else "other"
            entry = spent[part, rows]
            entry[0] += 1
            entry[1] += max(0.0, float(took) - empty)
        yield {
            "items": items,
            "seconds": float(np.median(whole)),
            "operators": [
                {"kind": k, "rows": r, "count": n, "seconds": s} for (k, r), (n, s) in spent.items()
            ],
        }
    memory.close()


def parts(models: tuple[str, ...], sizes: tuple[int, ...], seconds: float, scale: float) -> dict[str, Any]:
    found = {}
    for name in models:
        began = time.perf_counter()
        found[name] = list(batches(name, scale, sizes, seconds))
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return found


def run(run: Run) -> None:
    if run.options.isa and "ATEN_CPU_CAPABILITY" not in os.environ:
        # Libraries choose their kernels as they are loaded.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.paper.anchor", *sys.argv[1:]],
                  {**os.environ, **isas.environment(run.options.isa)})  # fmt: skip
    quick = run.quick
    models, sizes = (("ncf",), (1, 32)) if quick else (MODELS, BATCHES)
    limits = limits_of_machine(0.02 if quick else 0.6)
    limits["hardware"]["instructions"] = run.options.instructions
    print(f"limits: {json.dumps(limits)}", flush=True)
    scale = 0.01 if quick else run.options.rows_scale
    found = parts(models, sizes, 0.05 if quick else SECONDS, scale)
    document = {
        "format": FORMAT, "commit": commit(), "machine": machine_record(), "rows_scale": scale,
        "engine": "eager", "limits": limits, "models": found,
    }  # fmt: skip
    if not quick:
        file = EAGER_FILE.with_name(f"eager-{kind()}.json")
        file.write_text(json.dumps(_rounded(document), separators=(",", ":")) + "\n")
        print(file)


def _rounded(value: Any) -> Any:
    """Four digits of each number: more were never measured."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


BENCHMARK = Benchmark(
    __file__, __doc__, run,
    options={
        "--isa": {"choices": list(isas.ISAS), "help": "hold the libraries to an instruction set"},
        "--instructions": {"type": float, "default": ZEN_5_INSTRUCTIONS, "help": "of this core per cycle, over Skylake's"},
        "--rows-scale": {"type": float, "default": 1.0, "help": "of the tables"},
    },
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
