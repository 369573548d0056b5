"""The quality report: its figures on scores whose answer is known, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.errors import InputError
from deeprecsys.search.quality import compare, kendall, overlap, spearman


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def test_the_same_scores_are_perfect() -> None:
    rng = np.random.default_rng(0)
    own = [rng.random((n, 1), np.float32) for n in (1, 5, 40)]
    q = compare(own, [a.copy() for a in own])
    assert (q.queries, q.items, q.largest_difference) == (3, 46, 0.0)
    assert q.spearman == q.spearman_least == q.kendall == q.top_10 == q.top_10_least == q.first == 1.0


def test_reversed_scores_are_the_worst() -> None:
    a = np.arange(20, dtype=np.float32)[:, None]
    q = compare([a], [a[::-1].copy()])
    assert q.spearman == pytest.approx(-1)
    assert q.kendall == pytest.approx(-1)
    assert (q.top_10, q.first, q.largest_difference, q.largest_score) == (0.0, 0.0, 19.0, 19.0)


def test_one_swap_among_four() -> None:
    q = compare([scores(1, 2, 3, 4)], [scores(1, 2, 4, 3)])
    assert q.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert q.kendall == pytest.approx((5 - 1) / 6)
    assert q.first == 0.0
    assert q.top_10 is None  # no query has more than ten items


def test_the_worst_query_and_every_output_count() -> None:
    up = np.arange(12, dtype=np.float32)
    good, bad = np.stack([up, up], 1), np.stack([up, up[::-1]], 1)
    q = compare([good, good], [good, bad])
    assert q.spearman == pytest.approx(0.5)
    assert q.spearman_least == pytest.approx(-1)
    assert q.top_10_least == pytest.approx(8 / 10)


def test_scores_without_order() -> None:
    flat, up = np.zeros(5), np.arange(5.0)
    for law in (spearman, kendall):
        assert law(flat, flat) == 1.0
        assert law(flat, up) == 0.0
    assert overlap(flat, flat, 3) == 1.0


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_a_rising_function_of_the_scores_changes_no_order(values: list[int], rng) -> None:
    a = np.array(values, np.float32)
    b = np.array([rng.randint(-4, 4) for _ in values], np.float32)
    for law in (spearman, kendall):
        assert law(a, b) == pytest.approx(law(2 * a + 1, np.exp(b)), abs=1e-6)
        assert -1 - 1e-9 <= law(a, b) <= 1 + 1e-9
    assert overlap(a, 3 * a + 2, 2) == 1.0


@pytest.mark.parametrize("other", [[], [scores(1, 2)], [scores(1), scores(2)], [scores(np.nan)]])
def test_what_cannot_be_compared_is_refused(other: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="scores: expected"):
        compare([scores(1)], other)
    with pytest.raises(InputError, match="scores: expected"):
        compare([], other)
