"""What one core can do, by kind of work: measured, or by ratios of data sheets to a measured machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from deeprecsys.core.errors import InputError, shown
from deeprecsys.paper.platforms.cpu import CpuSpec

TERMS = (
    "ghz",
    "l2_bytes_per_cycle",
    "l3_bytes_per_cycle",
    "l3_ns",
    "memory_ns",
    "lines_in_flight",
    "instructions",
)
"""Figures of the hardware alone, which data sheets have too; `instructions` per cycle is over Skylake's."""


@dataclass(frozen=True)
class CoreLimits:
    """One core's limits, in the software that the parts were measured in.

    Attributes:
        product_gflops: rows of a matrix product → GFLOP/s, on one layer of middling size.
        stream_gb_per_s: where memory lies ("l2", "l3", "memory") → GB/s at which it is read in order.
        gather_ns: where a table lies ("l3", "memory") → ns of a row of 128 B at random.
        operator_us: what the launch of an operator costs.
        cache_bytes: "l2" and "l3" → size.
        hardware: `TERMS` → value; empty where they were not measured.
    """

    product_gflops: Mapping[int, float]
    stream_gb_per_s: Mapping[str, float]
    gather_ns: Mapping[str, float]
    operator_us: float
    cache_bytes: Mapping[str, int]
    hardware: Mapping[str, float]

    def product_s(self, rows: int) -> float:
        """Seconds of a GFLOP in a product of so many rows: between measured ones, linear in log rows."""
        at = sorted(self.product_gflops)
        times = [1.0 / self.product_gflops[n] for n in at]
        return float(np.interp(np.log(max(rows, 1)), np.log(at), times))

    def row_s(self, hot: float) -> float:
        """Relative time of a row that lies in the L3 with probability `hot`."""
        return hot * self.gather_ns["l3"] + (1 - hot) * self.gather_ns["memory"]

    @classmethod
    def from_json(cls, where: str, data: Any) -> CoreLimits:
        """InputError names what is missing."""
        names = [f.name for f in fields(cls) if f.name != "hardware"]
        if not isinstance(data, dict) or any(n not in data for n in names):
            got = sorted(data) if isinstance(data, dict) else shown(data)
            raise InputError(f"limits of {where}: expected {', '.join(names)}, got {got}")
        rates = {int(rows): float(rate) for rows, rate in data["product_gflops"].items()}
        rest = {n: data[n] for n in names[1:]}
        return cls(product_gflops=rates, hardware=data.get("hardware", {}), **rest)


def limits_of(spec: CpuSpec, anchor: CoreLimits) -> CoreLimits:
    """The limits of a machine that is known from data sheets, by its ratios to a measured one.

    What a product needs beyond its arithmetic (weights that stream from a cache, packing) follows the speed
    of caches; a row at random, latency over misses in flight; a launch, clock and instructions per cycle.

    Raises:
        InputError: the anchor's hardware was not measured.
    """
    if missing := [t for t in TERMS if t not in anchor.hardware]:
        raise InputError(
            f"limits of the anchor: expected hardware terms {', '.join(TERMS)}, without {', '.join(missing)}"
        )
    had = anchor.hardware
    cycle = spec.ghz / had["ghz"]
    stream = {
        "l2": cycle * spec.l2_bytes_per_cycle / had["l2_bytes_per_cycle"],
        "l3": cycle * spec.l3_bytes_per_cycle / had["l3_bytes_per_cycle"],
    }
    latency = {}
    for where, ns in (("l3", spec.l3_ns), ("memory", spec.memory_ns)):
        latency[where] = ns / spec.fill_buffers / (had[f"{where}_ns"] / had["lines_in_flight"])
    least = min(1.0 / rate for rate in anchor.product_gflops.values())
    peak = 1e-9 * spec.peak_flops * spec.efficiency
    rates = {
        n: 1.0 / (1.0 / peak + (1.0 / rate - least) / stream["l3"])
        for n, rate in anchor.product_gflops.items()
    }
    return CoreLimits(
        product_gflops=rates,
        stream_gb_per_s={
            **{where: anchor.stream_gb_per_s[where] * by for where, by in stream.items()},
            "memory": anchor.stream_gb_per_s["memory"] / latency["memory"],
        },
        gather_ns={where: anchor.gather_ns[where] * by for where, by in latency.items()},
        operator_us=anchor.operator_us / (cycle * spec.instructions / had["instructions"]),
        cache_bytes={"l2": spec.l2_bytes, "l3": spec.l3_bytes},
        hardware={},
    )
