"""The core's own limit: the rate of fused multiply-adds on registers alone. No memory, no library."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numba import njit
from numba.core import types

from deeprecsys.engine.isa import cpu_flags
from deeprecsys.engine.tiles import blank_tile, store_tile
from deeprecsys.engine.vectors import _fused, _intrinsic, _spread

CHAINS = 12
"""Independent accumulators: latency 4 x two units, and some to spare."""


def register_gflops() -> float:
    """The rate at this CPU's full vector width."""
    return peak_gflops(16 if "avx512f" in cpu_flags() else 8)


def peak_gflops(lanes: int = 8, seconds: float = 0.3) -> float:
    """Highest fp32 rate seen in several runs: 2 x lanes x multiply-adds per second.

    Args:
        lanes: floats in a vector; 8 for AVX2, 16 for AVX-512.
        seconds: to measure for.
    """

    @njit
    def loop(count: int, x: float, out: int) -> None:
        tile = blank_tile(CHAINS, 1, lanes)
        for _ in range(count):
            tile = _step(tile, x)
        store_tile(tile, out, 4 * lanes)

    result, x = np.zeros((CHAINS, lanes), np.float32), np.float32(0.5)
    loop(1, x, result.ctypes.data)
    count, best, until = 1_000_000, 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        loop(count, x, result.ctypes.data)
        best = max(best, 2 * lanes * CHAINS * count / (time.perf_counter() - began))
    return 1e-9 * best


@_intrinsic
def _step(_context: Any, tile: Any, _x: Any) -> Any:
    """Every vector of a tile times x, plus x."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        result, x = args[0], _spread(builder, args[1], tile.lanes)
        for k, _, _ in tile.places():
            total = _fused(builder, builder.extract_value(result, k), x, x)
            result = builder.insert_value(result, total, k)
        return result

    return tile(tile, types.float32), generate
