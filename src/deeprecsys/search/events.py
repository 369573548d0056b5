"""What a search reports while it runs, as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deeprecsys.core.policy import Policy
from deeprecsys.search.result import CapacityResult, Probe


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """The tuner goes on to `static`, `climb`, `refine`, `simulate`, `confirm` or `hold`; `budget_s` is what
    it may take."""

    phase: str
    budget_s: float


@dataclass(frozen=True, slots=True)
class CapacityStarted:
    """The search for one policy's capacity begins, for at most about `budget_s` of trial time."""

    policy: Policy
    budget_s: float
    floor_qps: float | None


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial begins."""

    policy: Policy
    rate_qps: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class TrialDone:
    """A trial ended, after `seconds` on its own clock; void ones do not count."""

    policy: Policy
    rate_qps: float
    seconds: float
    queries: int
    miss_rate: float
    void: bool


@dataclass(frozen=True, slots=True)
class ProbeDone:
    """The verdict of all trials at one rate so far."""

    policy: Policy
    probe: Probe


@dataclass(frozen=True, slots=True)
class CapacityDone:
    """The search for one policy's capacity ended."""

    policy: Policy
    result: CapacityResult


@dataclass(frozen=True, slots=True)
class Cost:
    """Trials, seconds and queries of a part of the job; `voids` trials did not count and were repeated."""

    trials: int = 0
    seconds: float = 0.0
    queries: int = 0
    voids: int = 0

    def with_trial(self, seconds: float, queries: int, void: bool = False) -> Cost:
        """And one trial more."""
        return Cost(self.trials + 1, self.seconds + seconds, self.queries + queries, self.voids + void)


Event = PhaseStarted | CapacityStarted | TrialStarted | TrialDone | ProbeDone | CapacityDone
Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignores all events."""


class Account:
    """Adds up the trials of a search, and passes its events on."""

    def __init__(self, cost: Cost, progress: Progress = silent) -> None:
        self.cost, self._progress = cost, progress

    def __call__(self, event: Event) -> None:
        if isinstance(event, TrialDone):
            self.cost = self.cost.with_trial(event.seconds, event.queries, event.void)
        self._progress(event)
