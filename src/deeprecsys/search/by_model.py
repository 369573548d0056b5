"""Tuning by model: search in virtual time, over the batch times of a profile; confirm live.

A live search pays for every candidate with seconds of load. A simulator runs the same scheduling code on a
measured profile thousands of times as fast, so it can try other policies, and each with every knob. Only
what it chooses is run live, beside the static baseline, with load that nothing was chosen by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol

from deeprecsys.core.errors import positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.runlog import Summary
from deeprecsys.core.target import Target
from deeprecsys.search.capacity import CapacityResult, Settings, capacity
from deeprecsys.search.confirm import Candidate, ConfirmSettings, confirm
from deeprecsys.search.events import Event, PhaseStarted, Progress, TrialDone, silent
from deeprecsys.search.history import UNREACHABLE, Evaluation, KnownCapacity, Search
from deeprecsys.search.probes import Trial
from deeprecsys.search.sample_path import capacity_on_path
from deeprecsys.search.tuner import Cost, TuneResult, conclude, unreachable

IDLE_SHARE = 0.01
"""Of the hint: a rate at which nothing queues."""
GAIN = 0.005
"""What is simulated to be better than the baseline by less than this is not worth another policy."""


class PathTrial(Protocol):
    """Runs one sample path, always the same, at any rate, in virtual time."""

    def __call__(self, policy: Policy, rate_qps: float, /) -> Summary: ...


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What tuning by model may take.

    Attributes:
        refine: of the capacities of the winner and the baseline, in virtual time.
        confirm: of the live confirmation.
    """

    refine: Settings = field(default_factory=Settings)
    confirm: ConfirmSettings = field(default_factory=ConfirmSettings)

    @classmethod
    def of(cls, target: Target, budget_s: float = 28.0) -> ModelSettings:
        """Live trials of about `budget_s` seconds in all, where the first rates are met: what looking for
        rates leaves of it is for the rounds of those that stand."""
        fine = replace(Settings.virtual(target), confidence=0.95)
        trial_s = max(budget_s / 14, 6 * target.latency_s)
        live = ConfirmSettings(
            trial_s=trial_s, rounds=3, most_rounds=6, step=0.04, upward=True, attempts=12,
            budget_s=0.7 * budget_s, limit_s=0.85 * budget_s, max_odd=1,
        )  # fmt: skip
        return cls(refine=fine, confirm=live)


def tune_by_model(
    live: Trial,
    virtual: Trial,
    ranking: Ranking,
    target: Target,
    *,
    static: Policy,
    search: Search,
    settings: ModelSettings | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> TuneResult:
    """Find the best policy in virtual time, and confirm it live beside the static one.

    Args:
        live: runs one live trial.
        virtual: runs one trial in virtual time.
        ranking: of the candidates, on a sample path; what it has run before is not run again.
        target: what to meet.
        static: the baseline; one of the candidates.
        search: proposes the others.
        settings: by default `ModelSettings.of(target)`.
        seed: of all trials.
        progress: is told of phases, and of live trials and probes.

    Raises:
        TargetUnreachableError: no candidate meets the target at any load, in virtual time.
        NotConfirmedError: what the search found did not hold live.
        TrialsVoidError: the load source was late over and over.
    """
    settings = settings or ModelSettings.of(target)
    progress(PhaseStarted("simulate", 0.0))
    baseline = Evaluation(static, ranking.score(static, None))
    search.tell(baseline.policy, baseline.score)
    ranking.finish(search)
    best = search.best
    if best is None:
        raise unreachable(target, ranking.best_latency_s)
    points = [baseline] if baseline.qps else []
    if best.qps > (1 + GAIN) * baseline.qps:
        points.insert(0, best)

    refining = _Account(ranking.cost)
    candidates = [
        Candidate(p.policy, _refined(virtual, p, target, settings.refine, seed, refining)) for p in points
    ]
    live_cost = _Account(Cost(), progress)
    s = settings.confirm
    progress(PhaseStarted("confirm", len(candidates) * s.rounds * s.trial_s))
    confirmed = confirm(live, candidates, target, s, seed=seed, progress=live_cost)
    return conclude(
        target,
        confirmed,
        confirmed[-1] if baseline.qps else None,
        told=search.told,
        complete=True,
        search=Cost(),
        confirmation=live_cost.cost,
        simulated=refining.cost,
    )


def _refined(
    virtual: Trial, point: Evaluation, target: Target, settings: Settings, seed: int, account: _Account
) -> CapacityResult:
    """The capacity of a point with an interval, from the one that its path gave."""
    return capacity(
        virtual, point.policy, target, hint_qps=point.qps, settings=settings, seed=seed, progress=account
    )


class Ranking:
    """Capacities on the sample path, and what they took.

    The path is always the same, so a policy at a rate is run once.

    Args:
        path: runs it.
        target: what to meet.
        hint_qps: about what the node can do.
    """

    def __init__(self, path: PathTrial, target: Target, hint_qps: float) -> None:
        self._path, self._target, self._hint_qps = path, target, positive("hint", hint_qps)
        self._ran: dict[tuple[Policy, float], Summary] = {}
        self.best_latency_s = inf
        self.cost = Cost()

    def finish(self, search: Search) -> None:
        """Run whatever the search asks for, to its end."""
        while (policy := search.ask()) is not None:
            search.tell(policy, self.score(policy, search.floor_qps))

    def score(self, policy: Policy, floor_qps: float | None) -> KnownCapacity:
        """The capacity on the path, or that there is none, or none above the floor."""
        found = capacity_on_path(self._meets(policy), self._hint_qps, floor_qps=floor_qps)
        if found:
            return KnownCapacity.exactly(found)
        if floor_qps is not None:
            return KnownCapacity.below(floor_qps)
        idle = self._run(policy, IDLE_SHARE * self._hint_qps)
        self.best_latency_s = min(self.best_latency_s, _latency_s(idle, self._target))
        return UNREACHABLE

    def _meets(self, policy: Policy) -> Callable[[float], bool]:
        def meets(rate_qps: float) -> bool:
            s = self._run(policy, rate_qps)
            return s.completed == s.offered and s.miss_rate <= self._target.miss_rate + 1e-12

        return meets

    def _run(self, policy: Policy, rate_qps: float) -> Summary:
        if (policy, rate_qps) not in self._ran:
            s = self._ran[policy, rate_qps] = self._path(policy, rate_qps)
            self.cost = self.cost.with_trial(s.offered / rate_qps, s.offered)
        return self._ran[policy, rate_qps]


class _Account:
    """Adds up trials, and passes events on."""

    def __init__(self, cost: Cost, progress: Progress = silent) -> None:
        self.cost, self._progress = cost, progress

    def __call__(self, event: Event) -> None:
        if isinstance(event, TrialDone):
            self.cost = self.cost.with_trial(event.seconds, event.queries, event.void)
        self._progress(event)


def _latency_s(s: Summary, target: Target) -> float:
    """About the latency at the target's quantile; only p95 and p99 are kept in a summary."""
    return (s.p99_ms if target.quantile > 0.97 else s.p95_ms) / 1e3
