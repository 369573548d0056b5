"""The analytic model of a CPU held against measurements: this machine described by it, beside its measured profiles.

The model's constants are measured one by one, on one thread; none is fitted to a profile:

- product: GFLOP/s of a large fp32 matrix product (torch), against its batch size;
- stream: GB/s at which weights are read again from L2, L3 and memory;
- gather: ns per 128 B row, 80 per bag, from tables of 512 MB and of 8 MB (torch's `embedding_bag`);
- operator: µs of a torch operator on next to nothing: what each launch costs.

They are kept from run to run. Compared are times of batches while the other cores are idle: two cores say nothing about
how forty share memory. A minute; keep the machine idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.experiments import kept_profile
from benchmarks.lib.machine_limits import in_turn
from deeprecsys.paper.platforms import SKYLAKE, CpuSpec, batch_time, work_of
from deeprecsys.paper.published import CLASS, MODELS, SHORT
from deeprecsys.zoo import MODELS as ZOO

Times = dict[str, tuple[float, float]]
"""Batch, as JSON has it → measured and modelled seconds."""
BATCHES = (1, 8, 32, 128, 512, 1000)
SMALL, LARGE = 32, 512
"""The gain from larger batches is what the paper's ratios are made of: time per item at one, over that at the other."""
IN_FLIGHT = 12
"""Lines. Only their ratio to the latency counts, and that is measured."""
LAYER = (1024, 512)
TABLE_ROWS, DIM, BAG = {"memory": 4_000_000, "l3": 65_536}, 32, 80
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def best_s(work: Callable[[], Any], seconds: float) -> float:
    """The median time of a call, over about `seconds` seconds."""
    work()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def products(seconds: float) -> dict[str, float]:
    weights, bias = torch.randn(LAYER[1], LAYER[0]), torch.zeros(LAYER[1])
    found = {}
    for batch in (1, 4, 16, 64, 256, 1024):
        x = torch.randn(batch, LAYER[0])
        took = best_s(lambda x=x: torch.nn.functional.linear(x, weights, bias), seconds)
        found[str(batch)] = 2e-9 * batch * LAYER[0] * LAYER[1] / took
    return found


def streams(seconds: float) -> dict[str, float]:
    found = {}
    for name, size in (("l2", 256 << 10), ("l3", 8 << 20), ("memory", 512 << 20)):
        x = torch.ones(size // 4)
        found[name] = 1e-9 * size / best_s(lambda x=x: x.sum(), seconds)
    return found


def gather_ns(rows: int, seconds: float) -> float:
    table = torch.zeros(rows, DIM).add_(1.0)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(rows, (256, BAG), generator=generator) for _ in range(16)]
    once = in_turn(batches, lambda ids: torch.nn.functional.embedding_bag(ids, table, mode="sum"))
    return 1e9 * best_s(once, 2 * seconds) / (256 * BAG)


def cache_bytes() -> dict[str, int]:
    """Sizes of a core's L2 and of its L3, as the kernel reports them."""
    found = {}
    for index in CACHES.glob("index*"):
        level = (index / "level").read_text().strip()
        found[f"l{level}"] = int((index / "size").read_text().strip().removesuffix("K")) << 10
    return {level: found[level] for level in ("l2", "l3")}


def operator_us(seconds: float) -> float:
    x, many = torch.zeros(1, 8), 100

    def chain() -> None:
        for _ in range(many):
            torch.relu(x)

    return 1e6 * best_s(chain, seconds) / many


