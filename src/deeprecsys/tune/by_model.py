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
from deeprecsys.tune.capacity import CapacityResult, Settings, capacity
from deeprecsys.tune.confirm import Candidate, ConfirmSettings, confirm
from deeprecsys.tune.events import Event, PhaseStarted, Progress, TrialDone, silent
from deeprecsys.tune.on_path import capacity_on_path
from deeprecsys.tune.probe import Trial
from deeprecsys.tune.search import UNREACHABLE, Known, Search
from deeprecsys.tune.tuner import Cost, TuneResult, conclude, unreachable

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
    def of(cls, target: Target, budget_s: float = 32.0) -> ModelSettings:
        """Live trials of about `budget_s` seconds in all, where the first rates are met."""
        fine = replace(Settings.virtual(target), confidence=0.95)
        trial_s = max(budget_s / 8, 5 * target.latency_s)
        live = ConfirmSettings(
            trial_s=trial_s, rounds=3, most_rounds=4, step=0.04, upward=True, budget_s=budget_s
        )
        return cls(refine=fine, confirm=live)


def tune_by_model(
    live: Trial,
    virtual: Trial,
    path: PathTrial,
    target: Target,
    *,
    static: Policy,
    search: Search,
    hint_qps: float,
    settings: ModelSettings | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> TuneResult:
    """Find the best policy in virtual time, and confirm it live beside the static one.

    Args:
        live: runs one live trial.
        virtual: runs one trial in virtual time.
        path: runs the sample path that ranks the candidates.
        target: what to meet.
        static: the baseline; one of the candidates.
        search: proposes the others.
        hint_qps: about what the node can do.
        settings: by default `ModelSettings.of(target)`.
        seed: of all trials.
        progress: is told of phases, and of live trials and probes.

    Raises:
        TargetUnreachableError: no candidate meets the target at any load, in virtual time.
        NotConfirmedError: what the search found did not hold live.
        TrialsVoidError: the load source was late over and over.
    """
    positive("hint", hint_qps)
    settings = settings or ModelSettings.of(target)
    ranking = Ranking(path, target, hint_qps)
    progress(PhaseStarted("simulate", 0.0))
    baseline = ranking.tell(search, static, None)
    ranking.finish(search)
    best = search.best
    if best is None:
        raise unreachable(target, ranking.best_latency_s)
    chosen = best.policy if best.qps > (1 + GAIN) * baseline else static

    refining = _Account(ranking.cost)
    policies = [chosen, *([static] if baseline and chosen != static else [])]
    candidates = [
        Candidate(p, _refined(virtual, p, target, best.qps, settings.refine, seed, refining))
        for p in policies
    ]
    live_cost = _Account(Cost(), progress)
    s = settings.confirm
    progress(PhaseStarted("confirm", len(policies) * s.rounds * s.trial_s))
    points = confirm(live, candidates, target, s, seed=seed, progress=live_cost)
    return conclude(
        target,
        points,
        points[-1] if baseline else None,
        told=search.told,
        complete=True,
        search=Cost(),
        confirmation=live_cost.cost,
        simulated=refining.cost,
    )


def _refined(
    virtual: Trial,
    policy: Policy,
    target: Target,
    hint_qps: float,
    settings: Settings,
    seed: int,
    account: _Account,
) -> CapacityResult:
    return capacity(
        virtual, policy, target, hint_qps=hint_qps, settings=settings, seed=seed, progress=account
    )


class Ranking:
    """Capacities on the sample path, and what they took."""

    def __init__(self, path: PathTrial, target: Target, hint_qps: float) -> None:
        self._path, self._target, self._hint_qps = path, target, hint_qps
        self.best_latency_s = inf
        self.cost = Cost()

    def finish(self, search: Search) -> None:
        """Run whatever the search asks for, to its end."""
        while (policy := search.ask()) is not None:
            self.tell(search, policy, search.floor_qps)

    def tell(self, search: Search, policy: Policy, floor_qps: float | None) -> float:
        """Find a policy's capacity and tell it to the search."""
        found = self.capacity(policy, floor_qps)
        search.tell(policy, Known(found, found, found) if found else UNREACHABLE)
        return found

    def capacity(self, policy: Policy, floor_qps: float | None = None) -> float:
        """The capacity on the path; 0 where there is none, or none above the floor."""
        found = capacity_on_path(self._meets(policy), self._hint_qps, floor_qps=floor_qps)
        if not found and floor_qps is None:
            idle = self._run(policy, IDLE_SHARE * self._hint_qps)
            self.best_latency_s = min(self.best_latency_s, _latency_s(idle, self._target))
        return found

    def _meets(self, policy: Policy) -> Callable[[float], bool]:
        def meets(rate_qps: float) -> bool:
            s = self._run(policy, rate_qps)
            return s.completed == s.offered and s.miss_rate <= self._target.miss_rate + 1e-12

        return meets

    def _run(self, policy: Policy, rate_qps: float) -> Summary:
        s = self._path(policy, rate_qps)
        c = self.cost
        self.cost = Cost(c.trials + 1, c.seconds + s.offered / rate_qps, c.queries + s.offered)
        return s


class _Account:
    """Adds up trials, and passes events on."""

    def __init__(self, cost: Cost, progress: Progress = silent) -> None:
        self.cost, self._progress = cost, progress

    def __call__(self, event: Event) -> None:
        if isinstance(event, TrialDone):
            c = self.cost
            self.cost = Cost(c.trials + 1, c.seconds + event.seconds, c.queries + event.queries)
        self._progress(event)


def _latency_s(s: Summary, target: Target) -> float:
    """About the latency at the target's quantile; only p95 and p99 are kept in a summary."""
    return (s.p99_ms if target.quantile > 0.97 else s.p95_ms) / 1e3
