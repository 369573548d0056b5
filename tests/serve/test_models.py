"""Every model of the zoo through the service: scores equal to those of the engine called directly."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from deeprecsys.core.policy import Coalescing, DeepRecSched
from tests.serve.harness import SMALL, Reference, ask, features, nothing_left, run, service

NAMES = ["dlrm-rmc1", "dlrm-rmc2", "dlrm-rmc3", "ncf", "wnd", "mt-wnd", "din", "dien"]
POLICIES = [DeepRecSched(1000), DeepRecSched(37), Coalescing(256, 8)]
SIZES = [1, 2, 1000, 37, 250, 999, 5, 64, 1, 128, 3]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_models_whatever_the_batches(name: str) -> None:
    async def scenario() -> None:
        config = replace(
            SMALL, name=name, engine="compiled", rows_scale=0.01, max_items=1000, policy=POLICIES[0]
        )
        async with service(config, workers=2) as s:
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

    run(scenario())
