"""A service of a model whose items have different numbers of ids, on real workers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deeprecsys.core.policy import DeepRecSched
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.node.runtime.tables import table_arrays
from deeprecsys.node.service.backend import UnscoredError
from deeprecsys.zoo.jagged import Ids, offsets_of
from tests.serve.harness import FAST, SMALL, Heard, run, service

NAME = "dlrm-rmc1-jagged"
MODEL = replace(
    SMALL,
    name=NAME,
    engine="compiled",
    profile=replace(FAST, lookup_share=0.8),
    policy=DeepRecSched(16),
    most_bytes=8 << 20,
)


def query(schema: Any, lengths: np.ndarray, seed: int) -> dict[str, Any]:
    """Inputs of a query whose items have these lengths in every table."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for i in schema.dense:
        found[i.name] = rng.standard_normal((len(lengths), i.width), dtype=np.float32)
    for i in schema.sparse:
        ids = rng.integers(0, schema.table(i.table).rows, int(lengths.sum()), dtype=np.int32)
        found[i.name] = Ids(ids, offsets_of(lengths))
    return found


async def ask(s: Any, inputs: dict[str, Any]) -> np.ndarray:
    items = len(inputs["dense"])
    ids = {name: len(x.values) for name, x in inputs.items() if isinstance(x, Ids)}
    seat = s.reserve(NAME, items, arrival_s=time.monotonic(), ids=ids)
    try:
        for name, into in seat.inputs.items():
            given = inputs[name]
            if isinstance(into, Ids):
                into.put(given.values, np.diff(given.begins))
            else:
                into[...] = given
        scores: np.ndarray = (await s.score(seat)).copy()
        return scores
    finally:
        s.release(seat)


@pytest.mark.live
def test_queries_of_any_lengths_are_scored_as_whole_in_slices_of_equal_work() -> None:
    rng = np.random.default_rng(2)
    heavy = [np.minimum(rng.lognormal(2.3, 1.0, n), 256).astype(np.int64) for n in (1, 7, 40, 100, 64, 100)]
    cases = [*heavy, np.full(30, 256), np.zeros(30, np.int64), np.where(np.arange(50) < 3, 256, 1)]

    async def scenario() -> None:
        async with service(MODEL) as s:
            heard = Heard(s)
            served = s._served[NAME]
            schema = served.arena.schema
            given = [query(schema, lengths, k) for k, lengths in enumerate(cases)]
            found = await asyncio.gather(*(ask(s, inputs) for inputs in given))
            tables = table_arrays(schema, served.versions[-1].tables)
            for inputs, scores in zip(given, found, strict=True):
                items = len(inputs["dense"])
                whole = np.empty((items, 1), np.float32)
                network = served.arena.layout.built()
                engine = build("eager", Assembly(network, tables, inputs, MODEL.seed))
                engine.score([SliceView(dict.fromkeys(inputs, 0), 0, items, whole)])
                np.testing.assert_allclose(scores, whole, rtol=1e-4, atol=1e-6)
            assert [r.items for r in sorted(heard.queries, key=lambda r: r.id)] == list(map(len, cases))
            # A query of 30 items of 256 look-ups is far more slices than one of 30 without any.
            slices = {r.id: r.slices for r in heard.queries}
            first = min(slices)
            assert slices[first + 6] > 8 * slices[first + 7]
            bad = query(schema, np.array([3, 4]), 0)
            bad["sparse_4"].values[5] = schema.table("table_4").rows
            with pytest.raises(UnscoredError, match=r"'sparse_4': item 1, look-up 2: expected an id in 0 … "):
                await ask(s, bad)
            assert served.rows.free == served.arena.layout.inputs.rows  # type: ignore[union-attr] # an arena

    run(scenario())
