"""The feature pool: its layout, its contents, and how handles point into it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deeprecsys.core.errors import InputError
from deeprecsys.workload import Workload
from deeprecsys.workload.features import ALIGN, FeatureLayout
from deeprecsys.zoo.schema import DenseInput, Per, Pooling, Schema, SparseInput, Table

SCHEMA = Schema(
    tables=(Table("user", 5000, 8), Table("item", 70_000, 16), Table("tiny", 3, 4)),
    inputs=(
        DenseInput("dense", 13),
        DenseInput("profile", 5, Per.QUERY),
        SparseInput("user", "user", 1, Pooling.CONCAT, Per.QUERY),
        SparseInput("history", "item", 20, Pooling.SEQUENCE, Per.QUERY),
        SparseInput("item", "item", 3),
        SparseInput("tiny", "tiny", 2),
    ),
)
MIB = 1 << 20


def plan(schema: Schema = SCHEMA, max_items: int = 100, llc: int = MIB // 8, **more: Any) -> FeatureLayout:
    return FeatureLayout.plan(schema, max_items, llc, more.pop("max_bytes", 64 * MIB), **more)


def filled(layout: FeatureLayout, seed: int = 0, threads: int | None = None) -> np.ndarray:
    buffer = np.zeros(layout.size, np.uint8)
    layout.fill(buffer, seed, threads)
    return buffer


# --- layout ---


@settings(max_examples=40)
@given(
    items=st.integers(1, 2000),
    llc=st.integers(0, 4 * MIB),
    max_bytes=st.integers(MIB // 8, 64 * MIB),
    locality=st.sampled_from(["uniform", "zipf:0.7", "zipf:1.1"]),
)
def test_a_layout_keeps_its_promises(items: int, llc: int, max_bytes: int, locality: str) -> None:
    try:
        layout = plan(SCHEMA, items, llc, max_bytes=max_bytes, locality=locality)
    except InputError:
        assert max_bytes < 2 * (items + 4) * (13 + 5 + 1 + 20 + 3 + 2) * 4 + 6 * ALIGN
        return
    assert layout.size <= max_bytes
    assert [a.name for a in layout.arrays] == [i.name for i in SCHEMA.inputs]
    for a, b in pairwise(layout.arrays):
        assert b.offset >= a.offset + a.bytes
    for a, i in zip(layout.arrays, SCHEMA.inputs, strict=True):
        assert a.offset % ALIGN == 0
        assert a.rows >= 2 * items
        assert a.span == (a.rows - items + 1 if i.per is Per.ITEM else a.rows)
    assert layout.size >= layout.arrays[-1].offset + layout.arrays[-1].bytes
    assert layout.goal_bytes <= 8 * llc
    cannot_grow = layout.size > max_bytes - (2 + len(SCHEMA.inputs)) * 44 * 4 - 6 * ALIGN
    assert layout.expected_bytes >= layout.goal_bytes or cannot_grow


def test_a_layout_is_the_same_wherever_it_is_computed() -> None:
    assert plan() == plan()
    assert hash(plan()) == hash(plan())


def test_views_lie_in_the_buffer_without_copies() -> None:
    layout = plan()
    buffer = bytearray(layout.size)
    views = layout.views(buffer)
    for a in layout.arrays:
        assert views[a.name].shape == (a.rows, a.columns)
        assert views[a.name].dtype == (np.float32 if a.table is None else np.int32)
        views[a.name][0, 0] = 1
        assert any(buffer[a.offset : a.offset + 4])
    assert not layout.views(bytes(layout.size))["dense"].flags.writeable  # a worker's map is read-only


@pytest.mark.parametrize("locality", ["uniform", "zipf:0.9", "zipf:1.1"])
@pytest.mark.parametrize("llc", [MIB // 16, MIB // 3])
def test_a_pool_touches_eight_last_level_caches(llc: int, locality: str) -> None:
    layout = plan(llc=llc, locality=locality)
    touched = layout.touched(filled(layout), SCHEMA)
    assert layout.goal_bytes == 8 * llc
    assert touched.bytes >= 8 * llc
    assert touched.bytes == pytest.approx(layout.expected_bytes, rel=0.03)


@pytest.mark.parametrize("locality", ["uniform", "zipf:0.9"])
def test_or_the_whole_of_small_tables(locality: str) -> None:
    layout = plan(llc=32 * MIB, locality=locality, max_bytes=512 * MIB)
    touched = layout.touched(filled(layout), SCHEMA)
    assert touched.table_bytes == SCHEMA.table_bytes
    assert touched.fraction >= 0.98
    assert touched.rows["tiny"] == 3


def test_a_model_without_tables_needs_no_more_than_the_least() -> None:
    schema = Schema((), (DenseInput("x", 4),))
    layout = plan(schema)
    assert layout.arrays[0].rows == 400
    assert layout.touched(filled(layout), schema).fraction == 0.0


def test_a_pool_that_cannot_fit_names_the_bytes_that_would_do() -> None:
    with pytest.raises(InputError, match="feature pool: max_bytes: expected at least ") as e:
        plan(max_bytes=1000)
    least = int(str(e.value).split("at least ")[1].split()[0])
    assert plan(max_bytes=least).size <= least


# --- contents ---


def test_dense_features_are_standard_normal() -> None:
    dense = plan().views(filled(plan()))["dense"].ravel()
    assert stats.kstest(dense, "norm").pvalue > 0.01


def test_ids_follow_the_locality_and_lie_in_their_table() -> None:
    layout = plan(llc=MIB // 2, locality="zipf:1")
    views = layout.views(filled(layout))
    for a in layout.arrays:
        if a.table:
            assert 0 <= views[a.name].min() <= views[a.name].max() < a.table_rows
    counts = np.sort(np.bincount(views["history"].ravel(), minlength=70_000))[::-1]
    expected = views["history"].size / (np.arange(1, 11) * np.sum(1 / np.arange(1.0, 70_001)))
    np.testing.assert_allclose(counts[:10], expected, rtol=0.1)


def test_inputs_of_one_table_agree_on_what_is_popular_and_draw_for_themselves() -> None:
    layout = plan(locality="zipf:1.1")
    views = layout.views(filled(layout))
    hot = [np.bincount(views[name].ravel()).argmax() for name in ("history", "item")]
    assert hot[0] == hot[1]
    n = min(views["history"].size, views["item"].size)
    assert (views["history"].ravel()[:n] == views["item"].ravel()[:n]).mean() < 0.1


def test_no_number_of_threads_changes_a_pool() -> None:
    layout = plan(llc=MIB // 3)
    one = filled(layout, threads=1)
    for threads in (2, 7):
        np.testing.assert_array_equal(one, filled(layout, threads=threads))


def test_a_seed_fixes_the_pool_and_another_changes_every_input() -> None:
    layout = plan()
    np.testing.assert_array_equal(filled(layout, 5), filled(layout, 5))
    a, b = (layout.views(filled(layout, seed)) for seed in (5, 6))
    assert all((a[name] != b[name]).any() for name in a)


def test_a_larger_pool_extends_and_other_inputs_change_nothing() -> None:
    small, large = plan(), plan(llc=MIB // 2)
    fewer = Schema(SCHEMA.tables, SCHEMA.inputs[3:5])
    a = small.views(filled(small))
    for layout in (large, plan(fewer)):
        for name, rows in layout.views(filled(layout)).items():
            n = min(len(rows), len(a[name]))
            np.testing.assert_array_equal(rows[:n], a[name][:n])


# --- handles ---


@given(handle=st.integers(0, 2**64 - 1))
def test_a_handle_points_inside_every_input(handle: int) -> None:
    layout = plan()
    first = layout.rows_at(handle)
    assert list(first) == [a.name for a in layout.arrays]
    for a, i in zip(layout.arrays, SCHEMA.inputs, strict=True):
        assert 0 <= first[a.name] < a.span
        assert first[a.name] + (layout.max_items if i.per is Per.ITEM else 1) <= a.rows


def test_handles_spread_over_all_rows_and_inputs_do_not_march_in_step() -> None:
    layout = plan()
    handles = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64).tolist()
    first = [layout.rows_at(h) for h in handles]
    share = np.array([[f[a.name] / a.span for a in layout.arrays] for f in first])
    for column in share.T:
        assert stats.kstest(column, "uniform").statistic < 0.02
    assert np.abs(np.corrcoef(share.T) - np.eye(len(layout.arrays))).max() < 0.03
    distance = np.diff(share, axis=1) % 1.0  # in step, the distance between two inputs would not vary
    assert all(stats.kstest(column, "uniform").statistic < 0.02 for column in distance.T)


def test_what_a_stream_touches() -> None:
    layout = plan()
    buffer = filled(layout)
    views = layout.views(buffer)
    stream = Workload.parse(sizes="fixed:40").stream(10.0, queries=7)
    hit: dict[str, set[int]] = {t.name: set() for t in SCHEMA.tables}
    for query in stream.queries():
        first = layout.rows_at(query.features)
        for i in SCHEMA.sparse:
            n = query.size if i.per is Per.ITEM else 1
            hit[i.table].update(views[i.name][first[i.name] : first[i.name] + n].ravel().tolist())
    touched = layout.touched(buffer, SCHEMA, stream.features, stream.size)
    assert touched.rows == {name: len(ids) for name, ids in hit.items()}
    assert touched.bytes == sum(len(hit[t.name]) * t.dim * 4 for t in SCHEMA.tables)
    assert touched.bytes < layout.touched(buffer, SCHEMA).bytes
