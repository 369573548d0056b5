"""Bounds, fractions of them, and what follows from the distribution of sizes alone (docs/facts.md §6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.core.target import Target


class BoundKind(StrEnum):
    """Which bound (docs/facts.md §6)."""

    CAPACITY = "capacity"
    O_FCFS = "o_fcfs"
    O_DROP = "o_drop"
    TWO_POOLS = "two_pools"
    ESTIMATE = "planning_estimate"  # not a bound: what to expect


@dataclass(frozen=True, slots=True)
class Bound:
    """A rate that no policy of some kind exceeds.

    Attributes:
        kind: which bound.
        rate_qps: queries per second; infinite where nothing binds, 0 where no rate meets the target.
        coalescing: whether it also holds for policies that put slices of several queries into one batch.
    """

    kind: BoundKind
    rate_qps: float
    coalescing: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}{'_coalescing' if self.coalescing else ''}"

    def fraction(self, rate_qps: float) -> dict[str, Any]:
        """The share of the bound that a rate is, with the bound's name, as JSON values."""
        return {"bound": self.name, "value": rate_qps / self.rate_qps if self.rate_qps else float("nan")}


def capacity(mean_work_s: float, cores: int) -> float:
    """k / E[W], queries per second: no rate above it can last (docs/facts.md §6.1).

    Args:
        mean_work_s: E[W] of `work.mean_work`; with cross-query batching that of W_c.
    """
    return cores / mean_work_s


def planning_estimate(work_s: ArrayLike, pmf: ArrayLike, cores: int, target: Target) -> float:
    """θ / (E[e^(θ W / k)] - 1), θ = -ln(miss rate) / SLA: about what a good policy carries; not a bound.

    The rate at which the waiting time of a single server k times as fast decays by e^-θ per second
    (the Cramér–Lundberg exponent of M/G/1), so that a wait as long as the target has the target's miss
    rate (docs/facts.md §6.4: θ = ln 20 / SLA for p95).
    """
    p = np.asarray(pmf, dtype=np.float64)
    work = np.asarray(work_s, dtype=np.float64)[: len(p)]
    theta = -math.log(target.miss_rate) / target.latency_s
    with np.errstate(over="ignore"):  # an exponential beyond all numbers leaves a rate of 0
        growth = float(p[p > 0] @ np.expm1(theta * work[p > 0] / cores))
    return float(theta / growth)


@dataclass(frozen=True, eq=False)
class TwoPools:
    """The optimum of the linear programme.

    Attributes:
        rate_qps: the highest rate; 0 where there is none.
        cpu_share: [N] x(n), the share of the queries of n items that the CPU takes.
        offload_above: the size threshold that comes nearest: larger queries go to the accelerator, those
            of one size at most being split. None where the optimum is not a threshold on the size.
    """

    rate_qps: float
    cpu_share: NDArray[np.float64]
    offload_above: int | None


def two_pools(
    cpu_work_s: ArrayLike, gpu_work_s: ArrayLike, pmf: ArrayLike, cores: int, accelerators: int = 1
) -> TwoPools:
    """The highest rate r with r Σ x f W_cpu ≤ cores and r Σ (1 - x) f s_gpu ≤ accelerators, 0 ≤ x ≤ 1.

    Exchanging a query on the accelerator for another gains where the other's ratio W_cpu / s_gpu is larger.
    So the optimum offloads the sizes of largest ratio, and at most one size in part, where both pools are
    full. The ratio rises with n where the accelerator pays with size, and then the optimum is a threshold.

    Args:
        cpu_work_s: [N or more] core time by size; infinite where the CPU cannot meet the target.
        gpu_work_s: [N or more] accelerator time by size; infinite likewise.
        pmf: [N] probability of the sizes 1, 2, … N.

    Raises:
        InputError: a table shorter than the distribution.
    """
    f = np.asarray(pmf, dtype=np.float64)
    n = len(f)
    cpu, gpu = (np.asarray(t, dtype=np.float64)[:n] for t in (cpu_work_s, gpu_work_s))
    if min(len(cpu), len(gpu)) < n:
        raise InputError(f"work: expected tables up to size {n}, got {len(cpu)} and {len(gpu)}")
    used = f > 0
    only_gpu, only_cpu = used & np.isinf(cpu), used & np.isinf(gpu)
    if (only_gpu & only_cpu).any():
        return TwoPools(0.0, np.ones(n), None)
    free = np.flatnonzero(used & ~only_gpu & ~only_cpu)
    free = free[np.lexsort((-free, -cpu[free] / gpu[free]))]
    c, g = f[free] * cpu[free] / cores, f[free] * gpu[free] / accelerators
    # Seconds per query of each worker, if the first 0, 1, … of the free sizes are offloaded.
    on_cpu = float(f[only_cpu] @ cpu[only_cpu]) / cores + np.append(np.cumsum(c[::-1])[::-1], 0.0)
    on_gpu = float(f[only_gpu] @ gpu[only_gpu]) / accelerators + np.append(0.0, np.cumsum(g))
    away = max(int(np.searchsorted(on_gpu - on_cpu, 0.0, side="right")) - 1, 0)
    load = max(on_cpu[away], on_gpu[away])
    share = np.where(only_gpu, 0.0, 1.0)
    share[free[:away]] = 0.0
    if away < len(free) and on_gpu[away] < on_cpu[away]:  # a part of the next makes both equally full
        part = (on_cpu[away] - on_gpu[away]) / (c[away] + g[away])
        share[free[away]] = 1.0 - part
        load = on_gpu[away] + part * g[away]
    return TwoPools(float(1.0 / load), share, _threshold(share, used))


def _threshold(share: NDArray[np.float64], used: NDArray[np.bool_]) -> int | None:
    """The largest size that the CPU takes, mostly, if all larger ones go away and none that is smaller."""
    x = share[used]
    sizes = np.flatnonzero(used) + 1
    if (np.diff(x) > 0).any():
        return None
    kept = sizes[x >= 0.5]
    return int(kept[-1]) if len(kept) else 0
