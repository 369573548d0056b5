"""Confirmation: points that a search found are run again, interleaved, with seeds that it never used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deeprecsys.core.errors import TrialsVoidError, positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.target import Target
from deeprecsys.tune.events import ProbeDone, Progress, silent
from deeprecsys.tune.probe import Probe, Runner, Trial, Verdict
from deeprecsys.tune.result import CapacityResult

CONFIRMATION = 2
"""The purpose (see `trial_seed`) of these trials."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy, and what is known of its capacity."""

    policy: Policy
    capacity: CapacityResult


@dataclass(frozen=True, slots=True)
class Confirmed:
    """An operating point that was run afresh.

    Attributes:
        policy: what ran.
        capacity: what the search said of it.
        probe: all fresh trials at the last rate.
        met: whether they meet the target together, every query served; if not, no rate that was tried did.
        attempts: how many rates it took, from the highest down.
    """

    policy: Policy
    capacity: CapacityResult
    probe: Probe
    met: bool
    attempts: int

    @property
    def qps(self) -> float:
        return self.probe.rate_qps

    def to_json(self) -> dict[str, Any]:
        s = self.probe.summary
        known = self.policy.describe()
        return {
            **known,
            "qps": self.qps,
            "mean_ms": s.mean_ms,
            "p50_ms": s.p50_ms,
            "p95_ms": s.p95_ms,
            "p99_ms": s.p99_ms,
            "max_ms": s.max_ms,
            "served": s.served,
            "offered": s.offered,
            "completed": s.completed,
            "shed": s.shed,
            "utilisation": s.utilisation,
            "lateness_p99_ms": s.lateness_p99_ms,
            "met": self.met,
            "miss_rate": self.probe.miss_rate,
            "miss_interval": [self.probe.miss_low, self.probe.miss_high],
            "attempts": self.attempts,
            "capacity": self.capacity.to_json(),
        }


@dataclass(frozen=True, slots=True)
class ConfirmSettings:
    """How points are confirmed.

    Attributes:
        trial_s: length of each fresh trial, seconds.
        rounds: fresh trials of each point.
        confidence: of verdicts.
        margin: the first rate is at most this share below the capacity, and not below its interval.
        step: the second rate is this share below the first; each further step is twice the last, so that a
            machine that has become slower since the search is followed within a few steps.
        attempts: how many rates at most.
        max_voids: repetitions of a void trial.
    """

    trial_s: float = 4.0
    rounds: int = 3
    confidence: float = 0.95
    margin: float = 0.02
    step: float = 0.03
    attempts: int = 7
    max_voids: int = 3


def confirm(
    trial: Trial,
    candidates: Sequence[Candidate],
    target: Target,
    settings: ConfirmSettings,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Confirmed]:
    """Run points afresh, in turn, each at its capacity less a margin, and lower until the target is met.

    All points of one round see the same arrivals, scaled. A point meets its target when its fresh trials at
    one rate, taken together, do; one that clearly fails midway is lowered at once.

    Raises:
        TrialsVoidError: no trial at any rate was valid.
    """
    points = [_Point(trial, c, target, settings, seed, progress) for c in candidates]
    for _ in range(settings.attempts):
        waiting = [p for p in points if not p.met]
        for _ in range(settings.rounds):
            for point in waiting:
                point.run()
        for point in waiting:
            point.judge()
    return [p.result() for p in points]


class _Point:
    """One candidate under confirmation."""

    def __init__(
        self,
        trial: Trial,
        candidate: Candidate,
        target: Target,
        settings: ConfirmSettings,
        seed: int,
        progress: Progress,
    ) -> None:
        self._candidate, self._settings, self._target, self._progress = candidate, settings, target, progress
        self._runner = Runner(
            trial,
            candidate.policy,
            target,
            seed=seed,
            purpose=CONFIRMATION,
            max_voids=settings.max_voids,
            progress=progress,
        )
        c = candidate.capacity
        capacity = positive("capacity to confirm", c.capacity_qps or 0.0)
        self._rate = max(c.low_qps, capacity * (1 - settings.margin))
        self._failed = False
        self._probe: Probe | None = None
        self.met = False
        self._attempts = 0

    def run(self) -> None:
        """One more fresh trial at the present rate, unless it has clearly failed there."""
        if self._failed:
            return
        if self._runner.run(self._rate, self._settings.trial_s) is None:
            # The source cannot keep up with this rate on this machine now: a lower one may be offered truly.
            self._failed = True
            return
        self._probe = self._runner.probe(self._rate, self._settings.confidence)
        self._progress(ProbeDone(self._candidate.policy, self._probe))
        self._failed = self._probe.verdict is Verdict.FAILED

    def judge(self) -> None:
        """After a round: met, or lower the rate for the next."""
        self._attempts += 1
        self.met = not self._failed and self._probe is not None and self._probe.meets(self._target)
        if not self.met:
            self._rate *= 1 - min(self._settings.step * 2 ** (self._attempts - 1), 0.5)
            self._failed = False

    def result(self) -> Confirmed:
        if self._probe is None:
            raise TrialsVoidError(
                f"the load source was late in every trial down to {self._rate:.4g} queries/s; "
                "the machine is too busy with other work"
            )
        c = self._candidate
        return Confirmed(c.policy, c.capacity, self._probe, self.met, self._attempts)
