"""The contract of every engine: slices alone or together, whole or in pieces, give the same scores."""

from __future__ import annotations

import time

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine import BUILT_IN, Assembly, EngineSpec, SliceView, build, factory
from deeprecsys.workload.features import FeatureLayout
from deeprecsys.zoo import MODELS, model
from deeprecsys.zoo.tables import fill

MAX_ITEMS = 24
SCORING = [name for name in BUILT_IN if name not in ("null", "wait", "emulated", "cuda")]
"""`cuda` is held to the same in tests/engine/cuda, on the CPU too."""


def assembly(name: str) -> tuple[Assembly, FeatureLayout]:
    """A small model with tables of order 1 and a feature pool."""
    m = model(name).scaled(1e-4)
    layout = FeatureLayout.plan(m.schema, MAX_ITEMS, llc_bytes=1 << 14)
    buffer = bytearray(layout.size)
    layout.fill(buffer, seed=3)
    tables = {t.name: np.empty((t.rows, t.dim), np.float32) for t in m.schema.tables}
    for i, table in enumerate(tables.values()):
        fill(table, seed=(3, i))
    return Assembly(m, tables, layout.views(buffer), seed=3), layout


@pytest.mark.parametrize("engine_name", SCORING)
@pytest.mark.parametrize("name", list(MODELS))
def test_batches_of_slices_of_several_queries_score_as_each_query_whole(name: str, engine_name: str) -> None:
    about, layout = assembly(name)
    engine = build(engine_name, about)
    handles = [7, 2**63 + 11, 123_456_789]
    outputs = about.model.schema.outputs

    def views(cuts: list[tuple[int, int, int]]) -> tuple[list[SliceView], dict[int, np.ndarray]]:
        outs = {q: np.full((MAX_ITEMS, outputs), np.nan, np.float32) for q in range(3)}
        return [SliceView(layout.rows_at(handles[q]), a, b, outs[q][a:b]) for q, a, b in cuts], outs

    whole, expected = views([(q, 0, MAX_ITEMS) for q in range(3)])
    for part in whole:
        engine.score([part])
    mixed, scores = views([(0, 5, MAX_ITEMS), (1, 0, 1), (2, 0, 9), (0, 0, 5), (1, 1, MAX_ITEMS), (2, 9, 24)])
    engine.score(mixed[:4])
    engine.score(mixed[4:])
    for q in range(3):
        limit = 1e-5 * np.maximum(1, np.abs(expected[q]))
        assert (np.abs(scores[q] - expected[q]) <= limit).all()
        assert np.isfinite(expected[q]).all()
    assert np.std(expected[0]) > 1e-3
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


@pytest.mark.parametrize("engine_name", SCORING)
@pytest.mark.parametrize("bad", [-1, 10**6])
def test_an_id_outside_its_table_raises(engine_name: str, bad: int) -> None:
    about, layout = assembly("dlrm-rmc1")
    engine = build(engine_name, about)
    name = about.model.schema.sparse[2].name
    row = layout.rows_at(5)[name]
    about.inputs[name][row + 4, 1] = bad
    out = np.empty((8, 1), np.float32)
    with pytest.raises((RuntimeError, IndexError)):
        engine.score([SliceView(layout.rows_at(5), 0, 8, out)])
    engine.score([SliceView(layout.rows_at(5), 0, 4, out[:4])])


def test_the_wait_engine_waits_per_batch_and_per_item() -> None:
    about, _ = assembly("ncf")
    engine = build("wait:2,0.5", about)
    out = np.empty((4, 1), np.float32)
    before = time.monotonic()
    engine.score([SliceView({}, 0, 4, out)])
    assert time.monotonic() - before >= 4e-3


def test_engines_are_named_and_refused_in_one_line() -> None:
    about, _ = assembly("ncf")
    with pytest.raises(InputError, match="did you mean 'eager'"):
        EngineSpec.parse("eagr")
    with pytest.raises(InputError, match=r"expected an importable module:attribute"):
        factory(EngineSpec.parse("no.such.module:Engine"))
    with pytest.raises(InputError, match="BATCH_MS"):
        build("wait:soon", about)
    assert EngineSpec.parse("my.module:Engine") == EngineSpec("my.module:Engine")
