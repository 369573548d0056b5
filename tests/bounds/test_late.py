"""The least number of late jobs, against all subsets and against dynamic programming."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deeprecsys.bounds.late import late_jobs

Jobs = tuple[list[int], list[int], int]


@st.composite
def jobs(draw: st.DrawFn, most: int, largest: int = 12) -> Jobs:
    n = draw(st.integers(1, most))
    gaps = draw(st.lists(st.integers(0, largest), min_size=n, max_size=n))
    work = draw(st.lists(st.integers(1, largest), min_size=n, max_size=n))
    return np.cumsum(gaps).tolist(), work, draw(st.integers(1, 4 * largest))


def least_late(case: Jobs) -> int:
    release, work, slack = (np.array(x, np.int64) for x in case)
    return int(late_jobs(release, work, int(slack), len(release) + 1))


def by_all_subsets(case: Jobs) -> int:
    release, work, slack = case
    n = len(release)

    def in_time(chosen: tuple[int, ...]) -> bool:
        end = 0
        for j in chosen:
            end = max(end, release[j]) + work[j]
            if end > release[j] + slack:
                return False
        return True

    return next(n - k for k in range(n, -1, -1) if any(in_time(c) for c in combinations(range(n), k)))


def by_dynamic_programming(case: Jobs) -> int:
    """end[c]: the earliest end of any c of the jobs so far, all in time, in order of release."""
    release, work, slack = case
    end = np.full(len(release) + 1, np.inf)
    end[0] = 0
    for r, p in zip(release, work, strict=True):
        with_it = np.maximum(end[:-1], r) + p
        end[1:] = np.minimum(end[1:], np.where(with_it <= r + slack, with_it, np.inf))
    return len(release) - int(np.flatnonzero(np.isfinite(end))[-1])


@settings(max_examples=500, deadline=None)
@given(jobs(most=9))
@example(([0], [5], 4))
@example(([0, 0, 0], [2, 2, 2], 4))
def test_equals_the_best_of_all_subsets(case: Jobs) -> None:
    assert least_late(case) == by_all_subsets(case) == by_dynamic_programming(case)


@settings(max_examples=300, deadline=None)
@given(jobs(most=60), st.booleans())
def test_equals_dynamic_programming(case: Jobs, crowded: bool) -> None:
    release, work, slack = case
    if crowded:
        release = [r // 3 for r in release]
    assert least_late((release, work, slack)) == by_dynamic_programming((release, work, slack))


@pytest.mark.parametrize("seed", range(12))
def test_equals_dynamic_programming_on_long_overloads(seed: int) -> None:
    """Busy periods of hundreds of jobs: the job to give up may lie far back."""
    rng = np.random.default_rng(seed)
    n = 1500
    mean = int(rng.choice([3, 30, 1000]))
    work = rng.geometric(1 / mean, n) if seed % 2 else rng.choice([mean, 2 * mean, 7 * mean], n)
    release = np.cumsum(rng.geometric(1 / (work.mean() / rng.uniform(0.9, 1.6)), n))
    case = (release.tolist(), work.tolist(), int(work.max() * rng.uniform(0.8, 4)))
    found = least_late(case)
    assert found == by_dynamic_programming(case)
    assert found > 0


def test_stops_when_enough_are_late() -> None:
    release, work = np.zeros(50, np.int64), np.full(50, 10, np.int64)
    assert late_jobs(release, work, 10, 7) == 7
    assert late_jobs(release, work, 10, 51) == 49


def test_no_jobs() -> None:
    assert late_jobs(np.zeros(0, np.int64), np.zeros(0, np.int64), 5, 1) == 0
