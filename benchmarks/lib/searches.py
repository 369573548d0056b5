"""Live searches: an exhaustive one, to compare the climbs with; several at once, trial by trial in turn, so that a
machine that drifts does so under all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import exp, hypot, log
from typing import Any, TypeVar

import deeprecsys as dr
from deeprecsys.core.runlog import RunLog
from deeprecsys.search.capacity import capacity
from deeprecsys.search.history import UNREACHABLE, Score, Search
from deeprecsys.search.probes import Trial
from deeprecsys.search.result import CapacityResult, Settings

T = TypeVar("T")
SWEEP_SEED, DUEL_SEED = 1, 2  # not the climb's


class Sweep(Search):
    """Every policy of a list, in order and to full accuracy. Ask and tell."""

    def __init__(self, policies: Iterable[dr.Policy]) -> None:
        super().__init__()
        self._left = list(policies)
        if not self._left:
            raise dr.InputError("policies: expected at least one, got none")

    def ask(self) -> dr.Policy | None:
        return self._left[0] if self._left else None

    def tell(self, policy: dr.Policy, score: Score) -> None:
        super().tell(policy, score)
        if policy in self._left:
            self._left.remove(policy)


def searched(
    search: Search, trial: Trial, target: dr.Target, hint_qps: float, settings: Settings, seed: int
) -> list[CapacityResult]:
    """Run a search to its end by live trials; the capacities that it was told."""
    results = []
    while (policy := search.ask()) is not None:
        about, floor = search.best.qps if search.best else hint_qps, search.floor_qps
        how: dict[str, Any] = {"hint_qps": about, "settings": settings, "seed": seed, "floor_qps": floor}
        try:
            results.append(capacity(trial, policy, target, **how))
        except dr.TargetUnreachableError:
            search.tell(policy, UNREACHABLE)
        else:
            search.tell(policy, results[-1])
    return results


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


def duel(
    trial: Trial, chosen: dr.Policy, best: dr.Policy, target: dr.Target, hint_qps: float, settings: Settings
) -> dict[str, Any]:
    """The share of the best policy's capacity that the chosen one has, with its interval; both searched at once.

    The best of a dozen noisy figures is a lucky one, and a machine drifts in the minutes of a sweep: only
    side by side can two policies be told apart.
    """

    def search(policy: dr.Policy) -> Callable[[Trial], CapacityResult]:
        return lambda own: capacity(own, policy, target, hint_qps=hint_qps, settings=settings, seed=DUEL_SEED)

    ours, theirs = interleaved(trial, [search(p) for p in (chosen, best)])
    share = (ours.capacity_qps or 0.0) / (theirs.capacity_qps or float("nan"))
    spread = hypot(
        *(log(f.high_qps / f.low_qps) / 2 if f.low_qps > 0 else float("inf") for f in (ours, theirs))
    )
    interval = [share * exp(-spread), share * exp(spread)]
    return {"share": share, "interval": interval, "ours": ours.to_json(), "theirs": theirs.to_json()}
