"""The compiled engine beside the eager one, through every stage: ids in, scores out."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.workload.features import FeatureLayout
from deeprecsys.zoo import MODELS, model
from deeprecsys.zoo.tables import fill

MAX_ITEMS = 1200


def assembly(name: str) -> tuple[Assembly, FeatureLayout]:
    """A small model with tables of order 1, and room for long queries."""
    m = model(name).scaled(1e-4)
    layout = FeatureLayout.plan(m.schema, MAX_ITEMS, llc_bytes=1 << 14)
    buffer = bytearray(layout.size)
    layout.fill(buffer, seed=5)
    tables = {t.name: np.empty((t.rows, t.dim), np.float32) for t in m.schema.tables}
    for i, table in enumerate(tables.values()):
        fill(table, seed=(5, i))
    return Assembly(m, tables, layout.views(buffer), seed=5), layout


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_eagers_alone_and_together(name: str) -> None:
    about, layout = assembly(name)
    compiled, eager = build("compiled", about), build("eager", about)
    outputs = about.model.schema.outputs
    # The last is more than there is room for at first.
    batches = [[(7, 0, 1)], [(7, 3, 64)], [(1, 0, 200), (2, 5, 6), (3, 0, 50)], [(9, 0, 1100)], [(7, 3, 64)]]
    for cuts in batches:
        got, want = (
            [np.full((b - a, outputs), np.nan, np.float32) for _, a, b in cuts] for _engine in range(2)
        )
        for engine, outs in ((compiled, got), (eager, want)):
            engine.score(
                [SliceView(layout.rows_at(q), a, b, o) for (q, a, b), o in zip(cuts, outs, strict=True)]
            )
        for y, expected in zip(got, want, strict=True):
            assert (np.abs(y - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()


def test_scores_go_where_they_belong_even_if_rows_lie_apart() -> None:
    about, layout = assembly("mt-wnd")
    engine = build("compiled", about)
    apart = np.full((8, 6), np.nan, np.float32)
    together = np.empty((8, 2), np.float32)
    engine.score([SliceView(layout.rows_at(4), 0, 8, apart[:, 1:3])])
    engine.score([SliceView(layout.rows_at(4), 0, 8, together)])
    np.testing.assert_array_equal(apart[:, 1:3], together)
    assert np.isnan(apart[:, [0, 3, 4, 5]]).all()


def test_a_bad_id_fails_its_own_slice_alone_and_says_where() -> None:
    about, layout = assembly("dlrm-rmc1")
    engine = build("compiled", about)
    good, bad = layout.rows_at(5), layout.rows_at(2**40)
    name = about.model.schema.sparse[1].name
    about.inputs[name][bad[name] + 2, 3] = -7
    outs = [np.empty((4, 1), np.float32) for _ in range(2)]
    slices = [SliceView(good, 0, 4, outs[0]), SliceView(bad, 0, 4, outs[1])]
    with pytest.raises(IndexError, match=rf"input '{name}': item 2: .*got -7"):
        engine.score(slices)
    engine.score(slices[:1])
    assert np.isfinite(outs[0]).all()


def test_another_route_can_be_named_and_a_wrong_one_is_refused() -> None:
    about, layout = assembly("ncf")
    pytest.importorskip("openvino")
    out = [np.empty((5, 1), np.float32) for _ in range(2)]
    for engine, o in zip(("compiled", "compiled:openvino"), out, strict=True):
        build(engine, about).score([SliceView(layout.rows_at(3), 0, 5, o)])
    np.testing.assert_allclose(out[0], out[1], atol=1e-5)
    with pytest.raises(InputError, match="unknown dense route 'openvno'"):
        build("compiled:openvno", about)
