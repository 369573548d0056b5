"""What a version of weights must do before it serves, by the queries that judge it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import DeepRecSched
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.node.service.probe import ROUNDS, Probed, check_version
from tests.serve.stand_in import MIXED, expected_scores

PROFILE = LatencyProfile("any", (Point(1, 1, (0.001,)), Point(1, 32, (0.032,))))
OLD, NEW = (SimpleNamespace(id=i, version=f"{i}", ready=i == 1) for i in (1, 2))


def hosted(ready: bool = True, **changes: Any) -> Any:
    config = {"max_items": 64, "finite": True, "split": True, "precision": "fp32", "profile": PROFILE}
    config |= changes
    current = SimpleNamespace(id=1, version="1", ready=ready)
    room = np.zeros(config.pop("room", 1000))
    return SimpleNamespace(
        rows_of=lambda items, jagged: items, name="m", policy=DeepRecSched(32), current=current,
        arena=SimpleNamespace(schema=MIXED, scores=room), config=SimpleNamespace(**config),
    )  # fmt: skip


def check(s: Any, new_s: float = 0.03, old_s: float = 0.03, change: Any = lambda scores: scores) -> list[Any]:
    """Judge a version whose scores are changed and whose batches take some time; the queries asked."""
    asked = []

    async def score(version: Any, items: int, inputs: Any) -> Probed:
        asked.append((version.id, items))
        scores = expected_scores(MIXED, inputs, items)
        slow = 10.0 if len(asked) % 2 else 1.0  # most batches are disturbed
        return Probed(
            change(scores) if version.id == 2 else scores, slow * (new_s if version.id == 2 else old_s)
        )

    asyncio.run(check_version(s, NEW, score, 2))
    return asked


def test_a_good_version_is_scored_by_every_worker_and_cut() -> None:
    asked = check(hosted())
    assert asked.count((1, 32)) == asked.count((2, 32)) == 2 * ROUNDS
    assert asked[-2:] == [(2, 16), (2, 16)]
    assert {v for v, _ in check(hosted(ready=False))} == {2}, "there is nothing to compare with"
    assert check(hosted(room=20))[0] == (1, 16), "as large as its memory has room for"


def nan_once(scores: Any) -> Any:
    return np.where(np.arange(len(scores))[:, None] == 3, np.nan, scores)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (
            {"change": nan_once},
            r"version 2 of m: expected finite scores, got 2 that are infinite or NaN, of 64",
        ),
        ({"change": lambda y: y - y.mean()}, r"expected scores that do not depend on a query's other items"),
        (
            {"new_s": 0.07},
            r"expected batches of 32 items within 64 ms, 2 times those of version 1, got 70 ms",
        ),
    ],
)
def test_a_bad_version_is_refused(how: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check(hosted(), **how)


def test_what_is_allowed_is_not_refused() -> None:
    check(hosted(finite=False), change=lambda y: np.where(y > 5000, np.nan, y))
    check(hosted(split=False), change=lambda y: y - y.mean())
    check(hosted(), new_s=0.07, old_s=0.04)  # the version before is as slow
    check(hosted(precision="bf16"), change=lambda y: y * (1 + 0.01 * (len(y) % 3)))
