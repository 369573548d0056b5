"""Several live searches at once, trial by trial in turn, so that a machine that drifts does so under all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deeprecsys.core.policy import Policy
from deeprecsys.core.runlog import RunLog
from deeprecsys.core.target import Target
from deeprecsys.search.capacity import CapacityResult, Settings, capacity
from deeprecsys.search.probes import Trial


class Turns:
    """Lets several searches run their trials in turn, one at a time."""

    def __init__(self, parties: int) -> None:
        self._waiting = deque(range(parties))
        self._changed = threading.Condition()

    def of(self, party: int, trial: Trial) -> Trial:
        """The trial, run only when it is this party's turn."""

        def run(*args: Any) -> RunLog:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting[0] == party)
                log = trial(*args)
                self._waiting.rotate(-1)
                self._changed.notify_all()
            return log

        return run

    def leave(self, party: int) -> None:
        """A party has ended: nobody waits for it any more."""
        with self._changed:
            self._waiting.remove(party)
            self._changed.notify_all()


def side_by_side(
    trial: Trial,
    policies: Sequence[Policy],
    target: Target,
    *,
    hint_qps: float,
    settings: Settings,
    seed: int,
) -> list[CapacityResult]:
    """The capacities of some policies, searched at once, trial by trial in turn.

    The best of a dozen noisy figures is a lucky one, and a machine drifts in the minutes of a sweep: only
    side by side can two policies be told apart.
    """
    turns = Turns(len(policies))

    def one(party: int) -> CapacityResult:
        try:
            return capacity(
                turns.of(party, trial),
                policies[party],
                target,
                hint_qps=hint_qps,
                settings=settings,
                seed=seed,
            )
        finally:
            turns.leave(party)

    with ThreadPoolExecutor(len(policies)) as pool:
        return list(pool.map(one, range(len(policies))))
