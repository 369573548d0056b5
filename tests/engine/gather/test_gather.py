"""The gather against the obvious way, over all kinds of inputs, and against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprecsys.core.errors import InputError
from deeprecsys.engine.gather import Gather, Ids, RowFormat, convert
from deeprecsys.engine.protocol import SliceView
from deeprecsys.zoo import MODELS, model
from deeprecsys.zoo.networks.sparse import SparseStage
from deeprecsys.zoo.schema import DenseInput, Per, Pooling, Schema, SparseInput, Table
from tests.engine.gather.cases import NOTHING, POOL, Case, cases, output, slices, stored
from tests.engine.rows import jagged


@settings(max_examples=40)
@given(cases(), st.sampled_from([1, 3, 32, 1000]))
def test_every_kind_of_input_is_gathered_right(case: Case, distance: int) -> None:
    assert case.gather(distance=distance).gather(case.slices) == ()
    case.check()


@settings(max_examples=30)
@given(cases())
def test_a_slice_gives_the_same_bits_alone_as_in_a_batch(case: Case) -> None:
    gather = case.gather()
    gather.gather(case.slices)
    together = {name: out.copy() for name, out in case.outputs.items()}
    items = 0
    for k, s in enumerate(case.slices):
        gather.gather([s])
        for i in case.schema.inputs:
            at, n = (k, 1) if i.per is Per.QUERY else (items, s.stop - s.start)
            np.testing.assert_array_equal(case.outputs[i.name][:n], together[i.name][at : at + n])
        items += s.stop - s.start


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize(("dim", "form"), [(1, "fp32"), (32, "fp32"), (160, "bf16"), (160, "int8")])
def test_every_dimension_and_width_is_gathered_right(dim: int, form: str, kind: type) -> None:
    rng = np.random.default_rng(dim)
    schema = Schema((Table("t", 50, dim),), (SparseInput("x", "t", 3), SparseInput("y", "t", 3)))
    tables = {"t": stored(schema.tables[0], RowFormat(form), rng)}
    pools = {name: rng.integers(50, size=(POOL, 3)).astype(kind) for name in ("x", "y")}
    outputs = {i.name: output(i, dim, POOL, three=False) for i in schema.sparse}
    case = Case(schema, tables, pools, outputs, slices(schema, [(0, 7), (2, 1), (5, 20)], rng))
    assert case.gather().gather(case.slices) == ()
    case.check()


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_s_sparse_stage_equals_torch_s(name: str) -> None:
    schema = model(name).scaled(1e-4).schema
    rng = np.random.default_rng(0)
    tables = {t.name: rng.standard_normal((t.rows, t.dim), np.float32) for t in schema.tables}
    pools = {
        i.name: rng.integers(schema.table(i.table).rows, size=(30, i.lookups), dtype=np.int32)
        for i in schema.sparse
    }
    outputs = {
        i.name: np.zeros((12, *([i.lookups] if i.pooling is Pooling.SEQUENCE else []),
                          schema.table(i.table).dim), np.float32)
        for i in schema.sparse
    }  # fmt: skip
    first = {i.name: k % 18 for k, i in enumerate(schema.sparse)}
    assert Gather(schema, tables, pools, outputs).gather([SliceView(first, 2, 12, NOTHING)]) == ()
    rows = {
        i.name: pools[i.name][first[i.name] :][slice(2, 12) if i.per is Per.ITEM else slice(1)]
        for i in schema.sparse
    }
    stage = SparseStage(schema, {n: torch.from_numpy(t) for n, t in tables.items()})
    expected = stage({n: torch.from_numpy(r.copy()) for n, r in rows.items()})
    for i in schema.sparse:
        got = torch.from_numpy(outputs[i.name][: len(expected[i.name])])
        torch.testing.assert_close(got, expected[i.name], rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("weighted", [False, True])
def test_jagged_sums_equal_torch_s_embedding_bag(kind: type, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    table = rng.standard_normal((500, 64), np.float32)
    lengths = rng.integers(0, 200, size=50)
    values = rng.integers(500, size=lengths.sum()).astype(kind)
    weights = rng.standard_normal(len(values), np.float32) if weighted else None
    pool = jagged(values, lengths, weights)
    out = np.empty((50, 64), np.float32)
    schema = Schema((Table("t", 500, 64),), (SparseInput("x", "t"),))
    gather = Gather(schema, {"t": table}, {"x": pool}, {"x": out})
    assert gather.gather([SliceView({"x": 0}, 0, 50, NOTHING)]) == ()
    expected = torch.nn.functional.embedding_bag(
        torch.from_numpy(values).long(), torch.from_numpy(table), torch.from_numpy(pool.offsets), mode="sum",
        include_last_offset=True, per_sample_weights=None if weights is None else torch.from_numpy(weights),
    )  # fmt: skip
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-6, atol=5e-5)


@pytest.mark.parametrize("form", RowFormat)
def test_single_rows_are_exact(form: RowFormat) -> None:
    """One look-up adds nothing, so every format gives its stored value to the last bit."""
    table = np.random.default_rng(2).standard_normal((100, 32), np.float32)
    stored = convert(table, form)
    out = np.empty((100, 32), np.float32)
    schema = Schema((Table("t", 100, 32),), (SparseInput("x", "t"),))
    pool = np.arange(100, dtype=np.int32).reshape(-1, 1)
    assert Gather(schema, {"t": stored}, {"x": pool}, {"x": out}).gather(whole(100)) == ()
    if form is RowFormat.FP32:
        np.testing.assert_array_equal(out, table)
    elif form is RowFormat.BF16:
        np.testing.assert_array_equal(out, torch.from_numpy(table).bfloat16().float().numpy())
    else:
        span = table.max(axis=1) - table.min(axis=1)
        assert (np.abs(out - table) <= 0.501 * span[:, None] / 255 + 1e-6).all()


def whole(items: int) -> list[SliceView]:
    return [SliceView({"x": 0, "y": 0}, 0, items, NOTHING)]


def test_a_larger_batch_than_there_is_room_for_is_refused_before_anything_is_written() -> None:
    schema = Schema((Table("t", 5, 4),), (SparseInput("x", "t"), SparseInput("y", "t", per=Per.QUERY)))
    pool = np.zeros((20, 1), np.int32)
    out = {"x": np.full((6, 4), np.nan, np.float32), "y": np.full((2, 4), np.nan, np.float32)}
    gather = Gather(schema, {"t": np.ones((5, 4), np.float32)}, {"x": pool, "y": pool}, out)
    with pytest.raises(InputError, match=r"batch: expected at most 6 items and 2 slices, got 7 and 1"):
        gather.gather(whole(7))
    with pytest.raises(InputError, match=r"got 3 and 3"):
        gather.gather(whole(1) * 3)
    with pytest.raises(InputError, match=r"slice: expected stop >= start, got 3 … 1"):
        gather.gather([SliceView({"x": 0, "y": 0}, 3, 1, NOTHING)])
    assert all(np.isnan(o).all() for o in out.values())
    assert gather.gather(whole(6)) == ()
    assert gather.gather([]) == ()


WRONG = {
    "no table": ({"tables": {}}, r"table 't': expected an array, got none"),
    "table's shape": (
        {"tables": {"t": np.zeros((9, 5), np.float32)}},
        r"table 't': expected one of float32 \[9, 4\], uint16 \[9, 4\], uint8 \[9, 16\], "
        r"got float32 \[9, 5\]",
    ),
    "table's layout": (
        {"tables": {"t": np.zeros((4, 9), np.float32).T}},
        r"table 't': expected rows that are contiguous, got strides",
    ),
    "no pool": ({"inputs": {}}, r"input 'x': expected an array, got none"),
    "pool's type": (
        {"inputs": {"x": np.zeros((8, 3), np.int16)}},
        r"input 'x': expected int32 or int64 \[rows, 3\], got int16 \[8, 3\]",
    ),
    "pool's shape": ({"inputs": {"x": np.zeros((8, 2), np.int32)}}, r"\[rows, 3\], got int32 \[8, 2\]"),
    "pool's layout": ({"inputs": {"x": np.zeros((8, 6), np.int32)[:, :3]}}, r"C-contiguous"),
    "a list": ({"inputs": {"x": [[0, 0, 0]]}}, r"input 'x': expected int32 or int64 .*, got list"),
    "weights": (
        {"inputs": {"x": Ids(np.zeros((8, 3), np.int32), weights=np.zeros((8, 2), np.float32))}},
        r"input 'x': weights: expected float32 \[8, 3\], got float32 \[8, 2\]",
    ),
    "offsets": (
        {"inputs": {"x": Ids(np.zeros(8, np.int32), np.zeros(3, np.int32))}},
        r"input 'x': offsets: expected int64 \[rows\], got int32 \[3\]",
    ),
    "output's shape": (
        {"outputs": {"x": np.zeros((7, 5), np.float32)}},
        r"output 'x': expected float32 \[rows, 4\], its last axis contiguous, got float32 \[7, 5\]",
    ),
    "output's layout": (
        {"outputs": {"x": np.zeros((4, 7), np.float32).T}},
        r"output 'x': expected .* got float32 \[7, 4\] with strides",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arrays_are_refused_in_one_line(what: str) -> None:
    change, message = WRONG[what]
    schema = Schema((Table("t", 9, 4),), (SparseInput("x", "t", 3), DenseInput("d", 2)))
    right = {
        "tables": {"t": np.zeros((9, 4), np.float32)},
        "inputs": {"x": np.zeros((8, 3), np.int32)},
        "outputs": {"x": np.zeros((7, 4), np.float32)},
    }
    Gather(schema, **right)
    with pytest.raises(InputError, match=message) as caught:
        Gather(schema, **{**right, **change})
    assert "\n" not in str(caught.value)


def test_weights_of_a_mean_and_no_distance_are_refused() -> None:
    schema = Schema((Table("t", 9, 4),), (SparseInput("x", "t", 3, Pooling.MEAN),))
    arrays = ({"t": np.zeros((9, 4), np.float32)}, {"x": Ids(np.zeros((8, 3), np.int32))})
    out = {"x": np.zeros((7, 4), np.float32)}
    with pytest.raises(InputError, match="distance: expected at least 1 row, got 0"):
        Gather(schema, *arrays, out, distance=0)
    arrays[1]["x"] = Ids(np.zeros((8, 3), np.int32), weights=np.ones((8, 3), np.float32))
    with pytest.raises(InputError, match="weights: expected none with pooling mean, got some"):
        Gather(schema, *arrays, out)
