"""Trials and probes: a policy at a rate, and the verdict of all trials at one rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import TrialsVoidError
from deeprecsys.core.policy import Policy
from deeprecsys.core.runlog import RunLog, Summary, summarise
from deeprecsys.core.target import Target
from deeprecsys.search.events import Cost, ProbeDone, Progress, TrialDone, TrialStarted, silent
from deeprecsys.search.intervals import Pace, dispersion, miss_bounds, slow
from deeprecsys.search.result import Probe, Rerun, Verdict

MAX_VOIDS = 3
"""How often a void trial is repeated before its rate is given up."""


class Trial(Protocol):
    """Runs one policy under one workload, live or in virtual time.

    The same seed means the same arrivals and sizes, scaled to the rate (common random numbers across
    policies); different seeds are independent. A trial starts with an empty node, sets the warm-up of its
    run log, and follows every query that it offered to its end.
    """

    def __call__(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog: ...


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One trial that counted."""

    seed: int
    seconds: float
    """What it took, to the last answer."""
    offered_s: float
    """How long queries were offered."""
    summary: Summary
    dispersion: float
    log: RunLog
    pace: Pace
    served_qps: float
    """Queries served per second while load was offered and, where a line was left, until that was done."""

    @property
    def rate_qps(self) -> float:
        """As it was asked for."""
        return self.pace.rate_qps

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """The latency of each measured query, in seconds."""
        return self.log.latency_s[self.log.measured]

    @property
    def unloaded_s(self) -> NDArray[np.float64]:
        """The measured queries' time from the start of their first slice: latency without the first wait."""
        return (self.log.finish_s - self.log.start_s)[self.log.measured]

    @property
    def worth(self) -> float:
        """How many independent queries it is worth."""
        return self.summary.measured / self.dispersion

    @property
    def miss_rate(self) -> float:
        return self.summary.misses / self.summary.measured if self.summary.measured else 0.0

    @property
    def all_served(self) -> bool:
        return self.summary.completed == self.summary.offered


def trial_seed(seed: int, purpose: int, number: int) -> int:
    """The seed of the `number`-th trial; purposes (search, refinement, confirmation) share none."""
    return int(np.random.SeedSequence(seed, spawn_key=(purpose, number)).generate_state(1)[0])


