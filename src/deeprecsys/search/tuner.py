"""The main job: static baseline, search, and both points confirmed by fresh interleaved trials.

`tune` searches live, which needs seconds of load for every candidate. `tune_by_model` searches in virtual
time, over the batch times of a profile, thousands of times as fast, so it can try more policies, and all
values of their knobs; only its choice is run live, in turn with the static baseline, with seeds that the
search did not use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from math import exp, hypot, inf, nan
from typing import Any, NamedTuple

from deeprecsys.core.errors import NotConfirmedError, TargetUnreachableError, positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.target import Target
from deeprecsys.search.capacity import capacity
from deeprecsys.search.confirm import Confirmed, ConfirmSettings, confirm
from deeprecsys.search.events import Account, Cost, PhaseStarted, Progress, silent
from deeprecsys.search.history import UNREACHABLE, Evaluation, Search, batch_size_of
from deeprecsys.search.probes import Trial
from deeprecsys.search.rank import Ranking, rank
from deeprecsys.search.result import CapacityResult, Settings

Beside = tuple[Trial, Evaluation]
"""A point on another node: what runs its trials, and about what it carries."""
REFINEMENT = 1
"""The purpose (see `trial_seed`) of the searches that look at the winners again."""

GAIN = 0.005
"""Relative: another policy is chosen only if it is simulated to carry this much more than the baseline."""


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """What tuning may take.

    Attributes:
        candidate: of each capacity search while climbing live; coarse.
        climb_budget_s: seconds of trial time for the static baseline and the live climb together.
        refine: of the second, finer look at the static and the best point; by model in virtual time.
        confirm: of the live confirmation.
    """

    candidate: Settings = field(default_factory=Settings)
    climb_budget_s: float = 120.0
    refine: Settings = field(default_factory=Settings)
    confirm: ConfirmSettings = field(default_factory=ConfirmSettings)

    @classmethod
    def live(cls, target: Target) -> TuneSettings:
        """Within about four minutes at a target of 100 ms."""
        fine = Settings.live(target)
        coarse = replace(fine, resolution=0.05, budget_s=8 * fine.trial_s)
        return cls(
            candidate=coarse,
            climb_budget_s=80 * fine.trial_s,
            refine=fine,
            confirm=ConfirmSettings(trial_s=2.5 * fine.trial_s, most_rounds=4),
        )

    @classmethod
    def by_model(cls, target: Target, budget_s: float = 28.0) -> TuneSettings:
        """Live trials of about `budget_s` seconds in all, where the first rates are met: what looking for
        rates leaves of it is for the rounds of those that stand."""
        fine = replace(Settings.virtual(target), confidence=0.95)
        trial_s = max(budget_s / 14, 6 * target.latency_s)
        live = ConfirmSettings(
            trial_s=trial_s, rounds=3, most_rounds=6, step=0.04, upward=True, attempts=12,
            budget_s=0.7 * budget_s, limit_s=0.85 * budget_s, max_odd=1,
        )  # fmt: skip
        return cls(refine=fine, confirm=live)


class Gain(NamedTuple):
    """A ratio of two rates, and its interval."""

    value: float
    low: float
    high: float


def gain(better: Confirmed | None, usual: Confirmed | None) -> Gain | None:
    """The ratio of two limits; the interval adds those of both in quadrature. None without one that held."""
    if not (better and usual and usual.met):
        return None
    ratio, spread = better.limit.qps / usual.limit.qps, hypot(better.limit.open, usual.limit.open)
    return Gain(ratio, ratio * exp(-spread), ratio * exp(spread))


def _gain(name: str, found: Gain | None) -> dict[str, Any]:
    known = found and found.high < inf
    interval = [found.low, found.high] if found and known else None
    return {name: found and found.value, f"{name}_interval": interval}


@dataclass(frozen=True, slots=True)
class TuneResult:
    """What tuning found.

    Attributes:
        target: what was to be met.
        static: the baseline, confirmed; None where it meets the target at no load.
        tuned: the best point, confirmed; the static one where nothing proved better.
        eager: the usual: eager torch with the static batch size; None where it was not run.
        candidates: every policy that was evaluated, with its capacity.
        complete: whether the search ended by itself and not by its budget.
        search, confirmation: what each took live; the refinement counts as search.
        simulated: what a search by model took in virtual time; None for a live one.
    """

    target: Target
    static: Confirmed | None
    tuned: Confirmed
    candidates: tuple[Evaluation, ...]
    complete: bool
    search: Cost
    confirmation: Cost
    simulated: Cost | None = None
    eager: Confirmed | None = None

    @property
    def kept_static(self) -> bool:
        """Whether nothing proved better than the static point."""
        return self.tuned is self.static

    def within(self, bound_qps: Callable[[Confirmed], float]) -> TuneResult:
        """The result with the limits of static and tuned below their bounds."""
        static = self.static and self.static.within(bound_qps(self.static))
        tuned = static if static and self.kept_static else self.tuned.within(bound_qps(self.tuned))
        return replace(self, static=static, tuned=tuned, eager=static if self.same_engine else self.eager)

    @property
    def same_engine(self) -> bool:
        """Whether the static point itself runs on eager torch."""
        return self.eager is not None and self.eager is self.static

    @property
    def scheduling_gain(self) -> Gain | None:
        """Tuned over static on the same engine, of both limits."""
        return Gain(1.0, 1.0, 1.0) if self.kept_static else gain(self.tuned, self.static)

    @property
    def engine_gain(self) -> Gain | None:
        """Static over eager torch's, of both limits; None where eager torch was not run."""
        return Gain(1.0, 1.0, 1.0) if self.same_engine else gain(self.static, self.eager)

    def to_json(self) -> dict[str, Any]:
        """The parts of the JSON of `tune` that come from the search."""
        return {
            "target": {"quantile": self.target.quantile, "latency_ms": 1e3 * self.target.latency_s},
            "static": self.static.to_json() if self.static else None,
            "tuned": self.tuned.to_json(),
            "eager": self.eager.to_json() if self.eager else None,
            "kept_static": self.kept_static,
            **_gain("ratio", self.scheduling_gain),
            **_gain("scheduling_gain", self.scheduling_gain),
            **_gain("engine_gain", self.engine_gain),
            "candidates": [
                {**t.policy.describe(), "qps": t.score.capacity_qps, **t.score.to_json()}
                for t in self.candidates
            ],
            "method": "live" if self.simulated is None else "model",
            "search": {
                **asdict(self.search),
                "complete": self.complete,
                "simulated": asdict(self.simulated) if self.simulated else None,
            },
            "confirmation": asdict(self.confirmation),
        }


