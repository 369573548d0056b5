"""Names, configurations, scaling, and what importing the zoo costs."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.errors import InputError
from deeprecsys.zoo import MODELS, model
from deeprecsys.zoo.model import MIN_ROWS
from deeprecsys.zoo.schema import MAX_ROWS, Per

MEDIUM_MS = {
    "dlrm-rmc1": 100,
    "dlrm-rmc2": 400,
    "dlrm-rmc3": 100,
    "ncf": 5,
    "wnd": 25,
    "mt-wnd": 25,
    "din": 100,
    "dien": 35,
}


def test_the_zoo_holds_eight_models_and_their_artefact_variants():
    artefacts = [f"{name}-artefact" for name in MEDIUM_MS]
    assert list(MODELS) == [*MEDIUM_MS, *artefacts, "dlrm-rmc1-jagged"]
    assert all(m.name == name for name, m in MODELS.items())


def test_a_variant_shares_its_models_target_and_bottleneck():
    for name, ms in MEDIUM_MS.items():
        assert model(name).medium_target_ms == ms
        assert model(f"{name}-artefact").medium_target_ms == ms
        assert model(f"{name}-artefact").bottleneck == model(name).bottleneck


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown model 'dlrm-rmc4': did you mean 'dlrm-rmc"):
        model("dlrm-rmc4")


def test_planning_loads_neither_torch_nor_numba():
    code = (
        "import sys; from deeprecsys.zoo import MODELS; import deeprecsys.zoo.tables\n"
        "from deeprecsys.zoo.schema import Per\n"
        "for m in MODELS.values(): m.scaled(0.1).schema.table_bytes, m.flops(Per.ITEM), m.dense_parameters\n"
        "sys.exit(bool({'torch', 'numba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MODELS)
def test_artefact_variants_read_everything_per_item(name):
    per_query = [i.name for i in model(name).schema.inputs if i.per is Per.QUERY]
    if name.endswith("-artefact") or name.startswith("dlrm"):
        assert not per_query
        assert model(name).flops(Per.QUERY) == 0
    else:
        assert per_query
        assert model(name).flops(Per.QUERY) > 0


@given(st.sampled_from(sorted(MODELS)), st.floats(1e-9, 2.0))
def test_scaling_multiplies_rows_and_nothing_else(name, rows_scale):
    full, scaled = model(name), model(name).scaled(rows_scale)
    for before, after in zip(full.schema.tables, scaled.schema.tables, strict=True):
        assert after.rows == max(MIN_ROWS, round(before.rows * rows_scale))
        assert (after.name, after.dim) == (before.name, before.dim)
    assert scaled.schema.inputs == full.schema.inputs
    assert (scaled.name, scaled.dense_parameters) == (full.name, full.dense_parameters)
    assert all(scaled.flops(per) == full.flops(per) for per in Per)


def test_scaling_by_one_changes_nothing():
    for m in MODELS.values():
        assert m.scaled(1.0) == m


def test_scaling_twice_is_scaling_by_the_product():
    assert model("dlrm-rmc1").scaled(0.5).scaled(0.25).schema == model("dlrm-rmc1").scaled(0.125).schema


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", MODELS)
def test_a_scale_that_is_not_positive_is_refused(name, bad):
    with pytest.raises(InputError, match="rows scale"):
        model(name).scaled(bad)


def test_rows_beyond_32_bit_ids_are_refused():
    assert model("din").scaled(200).schema.table("goods").rows <= MAX_ROWS
    with pytest.raises(InputError, match="'goods' would have 3000000000 rows"):
        _ = model("din").scaled(300).schema