class Runner:
    """Runs the trials of one policy, records them, and repeats the void ones.

    A trial in which the machine stood still or was slow is repeated too, up to `max_odd` times in a row; then
    it counts.

    Args:
        trial: what to run.
        policy: under which policy.
        target: judged against.
        seed, purpose: the k-th trial of each runner with these uses the same random numbers.
        max_odd: how often a trial in which the machine stood still or was slow is repeated.
        max_voids: how often a void one is.
        progress: called with each trial.
    """

    def __init__(
        self,
        trial: Trial,
        policy: Policy,
        target: Target,
        *,
        seed: int,
        purpose: int = 0,
        max_odd: int = MAX_VOIDS,
        max_voids: int = MAX_VOIDS,
        progress: Progress = silent,
    ) -> None:
        self.policy, self.target = policy, target
        self._trial, self._seed, self._purpose = trial, seed, purpose
        self._max_odd, self._max_voids, self._progress = min(max_odd, max_voids), max_voids, progress
        self.observations: list[Observation] = []
        self.cost = Cost()

    def run(self, rate_qps: float, duration_s: float) -> Observation | None:
        """One trial that counts; None when it stayed void through all repetitions."""
        seed = trial_seed(self._seed, self._purpose, len(self.observations))
        for left in range(self._max_voids, -1, -1):
            self._progress(TrialStarted(self.policy, rate_qps, duration_s))
            log = self._trial(self.policy, rate_qps, duration_s, seed)
            summary = summarise(log, self.target)
            took_s = max(duration_s, log.duration_s)
            pace = Pace(rate_qps, nan if log.seconds_per_item is None else log.seconds_per_item)
            odd = summary.disturbed or slow(pace, (o.pace for o in self.observations))
            void = summary.void or (odd and self._max_voids - left < self._max_odd)
            self.cost = self.cost.with_trial(took_s, summary.offered, void)
            self._progress(TrialDone(self.policy, rate_qps, took_s, summary.offered, summary.miss_rate, void))
            if not void:
                return self._keep(pace, log, summary, duration_s, took_s, seed)
        return None

    def must_run(self, rate_qps: float, duration_s: float) -> Observation:
        """One trial that counts.

        Raises:
            TrialsVoidError: it stayed void.
        """
        observation = self.run(rate_qps, duration_s)
        if observation is None:
            raise TrialsVoidError(
                f"at {rate_qps:.4g} queries/s the load source was late in {1 + self._max_voids} trials in a "
                "row; the machine is too busy with other work, or too small for this load"
            )
        return observation

    def _keep(
        self, pace: Pace, log: RunLog, summary: Summary, offered_s: float, took_s: float, seed: int
    ) -> Observation:
        kept = Observation(
            seed=seed,
            seconds=took_s,
            offered_s=offered_s,
            summary=summary,
            dispersion=dispersion(log.latency_s[log.measured], self.target.latency_s),
            log=log,
            pace=pace,
            served_qps=summary.completed / self._busy_s(log, offered_s, took_s),
        )
        self.observations.append(kept)
        return kept

    def _busy_s(self, log: RunLog, offered_s: float, took_s: float) -> float:
        """Seconds for which a trial had queries to serve; the last may take as long as the target."""
        if log.abandoned and log.elapsed_s is not None:
            return log.elapsed_s
        return max(offered_s, took_s - self.target.latency_s)

    @property
    def sound(self) -> list[Observation]:
        """The trials that count, without those that comparison with later ones shows to have been slow."""
        kept = self.observations
        return [o for o in kept if not slow(o.pace, (p.pace for p in kept if p is not o))]

    def probe(self, rate_qps: float, confidence: float) -> Probe:
        """All trials at a rate; slow ones only where there are no others."""
        at_rate = [o for o in self.observations if o.rate_qps == rate_qps]
        sound = [o for o in self.sound if o.rate_qps == rate_qps]
        return judge(sound or at_rate, self.target, confidence)

    def noted_probe(self, rate_qps: float, confidence: float) -> Probe:
        """All trials at a rate, reported as progress."""
        probe = self.probe(rate_qps, confidence)
        self._progress(ProbeDone(self.policy, probe))
        return probe

    def trials_at(self, rate_qps: float) -> int:
        """How many trials at a rate count."""
        return sum(o.rate_qps == rate_qps for o in self.observations)

    def rates(self) -> list[float]:
        """The rates that were tried, rising."""
        return sorted({o.rate_qps for o in self.observations})


def judge(trials: Sequence[Observation], target: Target, confidence: float) -> Probe:
    """The probe that trials of one policy at one rate make.

    A rate fails at once when a query was shed, failed or left open: a capacity counts only if all are served.
    """
    measured = sum(o.summary.measured for o in trials)
    missed = sum(o.summary.misses for o in trials)
    rate = missed / measured if measured else 0.0
    low, high = miss_bounds(rate, sum(o.worth for o in trials), confidence)
    if any(not o.all_served for o in trials) or low > target.miss_rate:
        verdict = Verdict.FAILED
    else:
        verdict = Verdict.PASSED if high < target.miss_rate else Verdict.UNDECIDED
    return Probe(
        rate_qps=trials[0].rate_qps,
        verdict=verdict,
        miss_rate=rate,
        miss_low=low,
        miss_high=high,
        trials=len(trials),
        seconds=sum(o.seconds for o in trials),
        queries=sum(o.summary.offered for o in trials),
        summary=trials[0].summary if len(trials) == 1 else summarise([o.log for o in trials], target),
        reruns=tuple(Rerun(o.seed, o.offered_s, o.log.warmup_s, o.pace.seconds_per_item) for o in trials),
    )