def tune(
    trial: Trial,
    target: Target,
    *,
    static: Policy,
    search: Search,
    hint_qps: float,
    settings: TuneSettings | None = None,
    seed: int = 0,
    eager: Beside | None = None,
    progress: Progress = silent,
) -> TuneResult:
    """Find the best policy, and confirm it in turn with the static one.

    Args:
        trial: runs one trial, live or virtual.
        target: what to meet.
        static: the baseline; one of the candidates.
        search: proposes the others, e.g. `HillClimb(batch_sizes(largest, static.batch_size))`.
        hint_qps: about what the node can do, e.g. workers / E[work] from a profile.
        settings: by default `TuneSettings.live(target)`.
        seed: of all trials.
        eager: the static baseline on eager torch, run in turn with the points that are confirmed.
        progress: called with every phase, search, trial and probe.

    Raises:
        TargetUnreachableError: no candidate meets the target at any load; carries the best latency of all.
        NotConfirmedError: what the search found did not hold in fresh trials.
        TrialsVoidError: the load source was late over and over.
    """
    positive("hint", hint_qps)
    return _Tuning(trial, target, settings or TuneSettings.live(target), seed, progress).run(
        static, search, hint_qps, eager
    )


class _Tuning:
    """One tuning under way."""

    def __init__(
        self, trial: Trial, target: Target, settings: TuneSettings, seed: int, progress: Progress
    ) -> None:
        self.trial, self.target, self.settings, self.seed = trial, target, settings, seed
        self.progress = Account(Cost(), progress)
        self.best_latency_s = inf
        self.complete = True

    def run(self, static: Policy, search: Search, hint_qps: float, eager: Beside | None) -> TuneResult:
        s = self.settings
        self.progress(PhaseStarted("static", s.candidate.budget_s))
        baseline = self._capacity(static, s.candidate, 0.8 * hint_qps)
        search.tell(static, baseline or UNREACHABLE)
        self.progress(PhaseStarted("climb", s.climb_budget_s))
        self._climb(search, hint_qps)
        best = search.best
        if best is None:
            raise self._unreachable()
        same = batch_size_of(best.policy) is not None and batch_size_of(best.policy) == batch_size_of(static)
        policies = [static] if same else [best.policy, *([static] if baseline else [])]
        self.progress(PhaseStarted("refine", len(policies) * s.refine.budget_s))
        found = [self._refined(policy, search) for policy in policies]
        searched, self.progress.cost = self.progress.cost, Cost()
        rounds = s.confirm.rounds * s.confirm.trial_s
        self.progress(PhaseStarted("confirm", len(policies) * rounds))
        points, usual = _beside_eager(
            self.trial, found, self.target, s.confirm, self.seed, eager, self.progress
        )
        confirmed = points[-1] if baseline else None
        return TuneResult(
            target=self.target,
            static=confirmed,
            tuned=chosen(points, confirmed, self.target),
            candidates=search.told,
            complete=self.complete,
            search=searched,
            confirmation=self.progress.cost,
            eager=usual,
        )

    def _capacity(
        self,
        policy: Policy,
        settings: Settings,
        hint_qps: float,
        floor_qps: float | None = None,
        purpose: int = 0,
    ) -> CapacityResult | None:
        """A capacity; None where the policy meets the target at no load."""
        try:
            return capacity(
                self.trial,
                policy,
                self.target,
                hint_qps=hint_qps,
                settings=settings,
                seed=self.seed,
                purpose=purpose,
                floor_qps=floor_qps,
                progress=self.progress,
            )
        except TargetUnreachableError as error:
            self.best_latency_s = min(self.best_latency_s, error.best_latency_s)
            return None

    def _climb(self, search: Search, hint_qps: float) -> None:
        s = self.settings
        while (policy := search.ask()) is not None:
            left_s = s.climb_budget_s - self.progress.cost.seconds
            if left_s < s.candidate.trial_s:
                self.complete = False
                return
            settings = replace(s.candidate, budget_s=min(s.candidate.budget_s, left_s))
            hint = search.best.qps if search.best else 0.8 * hint_qps
            found = self._capacity(policy, settings, hint, search.floor_qps)
            search.tell(policy, found or UNREACHABLE)

    def _refined(self, policy: Policy, search: Search) -> Evaluation:
        """A second look with fresh seeds: the best of many noisy capacities is a lucky one."""
        told = next(t for t in reversed(search.told) if t.policy == policy)
        found = self._capacity(policy, self.settings.refine, told.qps, purpose=REFINEMENT)
        if found is None:
            raise self._unreachable()
        return Evaluation(policy, found)

    def _unreachable(self) -> TargetUnreachableError:
        return unreachable(self.target, self.best_latency_s)


