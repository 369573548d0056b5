"""Lower precision through every stage: within the bound that the rounding of rows allows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
import pytest
import torch

from deeprecsys.core.errors import InputError
from deeprecsys.engine import Assembly, Engine, EngineSpec, SliceView, build
from deeprecsys.engine.dense import installed, lowest
from deeprecsys.workload.features import FeatureLayout
from deeprecsys.zoo import MODELS, model
from deeprecsys.zoo.jagged import Ids
from deeprecsys.zoo.networks import weighted
from deeprecsys.zoo.networks.sparse import SparseStage
from deeprecsys.zoo.rows import RowFormat, convert
from deeprecsys.zoo.schema import Per
from deeprecsys.zoo.tables import fill
from tests.engine.rows import restore

BATCHES = (1, 16, 64, 256, 1024)
LOWER = (RowFormat.BF16, RowFormat.INT8)


def assembly(name: str) -> tuple[Assembly, FeatureLayout]:
    """A small model with tables of order 1."""
    m = model(name).scaled(1e-4)
    layout = FeatureLayout.plan(m.schema, max(BATCHES), llc_bytes=1 << 14)
    buffer = bytearray(layout.size)
    layout.fill(buffer, seed=6)
    tables = {t.name: np.empty((t.rows, t.dim), np.float32) for t in m.schema.tables}
    for i, table in enumerate(tables.values()):
        fill(table, seed=(6, i))
    return Assembly(m, tables, layout.views(buffer), seed=6), layout


def at(about: Assembly, form: RowFormat) -> Assembly:
    """The same with rows in another format."""
    rows = {name: convert(table, form) for name, table in about.tables.items()}
    return replace(about, tables=rows, precision=form.value)


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    """A model's; all tests of one run before those of the next, whose engines take its engines' place."""
    found: str = request.param
    return found


@lru_cache(1)
def case(name: str) -> tuple[dict[str, Assembly], dict[str, Engine], FeatureLayout]:
    """By precision the assembly and the compiled engine; eager's by its name."""
    about, layout = assembly(name)
    all_of = {"fp32": about, **{form.value: at(about, form) for form in LOWER}}
    engines = {precision: build("compiled", a) for precision, a in all_of.items()}
    return all_of, {**engines, "eager": build("eager", about)}, layout


def score(engine: Engine, about: Assembly, layout: FeatureLayout, items: int) -> np.ndarray:
    out = np.full((items, about.model.schema.outputs), np.nan, np.float32)
    engine.score([SliceView(layout.rows_at(11), 0, items, out)])
    return out


@torch.inference_mode()
def in_double(about: Assembly, layout: FeatureLayout, items: int) -> np.ndarray:
    """The scores in float64 of whatever the rows say."""
    schema, first = about.model.schema, layout.rows_at(11)
    tables = {t.name: torch.from_numpy(restore(t, about.tables[t.name])).double() for t in schema.tables}

    def rows(name: str, per: Per) -> torch.Tensor | Ids:
        count, found = items if per is Per.ITEM else 1, about.inputs[name]
        if isinstance(found, Ids):
            return found.rows(first[name], first[name] + count)
        return torch.from_numpy(found[first[name] : first[name] + count].copy())

    network = weighted(about.model, about.seed)
    x = SparseStage(schema, tables)({i.name: rows(i.name, i.per) for i in schema.sparse})
    x |= {i.name: rows(i.name, i.per).double() for i in schema.dense}
    found: np.ndarray = network.double()(x, None).numpy()
    return found


@cache
def exact(name: str, precision: str, items: int) -> np.ndarray:
    """`in_double` of a case, computed once."""
    abouts, _, layout = case(name)
    return in_double(abouts[precision], layout, items)


@cache
def by_eager(name: str, items: int) -> np.ndarray:
    """The eager engine's scores of a case, computed once."""
    abouts, engines, layout = case(name)
    return score(engines["eager"], abouts["fp32"], layout, items)


def test_scores_from_ids_agree_with_eager_at_every_batch_size(name: str) -> None:
    abouts, engines, layout = case(name)
    about = abouts["fp32"]
    for items in BATCHES:
        eager, true = by_eager(name, items), exact(name, "fp32", items)
        got = score(engines["fp32"], about, layout, items)
        near = np.abs(got - eager) <= 1e-5 * np.maximum(1, np.abs(eager))
        assert (near | (np.abs(got - true) <= 2 * np.abs(eager - true).max())).all()
    assert np.std(eager) > 1e-3


@pytest.mark.parametrize("form", LOWER)
def test_lower_rows_are_the_only_thing_that_is_rounded(name: str, form: RowFormat) -> None:
    """With fp32 layers the scores are those of the rounded rows, to float32's own error."""
    abouts, engines, layout = case(name)
    for items in (1, 64, 1024):
        true = exact(name, form.value, items)
        own_error = np.abs(by_eager(name, items) - exact(name, "fp32", items)).max()
        got = score(engines[form], abouts[form], layout, items)
        assert (np.abs(got - true) <= np.maximum(1e-5 * np.maximum(1, np.abs(true)), 3 * own_error)).all()


@pytest.mark.parametrize(("form", "share"), [(RowFormat.BF16, 0.02), (RowFormat.INT8, 0.05)])
def test_lower_precision_stays_within_its_bound(name: str, form: RowFormat, share: float) -> None:
    """The bound, for the mean item: that share of the scores' standard deviation over items."""
    abouts, engines, layout = case(name)
    want = by_eager(name, 1024)
    got = score(engines[form], abouts[form], layout, 1024)
    assert (np.abs(got - want).mean(axis=0) <= share * want.std(axis=0)).all()
    assert not np.array_equal(got, want)


@pytest.mark.parametrize("form", LOWER)
def test_what_is_computed_in_is_said(form: RowFormat) -> None:
    about, _ = assembly("ncf")
    engine = build("compiled", at(about, form))
    assert engine.arithmetic == f"{form} rows, fp32 dense (onnxruntime)"  # type: ignore[attr-defined]
    assert build("eager", about).arithmetic == "fp32 rows, fp32 dense (torch)"  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", LOWER)
def test_an_id_out_of_range_fails_its_slice_alone(form: RowFormat) -> None:
    about, layout = assembly("dlrm-rmc1")
    lower = at(about, form)
    name = about.model.schema.sparse[1].name
    bad = layout.rows_at(2**40)
    about.inputs[name][bad[name] + 2, 3] = about.model.schema.tables[1].rows
    engine, out = build("compiled", lower), np.empty((4, 1), np.float32)
    with pytest.raises(IndexError, match=rf"input '{name}': item 2"):
        engine.score([SliceView(layout.rows_at(5), 0, 4, out), SliceView(bad, 0, 4, out.copy())])
    engine.score([SliceView(layout.rows_at(5), 0, 4, out)])
    assert np.isfinite(out).all()


def test_engines_say_what_they_compute_in() -> None:
    assert EngineSpec.parse("eager").precisions == ("fp32",)
    assert EngineSpec.parse("compiled:openvino").precisions == ("fp32", "bf16", "int8")
    with pytest.raises(InputError, match="precision of engine eager: expected fp32, got int8"):
        EngineSpec.parse("eager").require("int8")
    assert EngineSpec.parse("compiled:openvino").require("bf16").name == "compiled"


@pytest.mark.parametrize("route", installed())
def test_no_route_goes_below_what_is_allowed_or_what_it_has(route: str) -> None:
    assert lowest(route, "fp32") == "fp32"
    assert lowest(route, "bf16") == lowest(route, "int8")
    if route != "openvino":
        assert lowest(route, "int8") == "fp32"
