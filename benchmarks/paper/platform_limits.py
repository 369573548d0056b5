"""Limits of this machine that the analytic platform model rests on, one thread.

A minute; keep the machine idle.

- product: GFLOP/s of a large fp32 matrix product (torch), against its batch size;
- stream: GB/s at which weights are read again from L2, L3 and memory;
- gather: ns per 128 B row, 80 per bag, from tables of 512 MB and of 8 MB (torch's `embedding_bag`);
- operator: µs of a torch operator on next to nothing: what each launch costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Benchmark, Result, Run
from benchmarks.lib.machine_limits import in_turn

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


def measure(seconds: float) -> dict[str, Any]:
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


def run(run: Run) -> Result:
    found = measure(0.1 if run.quick else 1.5)
    print(found)
    return found


BENCHMARK = Benchmark(__file__, __doc__, run)

if __name__ == "__main__":
    BENCHMARK.main()
