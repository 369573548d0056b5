"""Every model of the zoo through the service: scores equal to those of the engine called directly."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from deeprecsys.core.policy import Coalescing, DeepRecSched
from deeprecsys.node.runtime.layout import ModelLayout, QueryArena
from deeprecsys.node.runtime.tables import Weights, table_arrays
from deeprecsys.node.service.service import Service
from deeprecsys.zoo.rows import RowFormat, convert
from tests.serve.harness import SMALL, Reference, Run, ask, features, nothing_left, run, service, shared
from tests.serve.test_swap import scaled_rows

NAMES = ["dlrm-rmc1", "dlrm-rmc2", "dlrm-rmc3", "ncf", "wnd", "mt-wnd", "din", "dien"]
POLICIES = [DeepRecSched(1000), DeepRecSched(37), Coalescing(256, 8)]
SIZES = [1, 2, 1000, 37, 250, 999, 5, 64, 1, 128, 3]


@pytest.fixture(scope="module")
def zoo() -> Iterator[tuple[Service, Run]]:
    """A service of all models, as its workers hold them beside each other."""
    like = replace(SMALL, engine="compiled", rows_scale=0.01, max_items=1000, policy=POLICIES[0])
    with shared(*(replace(like, name=name) for name in NAMES), workers=2) as started:
        yield started


@pytest.mark.live
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_models_whatever_the_batches(name: str, zoo: tuple[Service, Run]) -> None:
    s, on_its_loop = zoo

    async def scenario() -> None:
        reference = Reference(s, name)
        schema = s.models[name].schema
        queries = [features(schema, n, i) for i, n in enumerate(SIZES)]
        expected = [reference(q) for q in queries]
        spread = np.std(np.concatenate(expected))
        for policy in POLICIES:
            s.adopt(name, policy, "for the test")
            found = await asyncio.gather(*(ask(s, name, q) for q in queries))
            for scores, y in zip(found, expected, strict=True):
                np.testing.assert_allclose(scores, y, atol=1e-4 * max(spread, 1e-3), rtol=1e-3)
        nothing_left(s)

    on_its_loop(scenario())


@pytest.mark.live
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_at_a_lower_precision_scores_are_those_of_fp32_but_for_the_rounding_of_rows(precision: str) -> None:
    async def scenario() -> None:
        exact = replace(SMALL, engine="eager", name="exact", model="dlrm-rmc1", rows_scale=0.01)
        rounded = replace(exact, name="rounded", engine="compiled", precision=precision)
        async with service(exact, rounded) as s:
            query = features(s.models["exact"].schema, 100, 1)
            wanted, found = await ask(s, "exact", query), await ask(s, "rounded", query)
            np.testing.assert_allclose(wanted, Reference(s, "exact")(query), atol=1e-6)
            off = np.abs(found - wanted).max() / np.std(wanted)
            assert 1e-5 < off < 0.1
            size = {name: served.versions[0].tables.size for name, served in s._served.items()}
            assert size["rounded"] < 0.51 * size["exact"]
            assert s.models["rounded"].config["precision"] == precision
            nothing_left(s)

    run(scenario())


def test_tables_that_somebody_fills_are_kept_in_the_format_asked_for() -> None:
    plans = {form: ModelLayout("dlrm-rmc1", 1e-4, form, QueryArena(16, 1)) for form in RowFormat}
    kept = {f: p.load_tables(Weights(fill=scaled_rows), lambda *_: None) for f, p in plans.items()}
    tables = {f: table_arrays(plans[f].schema(), kept[f], f) for f in RowFormat}
    for form in RowFormat:
        for name, rows in tables[form].items():
            np.testing.assert_array_equal(rows, convert(tables[RowFormat.FP32][name], form))
    del rows, tables
    for segment in kept.values():
        segment.close()
