"""Several live searches at once, trial by trial in turn, so that a machine that drifts does so under all."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from deeprecsys.core.runlog import RunLog
from deeprecsys.tune.probe import Trial


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
