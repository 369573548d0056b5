"""Ids and rows that are out of range: told, harmless, and nobody else's concern."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deeprecsys.engine.gather import Gather, Ids
from deeprecsys.engine.protocol import SliceView
from deeprecsys.zoo.schema import Per, Pooling, Schema, SparseInput, Table
from tests.engine.gather.cases import NOTHING, Case, cases
from tests.engine.rows import jagged


@settings(max_examples=40)
@given(cases(), st.data())
def test_a_bad_id_is_told_and_leaves_other_slices_as_they_were(case: Case, data: st.DataObject) -> None:
    i = data.draw(st.sampled_from(case.schema.sparse))
    k = data.draw(st.integers(0, len(case.slices) - 1))
    rows = case.schema.table(i.table).rows
    bags = case.bags(i, case.slices[k])
    places = [(b, j) for b, (found, _) in enumerate(bags) for j in range(len(found))]
    assume(places)
    bag, place = data.draw(st.sampled_from(places))
    gather = case.gather()
    gather.gather(case.slices)
    before = {name: out.copy() for name, out in case.outputs.items()}
    info = np.iinfo(bags[0][0].dtype)
    bags[bag][0][place] = bad = data.draw(st.sampled_from([-1, rows, info.min, info.max]))
    faults = gather.gather(case.slices)
    mine = next(f for f in faults if f.slice == k)
    first_bag = next(b for b, (found, _) in enumerate(case.bags(i, case.slices[k])) if bad in found)
    item = case.slices[k].start + first_bag if i.per is Per.ITEM else None
    assert (mine.input, mine.item) == (i.name, item)
    assert mine.reason.endswith(f"expected an id in 0 … {rows - 1}, got {bad}")
    named = {f.slice for f in faults}
    items = 0
    for other, s in enumerate(case.slices):
        for j in case.schema.inputs:
            at, n = (other, 1) if j.per is Per.QUERY else (items, s.stop - s.start)
            got, was = case.outputs[j.name][at : at + n], before[j.name][at : at + n]
            assert np.isfinite(got).all()
            if other not in named or j.name != i.name:
                np.testing.assert_array_equal(got, was)
        items += s.stop - s.start


def build(pool: Any, pooling: Pooling = Pooling.SUM, per: Per = Per.ITEM) -> tuple[Gather, np.ndarray]:
    """Two inputs alike, x and y; y's pool is always good."""
    schema = Schema(
        (Table("t", 10, 8),),
        (SparseInput("x", "t", 2, pooling, per), SparseInput("y", "t", 2, Pooling.SUM)),
    )
    table = np.random.default_rng(0).standard_normal((10, 8), np.float32)
    width = 16 if pooling is Pooling.CONCAT else 8
    out = {"x": np.full((20, width), np.nan, np.float32), "y": np.full((20, 8), np.nan, np.float32)}
    pools = {"x": pool, "y": np.ones((20, 2), np.int32)}
    return Gather(schema, {"t": table}, pools, out), out["x"]


@pytest.mark.parametrize("first", [-1, 5, 2**62, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("per", Per)
@pytest.mark.parametrize("pooling", [Pooling.SUM, Pooling.CONCAT])
def test_rows_outside_a_pool_are_not_read(first: int, per: Per, pooling: Pooling) -> None:
    gather, out = build(np.zeros((5, 2), np.int32), pooling, per)
    slices = [SliceView({"x": 0, "y": 0}, 1, 3, NOTHING), SliceView({"x": first, "y": 0}, 0, 3, NOTHING)]
    (fault,) = gather.gather(slices)
    assert (fault.slice, fault.input, fault.item) == (1, "x", None)
    assert "expected rows of its pool's 5, got" in str(fault)
    n, bad = (2, 3) if per is Per.ITEM else (1, 1)
    assert (out[:n] != 0).all()
    assert (out[n : n + bad] == 0).all()
    assert np.isnan(out[n + bad :]).all()


@pytest.mark.parametrize(
    "offsets", [[0, 2, 1, 4], [0, 2, 4, 7], [-1, 0, 2, 4], [0, 2**62, 2**63 - 1, 4], [0, 9, 9, 9]]
)
def test_offsets_that_fall_or_leave_the_ids_are_not_followed(offsets: list[int]) -> None:
    gather, out = build(Ids(np.ones(6, np.int64), np.array([*offsets, 4, 6], np.int64)))
    (fault,) = gather.gather([SliceView({"x": 0, "y": 0}, 0, 3, NOTHING)])
    assert "expected offsets that rise within 0 … 6, got others in rows 0 … 2" in str(fault)
    assert (out[:3] == 0).all()
    assert gather.gather([SliceView({"x": 4, "y": 0}, 0, 1, NOTHING)]) == ()


def test_more_ids_than_a_concatenation_has_room_for_are_a_fault() -> None:
    gather, out = build(jagged(np.ones(6, np.int64), np.array([2, 3, 1])), Pooling.CONCAT)
    (fault,) = gather.gather([SliceView({"x": 0, "y": 0}, 0, 2, NOTHING)])
    assert "with at most 2 ids a row, got others in rows 0 … 1" in str(fault)
    assert gather.gather([SliceView({"x": 2, "y": 0}, 0, 1, NOTHING)]) == ()
    assert (out[0, :8] != 0).all()
    assert (out[0, 8:] == 0).all()


def test_each_slice_has_its_own_first_fault_and_is_clean_the_next_time() -> None:
    pool = np.zeros((5, 2), np.int32)
    gather, _ = build(pool)
    pool[1, 1], pool[3, 0], pool[4, 0] = 77, -5, 78
    parts = [SliceView({"x": 0, "y": 0}, a, b, NOTHING) for a, b in ((0, 1), (1, 2), (2, 5))]
    assert [(f.slice, f.item, f.reason) for f in gather.gather(parts)] == [
        (1, 1, "look-up 1: expected an id in 0 … 9, got 77"),
        (2, 3, "look-up 0: expected an id in 0 … 9, got -5"),
    ]
    assert str(gather.gather(parts)[0]) == "input 'x': item 1: look-up 1: expected an id in 0 … 9, got 77"
    assert gather.gather(parts[:1]) == ()
