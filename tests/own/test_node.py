"""The example, served by a live node: in each of its forms the same scores, and each table once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprecsys.core.policy import DeepRecSched
from deeprecsys.node.cores import pss_bytes
from deeprecsys.node.node import Node, NodeConfig
from tests.node.test_node import Collect, stream
from tests.own.conftest import EXAMPLE

CLASS = f"{EXAMPLE / 'model.py'}:ServedRanker"
WORKERS = 2
SIZES = [1, 2, 17, 64, 100, 99, 31]


def ranker(exported: Path) -> torch.nn.Module:
    """The user's own module with its weights, called by nobody but its user."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        from model import Ranker
    finally:
        sys.path.remove(str(EXAMPLE))
    module = Ranker().eval().requires_grad_(False)
    module.load_state_dict(torch.load(exported / "ranker.pt", weights_only=True))
    return module


def node(name: str, engine: str = "eager", rows_scale: float = 1.0) -> Node:
    return Node(NodeConfig(name, engine=engine, workers=WORKERS, max_query=100, rows_scale=rows_scale))


@pytest.fixture(scope="module")
def without_tables() -> float:
    """Bytes that the workers take when the tables are next to nothing."""
    with node(CLASS, rows_scale=1e-3) as small:
        return pss_bytes(small.pool.pids)


@pytest.mark.parametrize(
    ("form", "engine"),
    [
        (f"{CLASS}@{{}}/ranker.safetensors", "eager"),
        (f"{CLASS}@{{}}/ranker.pt", "compiled"),
        ("{}/ranker.onnx", "compiled"),
        ("{}/ranker.pt2", "eager"),
    ],
)
def test_every_form_scores_as_the_users_module_and_holds_each_table_once(
    form: str, engine: str, exported: Path, without_tables: float
) -> None:
    module, queries = ranker(exported), stream(SIZES, gap_s=0.02)
    collect = Collect()
    with node(form.format(exported), engine) as live:
        live.run(DeepRecSched(25), queries, hooks=collect)
        assert len(collect.scores_by_query) == len(SIZES)
        for k, (size, handle) in enumerate(zip(SIZES, queries.features.tolist(), strict=True)):
            first, rows = live.memory.rows_at(handle), live.memory.inputs
            user, history, item, features = (
                torch.from_numpy(rows[name][first[name] :][:n].copy())
                for name, n in (("user", 1), ("history", 1), ("item", size), ("features", size))
            )
            wanted = module(user[:, 0], history, item[:, 0], features).numpy()
            np.testing.assert_allclose(collect.scores_by_query[k][:, 0], wanted, atol=1e-5)
        table_bytes = live.memory.plan.schema().table_bytes
        # Of what is shared, this process has a part as well. A copy per worker would be 2 more.
        assert pss_bytes(live.pool.pids) - without_tables < 1.4 * table_bytes
