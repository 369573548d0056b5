"""The limits of one core, measured one by one: of eager torch's kernels, and of the hardware alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit

from benchmarks.lib.machine_limits import in_turn

LAYER = (1024, 512)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
TABLE_ROWS, DIM, BAG = {"memory": 4_000_000, "l3": 65_536}, 32, 80
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
STREAMS = {"l2": 256 << 10, "l3": 8 << 20, "memory": 512 << 20}
MULTIPLY_AND_XOR_CYCLES = 4
"""Three of a multiplication and one of an exclusive or: on all of AMD's and Intel's cores since 2008."""
LINE = 64


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
    """GFLOP/s of torch's product by rows."""
    weights, bias = torch.randn(LAYER[1], LAYER[0]), torch.zeros(LAYER[1])
    found = {}
    for rows in ROWS:
        x = torch.randn(rows, LAYER[0])
        took = best_s(lambda x=x: torch.nn.functional.linear(x, weights, bias), seconds)
        found[str(rows)] = 2e-9 * rows * LAYER[0] * LAYER[1] / took
    return found


def streams(seconds: float) -> dict[str, float]:
    """GB/s of torch's sum."""
    found = {}
    for name, size in STREAMS.items():
        x = torch.ones(size // 4)
        found[name] = 1e-9 * size / best_s(lambda x=x: x.sum(), seconds)
    return found


def gather_ns(rows: int, seconds: float) -> float:
    """Of a row of 128 B in torch's bag of 80."""
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
    """Of torch's smallest operators, called from Python."""
    x, many = torch.zeros(1, 8), 100

    def chain() -> None:
        for _ in range(many):
            torch.relu(x)

    return 1e6 * best_s(chain, seconds) / many


@njit(nogil=True)
def _multiply(count: int, x: int, by: int) -> int:
    for _ in range(count):
        x = (x * by) ^ by
    return x


@njit(nogil=True, fastmath=True)
def _sum(x: Any, times: int) -> float:
    total = np.float32(0.0)
    for _ in range(times):
        for i in range(len(x)):
            total += x[i]
    return total


@njit(nogil=True)
def _chase(following: Any, count: int, at: int) -> int:
    for _ in range(count):
        at = following[at]
    return at


@njit(nogil=True)
def _read(lines: Any, order: Any) -> int:
    total = 0
    for i in order:
        total += lines[i]
    return total


def hardware(seconds: float) -> dict[str, float]:
    """Clock, caches and latencies, in the terms of data sheets."""
    count = 1_000_000
    ghz = 1e-9 * MULTIPLY_AND_XOR_CYCLES * count / best_s(lambda: _multiply(count, 3, 7), seconds)
    found = {"ghz": ghz}
    for where in ("l2", "l3"):
        x = np.ones(STREAMS[where] // 4, np.float32)
        took = best_s(lambda x=x: _sum(x, 16), seconds)
        found[f"{where}_bytes_per_cycle"] = 16 * x.nbytes / took / (1e9 * ghz)
    rng = np.random.default_rng(0)
    for where, size in (("l3", 8 << 20), ("memory", 512 << 20)):
        lines = size // LINE
        order = rng.permutation(lines).astype(np.int64) * (LINE // 8)
        following = np.zeros(size // 8, np.int64)
        following[order] = np.roll(order, -1)
        found[f"{where}_ns"] = 1e9 * best_s(lambda f=following: _chase(f, 200_000, 0), seconds) / 200_000
        if where == "memory":
            some = order[: lines // 4]
            each = 1e9 * best_s(lambda f=following, o=some: _read(f, o), seconds) / len(some)
            found["lines_in_flight"] = found["memory_ns"] / each
    return found


def limits_of_machine(seconds: float) -> dict[str, Any]:
    """All limits; each takes about `seconds` for each of its points."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        return {
            "product_gflops": products(seconds),
            "stream_gb_per_s": streams(seconds),
            "gather_ns": {where: gather_ns(n, seconds) for where, n in TABLE_ROWS.items()},
            "operator_us": operator_us(seconds),
            "cache_bytes": cache_bytes(),
            "hardware": hardware(seconds),
        }