def tune_by_model(
    live: Trial,
    virtual: Trial,
    ranking: Ranking,
    target: Target,
    *,
    static: Policy,
    search: Search,
    settings: TuneSettings | None = None,
    seed: int = 0,
    eager: Beside | None = None,
    progress: Progress = silent,
) -> TuneResult:
    """Find the best policy in virtual time, and confirm it live, in turn with the static one.

    Args:
        live: runs one live trial.
        virtual: runs one trial in virtual time.
        ranking: of the candidates, on a sample path; what it has run before is not run again.
        target: what to meet.
        static: the baseline; one of the candidates.
        search: proposes the others.
        settings: by default `TuneSettings.by_model(target)`.
        seed: of all trials.
        eager: the static baseline on eager torch, run in turn with the points that are confirmed.
        progress: called with phases, and with live trials and probes.

    Raises:
        TargetUnreachableError: no candidate meets the target at any load, in virtual time.
        NotConfirmedError: what the search found did not hold live.
        TrialsVoidError: the load source was late over and over.
    """
    settings = settings or TuneSettings.by_model(target)
    progress(PhaseStarted("simulate", 0.0))
    baseline = rank(ranking, search, static)
    best = search.best
    if best is None:
        raise unreachable(target, ranking.best_latency_s)
    points = [baseline] if baseline.qps else []
    if best.qps > (1 + GAIN) * baseline.qps:
        points.insert(0, best)

    refining = Account(ranking.cost)
    candidates = []
    for p in points:  # with intervals, which the path does not give
        found = capacity(
            virtual, p.policy, target, hint_qps=p.qps, settings=settings.refine, seed=seed, progress=refining
        )
        candidates.append(Evaluation(p.policy, found))
    live_cost = Account(Cost(), progress)
    s = settings.confirm
    progress(PhaseStarted("confirm", len(candidates) * s.rounds * s.trial_s))
    confirmed, usual = _beside_eager(live, candidates, target, s, seed, eager, live_cost)
    known = confirmed[-1] if baseline.qps else None
    return TuneResult(
        target=target,
        static=known,
        tuned=chosen(confirmed, known, target),
        candidates=search.told,
        complete=True,
        search=Cost(),
        confirmation=live_cost.cost,
        simulated=refining.cost,
        eager=usual,
    )


