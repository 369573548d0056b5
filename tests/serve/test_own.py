"""The user's own example in service: its module's scores, also from a worker that is started later."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Coalescing
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.service.hosted_model import ModelConfig
from tests.custom.conftest import EXAMPLE
from tests.custom.test_node import ranker
from tests.serve.harness import SMALL, ask, features, nothing_left, run, service

pytestmark = pytest.mark.live

SIZES = (1, 17, 64, 100)


def config(model: str, **changes: object) -> ModelConfig:
    known = {"engine": "compiled", "max_items": 100, **changes}
    return ModelConfig("ranker", SMALL.target, Coalescing(25, 8), SMALL.profile, model=model, **known)  # type: ignore[arg-type]


def scores(module: torch.nn.Module, query: dict[str, np.ndarray]) -> np.ndarray:
    x = {name: torch.from_numpy(rows) for name, rows in query.items()}
    found: np.ndarray = module(x["user"][:, 0], x["history"], x["item"][:, 0], x["features"]).numpy()
    return found


@pytest.mark.parametrize(
    ("form", "changes", "atol"),
    [
        ("{}/model.py:ServedRanker@{}/ranker.pt", {}, 1e-5),
        ("{}/model.py:ServedRanker@{}/ranker.safetensors", {"precision": "bf16"}, 2e-2),
        ("{}/ranker.onnx", {}, 1e-5),
    ],
)
def test_scores_are_the_modules_and_a_later_worker_describes_nothing_again(
    form: str,
    changes: dict[str, str],
    atol: float,
    exported: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(exported, folder)
    shutil.copy(EXAMPLE / "model.py", folder)
    module = ranker(exported)

    async def scenario() -> None:
        async with service(config(form.replace("{}", str(folder)), **changes), workers=1) as s:
            assert list(s.models) == ["ranker"]
            queries = [features(s.models["ranker"].schema, n, n) for n in SIZES]
            for later in (False, True):
                found = await asyncio.gather(*(ask(s, "ranker", q) for q in queries))
                for q, y in zip(queries, found, strict=True):
                    np.testing.assert_allclose(y[:, 0], scores(module, q), atol=atol)
                if later:
                    break
                if form.endswith(".onnx"):  # a class's module is built from its file in every worker
                    shutil.rmtree(folder)
                (first,) = s._workers.pids
                os.kill(first, signal.SIGKILL)
                while s._workers.pids in ([], [first]):
                    await asyncio.sleep(0.01)
                    assert not s._workers.problems
            nothing_left(s)

    run(scenario())


def test_new_weights_that_nobody_writes_are_refused_in_one_line(exported: Path) -> None:
    async def scenario() -> None:
        async with service(config(f"{exported}/ranker.onnx"), workers=1) as s:
            with pytest.raises(InputError, match=r"^weights of ranker: expected Weights\.fill.*, got none$"):
                await s.swap("ranker", "2", Weights(seed=2))
            assert s.models["ranker"].version == "1"
            assert s.ready

    run(scenario())
