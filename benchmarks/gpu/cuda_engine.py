"""The CUDA engine on this machine's GPU: s(b) with its shares, floors, power, and tuning with the accelerator.

Goes on where it stopped: run it until it says that all is measured. A quick run takes one small model through the
same code on the CPU.

Writes profiles/<gpu>-<model>.json (batch times, as `simulate` reads them; shares, floors and power under
`detail`) and benchmarks/results/gpu-<model>-<level>.json (what `tune` found with the accelerator).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

import deeprecsys as dr
from benchmarks.harness import PROFILES, RESULTS, Benchmark, Run, UnavailableError, commit
from benchmarks.lib.experiments import filled_memory
from deeprecsys.core.profile import Point, quantiles_of
from deeprecsys.core.target import LEVELS
from deeprecsys.engine import Assembly, SliceView
from deeprecsys.engine.cuda import DeviceEngine
from deeprecsys.engine.eager import EagerEngine
from deeprecsys.machine.energy import Energy
from deeprecsys.machine.record import machine_record
from deeprecsys.node.runtime.layout import ModelMemory
from deeprecsys.paper.published import MODELS
from deeprecsys.report.json_values import plain
from deeprecsys.zoo import model
from deeprecsys.zoo.schema import Per

BATCHES = tuple(1 << k for k in range(13))
BATCH_S = 1.5  # seconds of batches at each size
HANGS_S = 900.0  # of one call of the command line: three times what it usually takes
BOUND = {"tf32": 5e-3, "bf16": 6e-2, "fp16": 1e-2}


def run(run: Run) -> None:
    if run.quick:
        floors = floors_of("cpu", 1 << 12, 1 << 10, 128)
        return show(measured("wnd", "cpu", "fp32", (1, 4), 0.05, floors, scale=1e-4))
    if not torch.cuda.is_available():
        raise UnavailableError("no CUDA device")
    until = time.monotonic() + run.options.seconds
    RESULTS.mkdir(exist_ok=True)
    gpu = torch.cuda.get_device_name().lower().replace(" ", "-")
    for work in (*profiles(gpu), *tunings(gpu, run.options.again)):
        if time.monotonic() > until:
            break
        work()
    left(gpu)


def profiles(gpu: str) -> Iterator[Callable[[], None]]:
    """What measures each profile that is not there."""
    floors = cache(lambda: floors_of("cuda"))
    for name in MODELS:
        file = profile_file(gpu, name)
        if not file.exists():
            yield partial(measure_profile, name, file, floors)


def profile_file(gpu: str, name: str) -> Path:
    return PROFILES / f"{gpu}-{name}.json"


def measure_profile(name: str, file: Path, floors: Callable[[], dict[str, float]]) -> None:
    try:
        found = measured(name, "cuda", "tf32", BATCHES, BATCH_S, floors())
    except (dr.InputError, RuntimeError) as error:  # tables too large for this GPU, or out of its memory
        print(f"{name}: {error}", flush=True)
        return
    torch.cuda.empty_cache()
    file.write_text(json.dumps(plain(found.to_json()), indent=1) + "\n")
    show(found)


def tunings(gpu: str, again: bool) -> Iterator[Callable[[], None]]:
    """What runs each command that has no result; with `again` also what failed."""
    for name, level in product(MODELS, LEVELS):
        for kind, command in commands(name, level):
            file = result_file(name, level, kind)
            if not file.exists() or (again and "error" in json.loads(file.read_text())):
                yield partial(run_command, command, file)


def result_file(name: str, level: str, kind: str) -> Path:
    return RESULTS / f"gpu-{name}-{level}-{kind}.json"


def commands(name: str, level: str) -> Iterator[tuple[str, list[str]]]:
    """What is run for one model and target: tuned with and without the accelerator, and with coalescing.

    The node's power is read beside each. Coalescing takes the batch size and threshold that were
    tuned without it.
    """
    tune = ["tune", name, "--target", level, "--engine", "compiled"]
    yield "cpu", tune
    yield "cpu-gpu", [*tune, "--gpu", "cuda"]
    tuned = result_file(name, level, "cpu-gpu")
    if tuned.exists():
        point = json.loads(tuned.read_text()).get("tuned") or {}
        if point.get("offload_above") is not None:
            yield "coalescing", ["capacity", *tune[1:], "--gpu", "cuda", "--policy", "offload:2000",
                                 "--batch-size", str(point["batch_size"]),
                                 "--offload-above", str(point["offload_above"])]  # fmt: skip


def run_command(command: list[str], file: Path) -> None:
    """One call of the command line; its document, with the GPU's mean power meanwhile, goes to the file."""
    with Energy([0]) as spent:
        try:
            done = subprocess.run([sys.executable, "-m", "deeprecsys", *command, "--json", "-"],
                                  capture_output=True, text=True, timeout=HANGS_S)  # fmt: skip
            code, said = done.returncode, done.stderr.strip()[-500:]
        except subprocess.TimeoutExpired:
            code, said = 1, f"not done within {HANGS_S:.0f} s"
    print(" ".join(command), "->", code, said[-200:], flush=True)
    document = json.loads(done.stdout) if code == 0 else {"error": said}
    about = {"commit": commit(), "date": time.strftime("%Y-%m-%d"), "gpu_watts": spent.gpu_watts}
    file.write_text(json.dumps({**about, "command": command, **document}, indent=1) + "\n")


