"""The chaos run: its schedule, how it counts, and a short run from end to end."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import Run
from benchmarks.lib.chaos_run import EVERY_S, Client, schedule
from benchmarks.lib.versions import VersionScores
from benchmarks.serve import chaos
from deeprecsys.core.target import Target
from deeprecsys.serve.load.client import Response
from deeprecsys.workload.stream import Workload

TARGET = Target(latency_s=0.1)


def test_a_schedule_is_seeded_has_every_kind_and_ends_calmly() -> None:
    plan = schedule(3, 600.0)
    assert plan == schedule(3, 600.0) != schedule(4, 600.0)
    assert {d.kind for d in plan} == set(EVERY_S)
    assert plan == sorted(plan)
    assert max(d.at_s + d.lasts_s for d in plan) <= 500.0
    assert {d.kind for d in schedule(3, 18.0, 0.2)} == set(EVERY_S)


@pytest.fixture(scope="module")
def scores() -> VersionScores:
    return VersionScores("ncf", 0.001, 50, 4, 3)


def answer(status: int, scores: np.ndarray | None = None, **head: Any) -> Response:
    text = json.dumps(head).encode()
    body = text + (b"" if scores is None else scores.tobytes())
    headers = {b"inference-header-content-length": b"%d" % len(text)}
    return Response(status, headers | ({b"retry-after": b"1"} if status == 503 else {}), body)


def test_answers_are_compared_with_the_version_that_they_name(scores: VersionScores) -> None:
    assert scores.least_difference > 0.1
    client = Client("ncf", scores, Workload.parse(sizes="fixed:20", seed=1).stream(10, queries=6), TARGET)
    kind = client._kind
    right = scores._by_version
    client.answered(0, answer(200, right["2"][kind[0]][:20], model_version="2"))
    client.answered(1, answer(200, right["3"][kind[1]][:20], model_version="3"))
    assert (client.wrong, dict(client.versions)) == (0, {"2": 1, "3": 1})
    client.answered(2, answer(200, right["2"][kind[2]][:20], model_version="1"))
    client.answered(3, answer(200, right["2"][kind[3]][:19], model_version="2"))
    assert client.wrong == 2
    client.answered(4, answer(503, error="no worker"))
    client.answered(5, answer(500, error="it failed"))
    found = client.document()
    assert (found["served"], found["refused"], found["silent"], found["lost"]) == (4, 1, 0, 1)
    client.answered(4, answer(503))
    assert client.silent == 1


@pytest.mark.live
def test_a_short_run_loses_nothing_and_leaves_nothing() -> None:
    found = chaos.run(Run("serve_chaos", chaos.BENCHMARK._options(["--quick"])))
    assert set(found["done"]) == set(EVERY_S)
    shown = {row.what: row for row in chaos.rows(found)}
    for what in (
        "lost: neither",
        "wrong scores for the version named",
        "processes",
        "memory less tables, MB",
    ):
        assert shown[what].met, shown[what]
