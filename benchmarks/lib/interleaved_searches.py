"""Several live searches at once, trial by trial in turn, so that a machine that drifts does so under all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import deeprecsys as dr
from deeprecsys.core.runlog import RunLog
from deeprecsys.search.capacity import capacity
from deeprecsys.search.probes import Trial
from deeprecsys.search.result import CapacityResult, Settings

T = TypeVar("T")


def interleaved(trial: Trial, searches: Sequence[Callable[[Trial], T]]) -> list[T]:
    """The results of some searches, each of which runs one of its trials whenever it is its turn."""
    waiting, changed = deque(range(len(searches))), threading.Condition()

    def one(party: int) -> T:
        def run(*args: Any) -> RunLog:
            with changed:
                changed.wait_for(lambda: waiting[0] == party)
                log = trial(*args)
                waiting.rotate(-1)
                changed.notify_all()
            return log

        try:
            return searches[party](run)
        finally:
            with changed:
                waiting.remove(party)
                changed.notify_all()

    with ThreadPoolExecutor(len(searches)) as pool:
        return list(pool.map(one, range(len(searches))))


def side_by_side(
    trial: Trial,
    policies: Sequence[dr.Policy],
    target: dr.Target,
    *,
    hint_qps: float,
    settings: Settings,
    seed: int,
) -> list[CapacityResult]:
    """The capacities of some policies, searched at once.

    The best of a dozen noisy figures is a lucky one, and a machine drifts in the minutes of a sweep: only
    side by side can two policies be told apart.
    """

    def search(policy: dr.Policy) -> Callable[[Trial], CapacityResult]:
        return lambda own: capacity(own, policy, target, hint_qps=hint_qps, settings=settings, seed=seed)

    return interleaved(trial, [search(p) for p in policies])
