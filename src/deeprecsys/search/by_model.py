"""Tuning by model: search in virtual time, over the batch times of a profile; confirm live.

A live search needs seconds of load for every candidate. A simulator runs the same scheduling code on a
measured profile thousands of times as fast, so it can try more policies, and all values of their knobs. Only
its choice is run live, in turn with the static baseline, with seeds that the search did not use.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from deeprecsys.core.policy import Policy
from deeprecsys.core.target import Target
from deeprecsys.search.capacity import capacity
from deeprecsys.search.confirm import ConfirmSettings, confirm
from deeprecsys.search.events import Account, Cost, PhaseStarted, Progress, silent
from deeprecsys.search.history import Evaluation, Search
from deeprecsys.search.probes import Trial
from deeprecsys.search.rank import Ranking, rank
from deeprecsys.search.result import Settings
from deeprecsys.search.tuner import TuneResult, chosen, unreachable

GAIN = 0.005
"""Relative: another policy is chosen only if it is simulated to carry this much more than the baseline."""


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
    """Find the best policy in virtual time, and confirm it live, in turn with the static one.

    Args:
        live: runs one live trial.
        virtual: runs one trial in virtual time.
        ranking: of the candidates, on a sample path; what it has run before is not run again.
        target: what to meet.
        static: the baseline; one of the candidates.
        search: proposes the others.
        settings: by default `ModelSettings.of(target)`.
        seed: of all trials.
        progress: called with phases, and with live trials and probes.

    Raises:
        TargetUnreachableError: no candidate meets the target at any load, in virtual time.
        NotConfirmedError: what the search found did not hold live.
        TrialsVoidError: the load source was late over and over.
    """
    settings = settings or ModelSettings.of(target)
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
    confirmed = confirm(live, candidates, target, s, seed=seed, progress=live_cost)
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
    )
