"""The allocator of arena rows: nothing is given twice, and all comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.node.service.rows import STEP, Rows

STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 200), st.integers(0, 10**6)), max_size=80)


@given(st.integers(0, 2000), STEPS)
def test_runs_never_overlap_and_join_again_when_all_are_given_back(total, steps):
    rows, taken = Rows(total), []
    whole = total // STEP * STEP
    for takes, n, pick in steps:
        if takes or not taken:
            first = rows.take(n)
            if first is None:
                gaps, at = [], 0
                for begin, length in [*sorted(taken), (whole, 0)]:
                    gaps.append(begin - at)
                    at = begin + -(-length // STEP) * STEP
                assert max(gaps) < -(-n // STEP) * STEP, "there was a run that is long enough"
            else:
                assert first % STEP == 0
                taken.append((first, n))
        else:
            rows.give(*taken.pop(pick % len(taken)))
        used = [r for first, n in taken for r in range(first, first + -(-n // STEP) * STEP)]
        assert len(used) == len(set(used))
        assert all(0 <= r < whole for r in used)
        assert rows.free == whole - len(used)
    for run in taken:
        rows.give(*run)
    assert whole == 0 or rows.take(whole) == 0


def test_the_lowest_run_that_is_long_enough_is_taken():
    rows = Rows(160)
    first = [rows.take(32) for _ in range(5)]
    assert first == [0, 32, 64, 96, 128]
    assert rows.take(1) is None
    rows.give(32, 32)
    rows.give(96, 32)
    assert rows.take(16) == 32


def test_what_is_free_cannot_be_given_back():
    rows = Rows(160)
    rows.take(32)
    rows.give(0, 32)
    with pytest.raises(AssertionError):
        rows.give(0, 32)
