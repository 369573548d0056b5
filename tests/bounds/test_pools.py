"""The two-pool programme, against a solver of linear programmes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from deeprecsys.bounds.bounds import two_pools
from deeprecsys.core.errors import InputError


def solved(
    cpu: NDArray[np.float64], gpu: NDArray[np.float64], f: NDArray[np.float64], k: int, a: int
) -> float:
    """Maximise the rate r over r and the rates y(n) on the CPU, z(n) on the accelerator."""
    n = len(f)
    cost = np.zeros(2 * n + 1)
    cost[0] = -1.0
    balance = np.hstack([-f[:, None], np.eye(n), np.eye(n)])
    loads = np.zeros((2, 2 * n + 1))
    loads[0, 1 : n + 1] = np.where(np.isinf(cpu), 0, cpu)
    loads[1, n + 1 :] = np.where(np.isinf(gpu), 0, gpu)
    room = [(0, 0 if np.isinf(t) else None) for t in (*cpu, *gpu)]
    found = linprog(cost, A_ub=loads, b_ub=[k, a], A_eq=balance, b_eq=np.zeros(n), bounds=[(0, None), *room])
    assert found.status == 0
    return float(found.x[0])


TIME = st.floats(0.05, 5) | st.just(np.inf)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(TIME, TIME, st.sampled_from([0.0, 1.0, 2.0, 5.0])), min_size=1, max_size=8),
    st.integers(1, 16),
    st.integers(1, 3),
)
def test_equals_the_linear_programme(rows: list[tuple[float, float, float]], k: int, a: int) -> None:
    cpu, gpu, f = (np.array(column) for column in zip(*rows, strict=True))
    if not f.any():
        f[0] = 1.0
    f = f / f.sum()
    found = two_pools(cpu, gpu, f, k, a)
    rate, x = found.rate_qps, found.cpu_share
    if (np.isinf(cpu) & np.isinf(gpu) & (f > 0)).any():
        assert rate == 0
        return
    assert rate == pytest.approx(solved(cpu, gpu, f, k, a), rel=1e-6)
    # The shares reach it, within both pools.
    assert ((x >= 0) & (x <= 1)).all()
    with np.errstate(invalid="ignore"):
        on_cpu = np.where((x > 0) & (f > 0), x * f * cpu, 0).sum()
        on_gpu = np.where((x < 1) & (f > 0), (1 - x) * f * gpu, 0).sum()
    assert rate * on_cpu <= k * (1 + 1e-9)
    assert rate * on_gpu <= a * (1 + 1e-9)


def test_an_accelerator_that_pays_with_size_takes_what_is_above_a_threshold() -> None:
    n = np.arange(1, 1001)
    pmf = np.full(1000, 1e-3)
    found = two_pools(0.3e-3 + 0.05e-3 * n, 2e-3 + 0.002e-3 * n, pmf, 16)
    threshold = found.offload_above
    assert threshold is not None
    assert 0 < threshold < 1000
    assert (np.diff(found.cpu_share) <= 0).all()
    assert np.count_nonzero((found.cpu_share > 0) & (found.cpu_share < 1)) <= 1
    alone = 16 / float(pmf @ (0.3e-3 + 0.05e-3 * n))
    assert found.rate_qps > alone


def test_extremes() -> None:
    f = np.array([0.5, 0.5])
    assert two_pools([1, 1], [np.inf, np.inf], f, 4).rate_qps == pytest.approx(4)
    assert two_pools([1, 1], [np.inf, np.inf], f, 4).offload_above == 2
    assert two_pools([np.inf, np.inf], [1, 1], f, 4).offload_above == 0
    assert two_pools([np.inf, 1], [1, np.inf], f, 4).offload_above is None
    with pytest.raises(InputError, match="size 2"):
        two_pools([1.0], [1.0, 2.0], f, 4)
