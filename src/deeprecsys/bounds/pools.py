"""The bound of two pools: CPU cores and accelerators, each query whole in one of them (facts §6.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.bounds.bound import Bound, BoundKind
from deeprecsys.core.errors import InputError


@dataclass(frozen=True, eq=False)
class TwoPools:
    """The optimum of the linear programme.

    Attributes:
        bound: the highest rate.
        cpu_share: [N] x(n), the share of the queries of n items that the CPU takes.
        offload_above: the size threshold that comes nearest: larger queries go to the accelerator, those
            of one size at most being split. None where the optimum is not a threshold on the size.
    """

    bound: Bound
    cpu_share: NDArray[np.float64]
    offload_above: int | None


def two_pools(
    cpu_work_s: ArrayLike,
    gpu_work_s: ArrayLike,
    pmf: ArrayLike,
    cores: int,
    accelerators: int = 1,
    *,
    coalescing: bool = False,
) -> TwoPools:
    """The highest rate r with r Σ x f W_cpu ≤ cores and r Σ (1 - x) f s_gpu ≤ accelerators, 0 ≤ x ≤ 1.

    Whoever sends one query less of some size to the accelerator, and another in its place, gains where
    the ratio W_cpu / s_gpu is larger: so the optimum offloads the sizes of largest ratio, and at most one
    size in part, where both pools are full. The ratio rises with n where the accelerator pays with size,
    and then the optimum is a threshold.

    Args:
        cpu_work_s: [N or more] core time by size; infinite where the CPU cannot meet the target.
        gpu_work_s: [N or more] accelerator time by size; infinite likewise.
        pmf: [N] probability of the sizes 1, 2, … N.
        cores: CPU workers.
        accelerators: workers of the other pool.
        coalescing: whether the times are those of cross-query batching.

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
        return TwoPools(Bound(BoundKind.TWO_POOLS, 0.0, coalescing), np.ones(n), None)
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
    return TwoPools(Bound(BoundKind.TWO_POOLS, float(1.0 / load), coalescing), share, _threshold(share, used))


def _threshold(share: NDArray[np.float64], used: NDArray[np.bool_]) -> int | None:
    """The largest size that the CPU takes, mostly, if all larger ones go away and none that is smaller."""
    x = share[used]
    sizes = np.flatnonzero(used) + 1
    if (np.diff(x) > 0).any():
        return None
    kept = sizes[x >= 0.5]
    return int(kept[-1]) if len(kept) else 0
