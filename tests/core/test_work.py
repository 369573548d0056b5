"""Work: slices of a query by units hold each item once; fixed lengths are items."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprecsys.core.query import Query, cut
from deeprecsys.core.work import ItemWork, item_at, units
from deeprecsys.zoo.jagged import offsets_of

lengths = st.lists(st.integers(0, 300), min_size=1, max_size=80)


@given(lengths=lengths, batch=st.integers(1, 64), share=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=200, deadline=None)
def test_slices_of_work_hold_each_item_once_and_are_alike(
    lengths: list[int], batch: int, share: float
) -> None:
    work = ItemWork(16.0, share).before(offsets_of(np.array(lengths)))
    n, of_units = len(lengths), units(work)
    bounds = [
        (item_at(work, 0, n, s.start, of_units), item_at(work, 0, n, s.stop, of_units))
        for s in cut(Query(0, of_units, 0.0), batch)
    ]
    assert (bounds[0][0], bounds[-1][1]) == (0, n)
    assert all(before == after for (_, before), (after, _) in pairwise(bounds))
    assert all(start <= stop for start, stop in bounds)
    one = max(np.diff(work))  # an item cannot be cut: a slice is at most one of them, and rounding, longer
    room = -(-of_units // len(bounds)) * max(float(work[-1]) / of_units, 1.0)
    assert all(work[stop] - work[start] <= room + one + 1e-9 for start, stop in bounds)


@given(n=st.integers(1, 300), batch=st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_the_work_of_items_that_are_alike_is_their_number(n: int, batch: int) -> None:
    for share in (0.0, 0.5, 1.0):
        work = ItemWork(16.0, share).before(np.arange(n + 1) * 16)
        assert units(work) == n
        for s in cut(Query(0, n, 0.0), batch):
            assert item_at(work, 0, n, s.start, n) == s.start
