"""Precision on the command line: what is tried, what is refused, and the quality report of a live node."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.api.engines import choices, engines_at
from deeprecsys.api.experiment import TuneOptions
from deeprecsys.node.runtime.layout import FeaturePool, ModelLayout, ModelMemory
from deeprecsys.zoo.rows import RowFormat, convert
from tests.cli.conftest import Answered, Refused


def tried(precision: str, *engines: str) -> list[tuple[str, str]]:
    options: TuneOptions = {"rows_scale": 0.01, "precision": precision}
    return [(s.experiment.node.engine, s.experiment.node.precision) for s in choices("ncf", options, engines)]


def test_tune_tries_every_precision_that_is_allowed_the_lowest_first() -> None:
    assert tried("fp32") == [("eager", "fp32"), ("compiled", "fp32")]
    assert [p for _, p in tried("int8")] == sorted(
        [p for _, p in tried("int8")], key=["int8", "bf16", "fp32"].index
    )
    assert {("compiled", p) for p in ("int8", "bf16", "fp32")} < set(tried("int8"))
    assert "int8" not in {p for _, p in tried("bf16")}


def test_engines_that_are_named_are_tried_where_they_can() -> None:
    assert tried("bf16", "eager") == [("eager", "fp32")]
    assert tried("bf16", "compiled") == [("compiled", "bf16"), ("compiled", "fp32")]
    assert engines_at("int8", ("eager",)) == ()


def test_a_lower_precision_shrinks_the_tables_and_nothing_else() -> None:
    pool = FeaturePool(max_open=2)
    plans = {form: ModelLayout("dlrm-rmc1", 1e-4, form.value, pool) for form in RowFormat}
    sizes = {form: plan.sizes() for form, plan in plans.items()}
    assert sizes[RowFormat.BF16]["tables"] <= 0.51 * sizes[RowFormat.FP32]["tables"]
    assert sizes[RowFormat.INT8]["tables"] <= 0.32 * sizes[RowFormat.FP32]["tables"]
    assert len({tuple(v for k, v in s.items() if k != "tables") for s in sizes.values()}) == 1
    memories = {form: ModelMemory.of_trials(plan, seed=0) for form, plan in plans.items()}
    try:
        exact = memories[RowFormat.FP32]
        for form, memory in memories.items():
            for name, rows in memory.tables.items():
                np.testing.assert_array_equal(rows, convert(exact.tables[name], form))
            for name, ids in memory.inputs.items():
                np.testing.assert_array_equal(ids, exact.inputs[name])
    finally:
        rows = ids = None  # views of what is dropped next
        for memory in memories.values():
            memory.close()


@pytest.mark.live
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_quality_of_a_live_node(answered: Answered, precision: str) -> None:
    found = answered(
        "quality",
        "ncf",
        "--rows-scale",
        "0.01",
        "--precision",
        precision,
        "--queries",
        "12",
        "--workers",
        "1",
    )
    q = found["quality"]
    assert (q["queries"], found["precision"]) == (12, precision)
    assert q["arithmetic"] == f"{precision} rows, fp32 dense (onnxruntime)"
    if precision == "fp32":
        assert q["largest_difference"] <= 1e-5
        assert q["spearman_least"] > 0.9999
    else:
        assert 1e-5 < q["largest_difference"] < 0.05
        assert 0.9 < q["spearman"] < 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["quality", "ncf", "--queries", "0"], "--queries: expected at least 1, got 0"),
        (["quality", "ncf", "--engine", "eager"], "precision of engine eager: expected fp32, got bf16"),
        (["bench", "ncf", "--rate", "9", "--isa", "mmx"], "'mmx' is not one of"),
    ],
)
def test_what_cannot_be_is_refused(refused: Refused, args: list[str], said: str) -> None:
    assert said in refused(*args)
