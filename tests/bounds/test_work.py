"""The least core time of a query, against every way to cut it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.bounds.work import batch_times, coalesced_work, least_span, least_work, mean_work, pmf_of
from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile, Point

TIMES = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def partitions(n: int, largest: int) -> list[list[int]]:
    if n == 0:
        return [[]]
    return [[b, *rest] for b in range(min(n, largest), 0, -1) for rest in partitions(n - b, b)]


@given(TIMES, st.integers(1, 40))
def test_least_work_is_that_of_the_best_partition(times: list[int], limit: int) -> None:
    @cache
    def best(n: int) -> float:
        ways = [[times[b - 1] for b in way] for way in partitions(n, n)]
        return min((sum(way) for way in ways if max(way) <= limit), default=np.inf)

    assert least_work(times, limit).tolist() == [best(n) for n in range(1, len(times) + 1)]


@given(TIMES, st.integers(1, 5))
def test_no_way_to_cut_a_query_beats_its_span(times: list[int], cores: int) -> None:
    def makespan(way: list[int]) -> int:
        """Of the best assignment, by trying all."""
        ends = {(0,) * cores}
        for b in way:
            ends = {
                tuple(sorted((*e[:i], e[i] + times[b - 1], *e[i + 1 :]))) for e in ends for i in range(cores)
            }
        return min(e[-1] for e in ends)

    n = min(len(times), 7)
    span = least_span(times, cores)
    assert span[n - 1] <= min(makespan(way) for way in partitions(n, n))


def test_span_of_an_affine_batch_time_is_that_of_an_even_cut() -> None:
    s = 0.3e-3 + 0.05e-3 * np.arange(1, 701)
    n = np.arange(1, 701)
    np.testing.assert_allclose(least_span(s, 16), s[-(-n // 16) - 1])


def test_whole_is_least_where_setting_up_costs_and_nothing_limits() -> None:
    s = 0.3 + 0.05 * np.arange(1, 101)
    np.testing.assert_allclose(least_work(s), s)
    limited = least_work(s, limit_s=s[29])
    np.testing.assert_allclose(limited[:30], s[:30])
    np.testing.assert_allclose(limited[99], 4 * 0.3 + 0.05 * 100)


def test_coalesced_work_takes_the_best_batch_within_the_limit() -> None:
    s = [2.0, 3.0, 6.0]
    np.testing.assert_allclose(coalesced_work(s, 4), [1.5, 3.0, 4.5, 6.0])
    np.testing.assert_allclose(coalesced_work(s, 2, limit_s=2.5), [2.0, 4.0])
    assert np.isinf(coalesced_work(s, 2, limit_s=1.0)).all()


@given(TIMES)
def test_mixing_queries_never_costs_more(times: list[int]) -> None:
    assert (coalesced_work(times, len(times)) <= least_work(times) * (1 + 1e-12)).all()


def test_mean_work_relaxes_where_it_saves_the_most() -> None:
    pmf = np.array([0.5, 0.3, 0.2])
    work, late = [1.0, 2.0, np.inf], [1.0, 1.5, 4.0]
    assert mean_work(work, pmf) == np.inf
    assert mean_work(work, pmf, late, 0.1) == np.inf
    assert mean_work(work, pmf, late, 0.2) == pytest.approx(0.5 + 0.6 + 0.8)
    assert mean_work(work, pmf, late, 0.3) == pytest.approx(0.5 + 0.2 * 2 + 0.1 * 1.5 + 0.8)
    assert mean_work(work[:2], [0.4, 0.6]) == pytest.approx(1.6)


def test_pmf_of_a_sample() -> None:
    assert pmf_of([1, 3, 3, 1]).tolist() == [0.5, 0.0, 0.5]
    with pytest.raises(InputError):
        pmf_of([])
    with pytest.raises(InputError):
        pmf_of([0, 1])


def test_batch_times_of_a_profile() -> None:
    points = (Point(1, 1, (1.0,)), Point(1, 3, (3.0,)), Point(4, 1, (2.0, 4.0)), Point(4, 3, (2.0, 2.0)))
    profile = LatencyProfile("x", points)
    np.testing.assert_allclose(batch_times(profile, 3, busy=1), [1, 2, 3])
    np.testing.assert_allclose(batch_times(profile, 3, busy=16), [3, 2.5, 2])
    np.testing.assert_allclose(batch_times(profile, 3), [1, 2, 2])


@pytest.mark.parametrize("times", [[], [0.0], [1.0, -1.0], [[1.0]]])
def test_bad_times_are_refused(times: list[float]) -> None:
    with pytest.raises(InputError, match="batch times"):
        least_work(times)


def test_a_table_that_is_too_short_is_refused() -> None:
    with pytest.raises(InputError, match="size 2"):
        mean_work([1.0], [0.5, 0.5])