def left(gpu: str) -> None:
    """Print what is still to be measured, and the table of what is."""
    kinds = ("cpu", "cpu-gpu", "coalescing")
    for name, level in product(MODELS, LEVELS):
        files = [result_file(name, level, k) for k in kinds]
        docs = [json.loads(c.read_text()) if c.exists() else {} for c in files]
        static = (docs[0].get("static") or {}).get("qps")
        rates = [(d.get("tuned") or {}).get("qps") or d.get("qps") for d in docs]
        point = docs[1].get("tuned") or {}
        if static and any(rates):
            ratios = [f"{r / static:.2f}" if r else "-" for r in rates]
            print(f"{name:10} {level:6} static {static:.4g}; {', '.join(kinds)} over it:", *ratios,
                  f"threshold {point.get('offload_above')}, share {point.get('gpu_share')}")  # fmt: skip
    missing = sum(not profile_file(gpu, n).exists() for n in MODELS)
    rest = sum(not result_file(n, lv, k).exists() for n, lv, k in product(MODELS, LEVELS, kinds[:2]))
    print(f"left: {missing} profiles, {rest} tunings" if missing or rest else "all is measured")


def measured(
    name: str, device: str, precision: str, batches: tuple[int, ...], seconds: float,
    floors: dict[str, float], scale: float = 1.0,
) -> dr.LatencyProfile:  # fmt: skip
    """s(b) with the shares of its steps, the share of the floor, equality with eager, and power."""
    memory = filled_memory(name, scale, max(batches))
    a = Assembly(model(name).scaled(scale), memory.tables, memory.inputs, seed=0, threads=1)
    engine = DeviceEngine(a, device, precision=precision, largest=max(batches), timed=True)
    rng = np.random.default_rng(1)
    points, shares = [], {}
    for batch in batches:
        walls: list[float] = []
        assert engine.took is not None
        for _ in range(5):
            engine.score([batch_of(a, memory, batch, rng)])
        engine.took.clear()
        began = time.monotonic()
        with Energy([0] if device == "cuda" else []) as spent:
            while time.monotonic() - began < seconds or len(walls) < 20:
                one = batch_of(a, memory, batch, rng)
                start = time.perf_counter()
                engine.score([one])
                walls.append(time.perf_counter() - start)
        took = np.median(np.array(engine.took), axis=0)
        floor_s = floor(a, batch, floors)
        points.append(Point(1, batch, quantiles_of(np.array(walls), 21)))
        shares[str(batch)] = {
            **dict(zip(engine.took[0]._fields, took.tolist(), strict=True)),
            "wall_s": float(np.median(walls)),
            "floor_s": floor_s,
            "fraction_of_floor": floor_s / float(took[3]),
            "watts": spent.gpu_watts,
        }
    worst = error(a, memory, engine, min(256, max(batches)))
    detail = {"shares": shares, "floors": floors, "error": worst, "bound": BOUND}
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none: the CPU in its place"
    about = machine_record() | {"gpu": gpu, "commit": commit(), "date": time.strftime("%Y-%m-%d")}
    return dr.LatencyProfile(name, tuple(points), f"cuda:{precision}", "fp32", 1, about, detail)


