"""Closed loops without a dispatcher end, whatever their workers do."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from deeprecsys.core.errors import NodeError
from deeprecsys.core.policy import CPU
from deeprecsys.node import closed
from deeprecsys.node.runtime.workers import Workers


class Silent:
    """Workers that take batches and never reply."""

    def __init__(self) -> None:
        self.counts = {CPU: 2}

    def post(self, *_: Any) -> None: ...

    def news(self, wait_s: float) -> list[Any]:
        return []


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "PATIENCE_S", 0.01)


def test_scoring_ends_when_no_worker_replies() -> None:
    with pytest.raises(NodeError, match="a query took longer than"):
        closed.score_queries(cast(Workers, Silent()), np.zeros((2, 8), np.float32), [1, 2, 3], [8, 8, 8])


def test_measuring_ends_when_no_worker_replies() -> None:
    with pytest.raises(NodeError, match="a batch of 8 took longer than"):
        closed.measure_batches(cast(Workers, Silent()), batch=8, busy=2, repeats=5, seed=0)
