"""The laws of cutting."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.query import Query, cut


@given(st.integers(1, 5000), st.integers(1, 2000))
def test_slices_cover_the_query_in_as_few_and_as_equal_parts_as_can_be(size, batch_size):
    slices = cut(Query(7, size, 1.5), batch_size)
    assert slices[0].start == 0
    assert slices[-1].stop == size
    assert all(a.stop == b.start for a, b in pairwise(slices))
    lengths = [s.items for s in slices]
    assert max(lengths) <= batch_size
    assert max(lengths) - min(lengths) <= 1
    assert len(slices) == -(-size // batch_size)
    assert all(s.query == Query(7, size, 1.5) for s in slices)
