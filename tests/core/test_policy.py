"""Policies are values: they place by their knobs alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import CPU, GPU, DeepRecSched, Placement, Static
from deeprecsys.core.query import Query


@pytest.mark.parametrize(
    ("largest", "cores", "batch"), [(1000, 40, 25), (1000, 28, 36), (1000, 2, 500), (7, 2, 4)]
)
def test_the_static_baseline_spreads_the_largest_query_over_all_cores(largest, cores, batch):
    assert Static.baseline(largest, cores) == Static(batch)


@given(st.integers(1, 2000), st.integers(1, 2000), st.none() | st.integers(0, 2000))
def test_only_queries_above_the_threshold_are_offloaded_and_whole(size, batch, above):
    placement = DeepRecSched(batch, above).place(Query(0, size, 0.0), None, 0.0)
    away = above is not None and size > above
    assert placement == (Placement(GPU, size) if away else Placement(CPU, batch))


def test_policies_are_hashable_values_that_name_their_devices():
    assert len({Static(5), Static(5), DeepRecSched(5), DeepRecSched(5, 0)}) == 3
    assert DeepRecSched(5).devices == (CPU,)
    assert DeepRecSched(5, 0).devices == (CPU, GPU)
    assert DeepRecSched(5, 9).describe() == {"policy": "deeprecsched", "batch_size": 5, "offload_above": 9}


@pytest.mark.parametrize("make", [lambda: Static(0), lambda: DeepRecSched(0), lambda: DeepRecSched(1, -1)])
def test_knobs_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="expected"):
        make()