def limits_of_machine(seconds: float) -> dict[str, Any]:
    """All limits; each takes about `seconds` for each of its points."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        return {
            "product_gflops_by_batch": products(seconds),
            "stream_gb_per_s": streams(seconds),
            "gather_ns_per_row": {where: gather_ns(n, seconds) for where, n in TABLE_ROWS.items()},
            "operator_us": operator_us(seconds),
            "cache_bytes": cache_bytes(),
        }


def described(limits: dict[str, Any]) -> CpuSpec:
    """This machine in the model's terms. Rates are per cycle of a clock of 1 GHz: only products of the two count."""
    lanes, ports = 8, 2
    line_ns = {where: ns / 2 for where, ns in limits["gather_ns_per_row"].items()}  # rows of two lines
    stream = limits["stream_gb_per_s"]
    memory_ns = IN_FLIGHT * line_ns["memory"]
    return SKYLAKE.but(
        name="this machine", cores=1, sockets=1, ghz=1.0, lanes=lanes, fma_ports=ports,
        efficiency=max(limits["product_gflops_by_batch"].values()) / (2 * lanes * ports),
        l2_bytes=limits["cache_bytes"]["l2"], l3_bytes=limits["cache_bytes"]["l3"], inclusive=False,
        l2_bytes_per_cycle=stream["l2"], l3_bytes_per_cycle=stream["l3"],
        fill_buffers=IN_FLIGHT, l3_ns=IN_FLIGHT * line_ns["l3"], memory_ns=memory_ns,
        stream_buffers=stream["memory"] * memory_ns / 64,
        operator_us=limits["operator_us"], batch_us=0.0,  # profiles count from the worker's start
        memory_gb_per_s=1e6,  # one core does not share
    )  # fmt: skip


def measured(model: str) -> dict[int, float]:
    """Batch → median seconds of a worker that had no rest, the others being idle."""
    profile = kept_profile(model)
    return {p.batch: p.median_s for p in profile.curve(min(profile.busy_levels))}


def compare(spec: CpuSpec) -> dict[str, dict[int, tuple[float, float]]]:
    """Model → batch → (measured, modelled) seconds."""
    found = {}
    for m in MODELS:
        times, work = measured(m), work_of(ZOO[m])
        found[m] = {b: (times[b], batch_time(spec, work, b).total) for b in BATCHES if b in times}
    return found


def gain(times: Times, which: int) -> float:
    """Time per item in small batches over that in large ones."""
    return (times[str(SMALL)][which] / SMALL) / (times[str(LARGE)][which] / LARGE)


def tables(result: Result) -> Tables:
    """The comparison in words, and as tables."""
    found: dict[str, Times] = result["measured_and_modelled_s"]
    rows = [
        (SHORT[m], CLASS[m], *(f"{1e3 * a:.3g} / {1e3 * b:.3g} ({b / a:.2f}×)" for a, b in times.values()),
         f"{gain(times, 0):.2f} / {gain(times, 1):.2f}")
        for m, times in found.items()
    ]  # fmt: skip
    header = ("model", "bound by", *(f"batch {b}" for b in BATCHES), f"gain, {SMALL} to {LARGE}")
    errors = {b: np.array([t[str(b)][1] / t[str(b)][0] for t in found.values()]) for b in BATCHES}
    every = np.concatenate(list(errors.values()))
    summary = [
        (name, f"{np.exp(np.log(x).mean()):.2f}×", f"{np.exp(np.abs(np.log(x)).mean()):.2f}×",
         f"{x.min():.2f}× to {x.max():.2f}×", f"{np.mean(np.abs(np.log2(x)) <= 1):.0%}")
        for name, x in (*((f"batch {b}", x) for b, x in errors.items()), ("all", every))
    ]  # fmt: skip
    head = ("", "bias, geometric mean", "typical factor off", "range", "within a factor of 2")
    return {
        "docs/paper.md#platform-check": "Measured / modelled ms of a batch on one core (modelled over measured):\n\n"
        f"{markdown(header, rows)}\n\nModelled over measured:\n\n{markdown(head, summary)}"
    }


def run(run: Run) -> Result:
    limits = None if run.quick or run.options.limits else run.result.get("limits")
    limits = limits or limits_of_machine(0.1 if run.quick else 1.5)
    return {"limits": limits, "measured_and_modelled_s": compare(described(limits))}


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables,
    options={"--limits": {"action": "store_true", "help": "measure the machine's limits anew"}},
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
