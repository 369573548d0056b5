"""The one percentile."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.errors import InputError
from deeprecsys.core.target import Target, percentile

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


@given(VALUES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_percentile_is_the_smallest_observed_value_that_enough_are_within(values, quantile):
    found = percentile(np.array(values), quantile)
    assert found in values
    enough = quantile * len(values) - 1e-9
    assert sum(v <= found for v in values) >= enough
    assert sum(v < found for v in values) < enough or found == min(values)


@given(VALUES, st.floats(0, 1e6))
def test_p95_within_the_target_means_that_95_percent_were(values, limit):
    within = sum(v <= limit for v in values)
    assert (percentile(np.array(values), 0.95) <= limit) == (within >= 0.95 * len(values) - 1e-9)


def test_nothing_has_no_percentile_and_unserved_queries_are_infinite():
    assert math.isnan(percentile(np.array([]), 0.95))
    assert percentile(np.array([1.0] * 18 + [np.inf] * 2), 0.95) == np.inf


@pytest.mark.parametrize(("latency", "quantile"), [(0, 0.95), (-1, 0.95), (math.inf, 0.9), (1, 0), (1, 1)])
def test_impossible_targets_are_refused(latency, quantile):
    with pytest.raises(InputError, match="expected a number"):
        Target(latency_s=latency, quantile=quantile)


def test_a_target_is_given_by_name():
    """`Target(0.95, 0.02)` would be 0.95 s at the 2 % quantile."""
    with pytest.raises(TypeError):
        Target(0.95, 0.02)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("queries", [1, 10, 1000, 12_345])
def test_a_share_of_late_queries_is_allowed_as_the_percentile_says(quantile, queries):
    target = Target(latency_s=1.0, quantile=quantile)
    for late in {0, 1, *range(int(queries * (1 - quantile)) - 1, int(queries * (1 - quantile)) + 3)}:
        if 0 <= late <= queries:
            latency = np.r_[np.full(queries - late, 0.5), np.full(late, 2.0)]
            assert target.allows(late / queries) == (percentile(latency, quantile) <= 1.0)
    assert not target.allows(math.nan)
