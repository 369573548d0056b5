"""The reference batch, the length of runs, and when eager torch runs beside a tuning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deeprecsys.api import sustaining, usual
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.sustaining import HOLD_S, Budget, Reference, bounded_s
from deeprecsys.core.policy import Static
from deeprecsys.core.target import Target


class Node:
    """A node that only measures: each look is 10 % slower than the one before."""

    workers = 2

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def measure(self, batch: int, busy: int, repeats: int) -> Any:
        self.asked.append((batch, busy, repeats))
        return np.full(repeats, 0.01 * 1.1 ** (len(self.asked) - 1))

    def footprint(self) -> dict[str, float]:
        return {"table_bytes": 1e9}


def test_a_reference_batch_is_timed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(sustaining.time, "monotonic", lambda: clock[0])
    node = Node()
    reference = Reference(node, 64, 0.01)  # type: ignore[arg-type]
    for now in (100.0, 101.0, 104.0):
        clock[0] = now
        reference.look()
    assert node.asked == [(64, 2, 30)] * 2, "once within three seconds, 0.15 s of both workers each"
    assert reference.drift.share == pytest.approx(0.1)
    assert reference.drift.usual_s == pytest.approx(0.0105)


def test_a_run_is_as_long_as_planned_within_what_it_may_take() -> None:
    target = Target(latency_s=0.1)
    assert bounded_s(60.0, 75.0, target) == 60.0
    assert bounded_s(400.0, 75.0, target) == 75.0
    assert bounded_s(60.0, 0.1, target) == 0.5, "a few targets at least"
    assert Budget.of(None, False, None).longest_s == HOLD_S
    assert Budget.of(None, False, 4.0).longest_s == 8.0
    assert Budget.of(None, False, 1e3).longest_s == HOLD_S


def beside(node: Any, engines: tuple[str, ...] = (), **options: Any) -> tuple[Any, list[str]]:
    job = Experiment.resolve("ncf", rows_scale=0.001, **options)
    keepers: Any = (None, None)
    with usual.usual_point(node, job, Static(500), [], engines, keepers, 1.0) as found:
        return found


def test_eager_torch_is_left_out_where_it_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*args: Any) -> Any:
        raise AssertionError("a node is started")

    monkeypatch.setattr(usual, "start", start)
    assert beside(Node(), engine="eager") == (None, []), "it is itself the engine"
    assert beside(Node(), engine="compiled", engines=("compiled",)) == (None, []), "others were named"
    assert beside(Node(), engine="null") == (None, []), "nothing is scored"
    monkeypatch.setattr(usual, "available_bytes", lambda: int(2.5e9))
    none, notes = beside(Node(), engine="compiled")
    assert none is None
    assert notes == ["eager torch was not run beside it: the tables do not fit in memory twice"]
    monkeypatch.setattr(usual, "available_bytes", lambda: int(4e9))
    with pytest.raises(AssertionError, match="a node is started"):
        beside(Node(), engine="compiled", engines=("eager", "compiled"))
