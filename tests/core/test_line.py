"""The waiting line: order, cuts where a batch is full, deferring, dropping; its items are always counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.device import Line
from deeprecsys.core.policy import Take
from deeprecsys.core.query import Query, Slice, cut


def line_of(*sizes, batch_size=1 << 30, due_s=None):
    """A line in which query i has `sizes[i]` items and is due at `due_s[i]`."""
    line = Line("cpu")
    for i, size in enumerate(sizes):
        query = Query(i, size, float(i))
        line.put(cut(query, batch_size), due_s[i] if due_s else 0.0)
    return line


def seen(slices):
    return [(s.query.id, s.start, s.stop) for s in slices]


def drained(line):
    found = []
    while line:
        found += seen(line.take(Take(), 1))
    return found


def test_slices_wait_in_order_of_arrival():
    line = line_of(5, 3, 7, batch_size=3)
    assert (line.items, line.slices, line.newest_s) == (15, 6, 2.0)
    assert line.head == Slice(Query(0, 5, 0.0), 0, 3)
    assert drained(line) == [(0, 0, 3), (0, 3, 5), (1, 0, 3), (2, 0, 3), (2, 3, 5), (2, 5, 7)]
    assert line.items == 0


def test_due_times_come_before_arrival_and_equal_ones_keep_it():
    line = line_of(4, 4, 4, 4, batch_size=2, due_s=[3.0, 1.0, 3.0, 1.0])
    assert [q for q, *_ in drained(line)] == [1, 1, 3, 3, 0, 0, 2, 2]


@pytest.mark.parametrize(
    ("wanted", "taken", "left"),
    [
        (Take(), [(0, 0, 4)], 11),
        (Take(3), [(0, 0, 3)], 12),
        (Take(9), [(0, 0, 4)], 11),
        (Take(9, merge=True), [(0, 0, 4), (1, 0, 5)], 6),
        (Take(11, merge=True), [(0, 0, 4), (1, 0, 5), (2, 0, 2)], 4),
        (Take(11, merge=True, split=False), [(0, 0, 4), (1, 0, 5)], 6),
        (Take(3, merge=True, split=False), [(0, 0, 4)], 11),
        (Take(99, merge=True), [(0, 0, 4), (1, 0, 5), (2, 0, 6)], 0),
    ],
)
def test_a_batch_takes_what_was_wanted(wanted, taken, left):
    line = line_of(4, 5, 6)
    assert seen(line.take(wanted, 100)) == taken
    assert line.items == left == sum(s.items for s in line)


def test_the_rest_of_a_cut_slice_stays_at_the_head():
    line = line_of(10, 5, due_s=[1.0, 1.0])
    line.take(Take(4), 100)
    assert seen([line.head]) == [(0, 4, 10)]
    assert seen(line.take(Take(8, merge=True), 100)) == [(0, 4, 10), (1, 0, 2)]


def test_a_batch_holds_at_most_so_many_slices():
    line = line_of(1, 1, 1, 1)
    assert len(line.take(Take(4, merge=True), 3)) == 3
    assert line.items == 1


def test_a_deferred_query_waits_for_all_that_are_not():
    line = line_of(4, 2, 2, batch_size=2, due_s=[1.0, 2.0, 3.0])
    line.take(Take(1), 1)
    line.defer()
    assert not line.deferred
    assert (line.items, line.slices) == (7, 4)
    line.put(cut(Query(3, 1, 3.0), 2), 9.0)
    assert drained(line) == [(1, 0, 2), (2, 0, 2), (3, 0, 1), (0, 1, 2), (0, 2, 4)]
    line = line_of(1, 1)
    line.defer()
    line.defer()
    assert line.deferred
    assert drained(line) == [(0, 0, 1), (1, 0, 1)], "those deferred keep their order"


def test_a_dropped_query_leaves_nothing():
    line = line_of(4, 2, 3, batch_size=2)
    line.drop(0)
    line.drop(7)
    assert line.items == 5
    assert drained(line) == [(1, 0, 2), (2, 0, 2), (2, 2, 3)]


STEPS = st.lists(
    st.tuples(st.sampled_from("pppttds"), st.integers(1, 20), st.booleans(), st.booleans()), max_size=60
)


@given(STEPS)
def test_every_item_is_taken_once_whatever_happens_to_the_line(steps):
    line, left = Line("cpu"), {}
    for i, (kind, n, merge, split) in enumerate(steps):
        if kind == "p":
            line.put(cut(Query(i, n, float(i)), 7), float(n % 3))
            left[i] = set(range(n))
        elif not line:
            continue
        elif kind == "t":
            taken = line.take(Take(n, merge, split), 5)
            assert taken
            assert merge or len(taken) == 1
            assert sum(s.items for s in taken) <= n or (not split and len(taken) == 1)
            for part in taken:
                items = set(range(part.start, part.stop))
                assert items <= left[part.query.id]
                left[part.query.id] -= items
        elif kind == "d":
            line.defer()
        else:
            del left[line.head.query.id]
            line.drop(line.head.query.id)
        assert line.items == sum(map(len, left.values())) == sum(s.items for s in line)