def _beside_eager(
    trial: Trial,
    found: list[Evaluation],
    target: Target,
    settings: ConfirmSettings,
    seed: int,
    eager: Beside | None,
    progress: Progress,
) -> tuple[list[Confirmed], Confirmed | None]:
    """The points confirmed, and eager torch's among them; where that has more to run, all have more time."""
    more = [eager] if eager else []
    share = 1 + len(more) / len(found)
    s = replace(settings, budget_s=share * settings.budget_s, limit_s=share * settings.limit_s)
    points = confirm(trial, found, target, s, seed=seed, beside=more, progress=progress)
    return points[: len(found)], points[-1] if eager else None


def unreachable(target: Target, best_s: float) -> TargetUnreachableError:
    """The error of a target that no policy meets; `best_s` is the best latency that was seen, or infinite."""
    best_s = best_s if best_s < inf else nan
    return TargetUnreachableError(
        f"no batch size meets p{100 * target.quantile:g} within {1e3 * target.latency_s:g} ms "
        f"at any load: the best was {1e3 * best_s:.3g} ms",
        best_s,
    )


def chosen(points: list[Confirmed], static: Confirmed | None, target: Target) -> Confirmed:
    """The first of the confirmed points, or the static one where it is no worse.

    Args:
        points: the best point, then the static one where they differ.
        static: the static point, if there is one.

    Raises:
        NotConfirmedError: neither point held.
    """
    tuned = points[0]
    if static and static.met and (not tuned.met or tuned.qps < static.qps):
        tuned = static
    if not tuned.met:
        p = tuned.probe
        raise NotConfirmedError(
            f"no operating point held when it was run again: at {p.rate_qps:.4g} queries/s, after "
            f"{tuned.attempts} rates, {100 * p.miss_rate:.3g} % were later than "
            f"{1e3 * target.latency_s:g} ms; is the machine busy with other work?"
        )
    return tuned