def batch_of(a: Assembly, memory: ModelMemory, batch: int, rng: np.random.Generator) -> SliceView:
    first = memory.features.rows_at(int(rng.integers(0, 1 << 62)))
    return SliceView(first, 0, batch, np.empty((batch, a.model.schema.outputs), np.float32))


def error(a: Assembly, memory: ModelMemory, engine: DeviceEngine, batch: int) -> float:
    """The greatest difference of a score from the eager engine's."""
    one = batch_of(a, memory, batch, np.random.default_rng(2))
    engine.score([one])
    reference = one._replace(out=np.empty_like(one.out))
    EagerEngine(a).score([reference])
    return float(np.abs(one.out - reference.out).max())


def floor(a: Assembly, batch: int, floors: dict[str, float]) -> float:
    """Seconds that a batch's look-ups or its products take at the least, whichever is more."""
    m = a.model
    gathered = batch * m.schema.gathered_bytes(Per.ITEM) + m.schema.gathered_bytes(Per.QUERY)
    flops = batch * m.flops(Per.ITEM) + m.flops(Per.QUERY)
    return max(gathered / floors["random_row_bytes_per_s"], flops / floors["matrix_flops_per_s"])


def floors_of(device: str, rows: int = 1 << 24, lookups: int = 1 << 23, side: int = 8192) -> dict[str, float]:
    """Rates of this device: random rows of 128 bytes, tf32 products, copies from pinned memory."""
    table = torch.rand(rows, 32, device=device)
    ids = torch.randint(0, rows, (lookups,), device=device)
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    torch.set_float32_matmul_precision("high")
    out = torch.empty(lookups, 32, device=device)
    row_s = best_s(device, lambda: torch.index_select(table, 0, ids, out=out))
    product_s = best_s(device, lambda: a @ b)
    host = torch.zeros(1 << 26, dtype=torch.uint8, pin_memory=device == "cuda")
    copy_s = best_s(device, lambda: host.to(device, non_blocking=True))
    return {
        "random_row_bytes_per_s": lookups * 128 / row_s,
        "matrix_flops_per_s": 2 * side**3 / product_s,
        "copy_in_bytes_per_s": host.numel() / copy_s,
    }


def best_s(device: str, work: Callable[[], object], repeats: int = 10) -> float:
    """The least seconds of some runs, after three to warm up."""

    def once() -> None:
        work()
        if device == "cuda":
            torch.cuda.synchronize()

    return min(timeit.repeat(once, number=1, repeat=repeats + 3)[3:])


def show(p: dr.LatencyProfile) -> None:
    for batch, s in p.detail["shares"].items():
        print(f"{p.model:10} b {batch:>5}: {1e6 * s['wall_s']:9.1f} us; fill {1e6 * s['fill_s']:8.1f}, issue "
              f"{1e6 * s['issue_s']:6.1f}, in {1e6 * s['copy_in_s']:7.1f}, compute {1e6 * s['compute_s']:8.1f}, out "
              f"{1e6 * s['copy_out_s']:6.1f}; floor {s['fraction_of_floor']:.0%}; {s['watts']} W")  # fmt: skip
    print(f"{p.model:10} greatest difference from eager {p.detail['error']:.2g}")


BENCHMARK = Benchmark(
    __file__, __doc__, run,
    options={
        "--seconds": {"type": float, "default": float("inf"), "help": "begin nothing after these"},
        "--again": {"action": "store_true", "help": "also what failed before"},
    },
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
