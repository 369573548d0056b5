"""Capacity search: the highest rate whose trial meets the target with every offered query served.

Three steps: *bracket* the crossing with short trials, from a hint; *refine* by trials on both sides of the
crossing that all trials together point to, longer ones as it narrows, until its interval is as narrow as
asked or the budget is spent; *settle* on the highest rate that was tried and met the target.
docs/design/0003-capacity-search.md has the reasoning.
"""

from __future__ import annotations

from dataclasses import asdict
from math import exp, inf, log, nan

from deeprecsys.core.errors import TargetUnreachableError, TrialsVoidError, positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.target import Target, percentile
from deeprecsys.search.crossing import Crossing
from deeprecsys.search.estimate import LEAST_TRIALS, estimate
from deeprecsys.search.events import CapacityDone, CapacityStarted, Progress, silent
from deeprecsys.search.probes import Observation, Runner, Trial
from deeprecsys.search.result import CapacityResult, Outcome, Probe, Settings, Verdict

MOST_TRIALS = 60
"""Trials of one search."""
MOST_BRACKET = 30
"""Trials of the bracket after which the search fails."""
GLANCE = 40
"""Least expected number of queries of a short trial at the floor."""
LONGEST = 100
"""The longest trial, in lengths of the first."""
IDLE = 0.05
"""Utilisation below which queries hardly wait: what is late here is late at any rate."""


def capacity(
    trial: Trial,
    policy: Policy,
    target: Target,
    *,
    hint_qps: float,
    settings: Settings | None = None,
    seed: int = 0,
    purpose: int = 0,
    floor_qps: float | None = None,
    progress: Progress = silent,
) -> CapacityResult:
    """The highest rate at which a policy meets the target with every offered query served.

    Args:
        trial: runs one trial, live or virtual.
        policy: what to run.
        target: what to meet.
        hint_qps: where to begin: another policy's capacity, or workers / E[work] from a profile.
        settings: by default `Settings.live(target)`.
        seed, purpose: searches that share both use the same random numbers, trial by trial.
        floor_qps: begin here, and give up as `BELOW_FLOOR` if this rate clearly fails.
        progress: called with every trial and probe.

    Raises:
        TargetUnreachableError: even a query alone is too slow too often.
        TrialsVoidError: no valid trial could be run.
    """
    settings = settings or Settings.live(target)
    positive("hint", hint_qps)
    progress(CapacityStarted(policy, settings.budget_s, floor_qps))
    runner = Runner(trial, policy, target, seed=seed, purpose=purpose, progress=progress)
    result = _Search(runner, settings).run(hint_qps, floor_qps)
    progress(CapacityDone(policy, result))
    return result


class _Search:
    """One capacity search under way."""

    def __init__(self, runner: Runner, settings: Settings) -> None:
        self.runner, self.settings, self.target = runner, settings, runner.target
        self.void_qps = inf  # the lowest rate that the source could not offer

    def run(self, hint_qps: float, floor_qps: float | None) -> CapacityResult:
        if floor_qps is not None and self._fails(floor_qps):
            return self._result(Outcome.BELOW_FLOOR, None, 0.0, self._grid(floor_qps), resolved=True)
        self._bracket(max(hint_qps, floor_qps or 0.0))
        if not self._above():
            return self._source_limited()
        resolved = self._refine()
        found = estimate(self.runner, self.settings.confidence)
        self._settle(found)
        return self._result(Outcome.FOUND, found.rate_qps, found.low_qps, found.high_qps, resolved=resolved)

    # Rates lie on one grid for all searches, so that trials meet again at the same rates.
    def _grid(self, rate_qps: float) -> float:
        step = log(1 + self.settings.resolution / 2)
        return exp(round(log(rate_qps) / step) * step)

    def _try(
        self, rate_qps: float, duration_s: float, least_queries: int | None = None
    ) -> Observation | None:
        """A trial at about a rate; None, and remembered, where it stayed void."""
        rate = self._grid(rate_qps)
        s = self.settings
        least = s.least_queries if least_queries is None else least_queries
        longest_s = max(s.trial_s, s.budget_s / 4)
        duration = min(max(duration_s, min(least / rate, longest_s)), s.budget_queries / 8 / rate)
        observation = self.runner.run(rate, duration)
        if observation is None:
            self.void_qps = min(self.void_qps, rate)
        else:
            self.runner.noted_probe(rate, s.confidence)
        return observation

    def _above(self) -> list[Observation]:
        return [o for o in self.runner.observations if not self._below(o)]

    def _below(self, o: Observation) -> bool:
        return o.all_served and self.target.allows(o.miss_rate)

    # The floor.
    def _fails(self, floor_qps: float) -> bool:
        """Whether the floor clearly fails: by a glance, if it is grossly too much; a longer look in doubt.

        A glance is short because what it offers in excess must be worked off before the next trial.
        """
        trial_s = self.settings.trial_s
        for duration_s in (max(trial_s / 4, 3 * self.target.latency_s), trial_s, 2 * trial_s):
            glance = duration_s < trial_s
            if self._try(floor_qps, duration_s, least_queries=GLANCE) is None:
                return False
            probe = self.runner.probe(self._grid(floor_qps), self.settings.confidence)
            if probe.verdict is Verdict.FAILED and (not glance or probe.miss_rate > 0.5):
                return True
            if not glance and self.target.allows(probe.miss_rate):
                return False
        return False

    # Bracketing.
    def _bracket(self, rate_qps: float) -> None:
        """Trials until at least one meets the target and at least one does not."""
        last = self.runner.observations[-1] if self.runner.observations else None
        fails = 0
        for _ in range(MOST_BRACKET):
            if last is not None:
                if any(self._below(o) for o in self.runner.observations) and self._above():
                    return
                fails = 0 if self._below(last) else fails + 1
                rate_qps = self._next(last, fails)
            if rate_qps >= self.void_qps:
                return
            last = self._try(rate_qps, self.settings.trial_s)
            if last is None:
                last = self._below_void(rate_qps)
                if last is None:
                    return
            self._check_reachable(last)
        raise TrialsVoidError(f"no rate on both sides of the target in {MOST_BRACKET} trials")

    def _below_void(self, rate_qps: float) -> Observation | None:
        """The source cannot offer a rate: what it can, if nothing valid is known yet."""
        if self.runner.observations:
            return None
        for _ in range(3):
            rate_qps /= 2
            observation = self._try(rate_qps, self.settings.trial_s)
            if observation is not None:
                return observation
        return self.runner.must_run(self._grid(rate_qps / 4), self.settings.trial_s)

    def _next(self, o: Observation, fails: int) -> float:
        """Where to look after a trial that left the crossing on one side."""
        allowed, busy = self.target.miss_rate, o.summary.utilisation
        near = allowed / 4 < o.miss_rate < 4 * allowed
        if self._below(o):
            rate = max((p.rate_qps for p in self.runner.observations), default=o.rate_qps)
            # The utilisation says how much more work the workers could do at all.
            factor = min(max(0.9 / busy, 1.15), 4.0) if busy > 0 else 1.5
            return rate * (1.1 if near else factor)
        rate = min(p.rate_qps for p in self.runner.observations)
        if near:
            return rate / 1.1
        # A rate that the workers could not follow: they showed what they can do.
        through = o.summary.completed / o.seconds if o.seconds > 0 else 0.0
        factor = 1.3 if fails == 1 and o.miss_rate < 0.5 else 2.0 ** min(fails, 3)
        return min(rate / 1.1, max(0.85 * through, rate / 16)) if through < 0.8 * rate else rate / factor

    def _check_reachable(self, o: Observation) -> None:
        """Raise if a rate at which queries hardly meet each other fails.

        Raises:
            TargetUnreachableError: it does.
        """
        busy = o.summary.utilisation
        vanishing = o.rate_qps * self.target.latency_s < 0.01
        if self._below(o) or not (0 < busy < IDLE or vanishing):
            return
        confidence, spent = self.settings.confidence, 0.0
        while True:
            probe = self.runner.probe(o.rate_qps, confidence)
            if probe.verdict is Verdict.PASSED or self.target.allows(probe.miss_rate):
                return
            if probe.verdict is Verdict.FAILED or spent > max(self.settings.budget_s, o.seconds):
                break
            again = self.runner.must_run(o.rate_qps, o.seconds)
            spent += again.seconds if self.settings.budget_s < inf else self.settings.budget_s
        best_s, rate = self._best_latency()
        percent = 100 * self.target.quantile
        raise TargetUnreachableError(
            f"p{percent:g} within {1e3 * self.target.latency_s:g} ms cannot be met at any load: the best was "
            f"{1e3 * best_s:.3g} ms, at {rate:.3g} queries/s",
            best_s,
        )

    def _best_latency(self) -> tuple[float, float]:
        """The lowest latency at the target's quantile that was measured, seconds, and the rate."""
        found = [
            (percentile(o.latency_s, self.target.quantile), o.rate_qps) for o in self.runner.observations
        ]
        return min((f for f in found if f[0] == f[0]), default=(nan, nan))

    # Refining.
    def _refine(self) -> bool:
        """Trials about the crossing until its interval is narrow enough; False if the budget ended it."""
        s = self.settings
        while True:
            found = estimate(self.runner, self.settings.confidence)
            if found.trials >= LEAST_TRIALS and found.half_width <= s.resolution:
                return True
            left_s = s.budget_s - self.runner.cost.seconds
            spent = self.runner.cost
            if left_s < s.trial_s / 2 or spent.trials >= MOST_TRIALS or spent.queries >= s.budget_queries:
                return False
            rate, duration_s = self._proposal(found, left_s)
            if rate >= self.void_qps or self._try(rate, duration_s) is None:
                return False

    def _proposal(self, found: Crossing, left_s: float) -> tuple[float, float]:
        """Rate and length of the next trial: a step to the side of the crossing that is less known."""
        s = self.settings
        usable = [o for o in self.runner.sound if o.all_served]
        near = list(zip(usable, found.weight, strict=True))
        half = min(found.half_width, 6 * s.resolution)  # wider than that it is the place that is missing
        step = min(max(half / 2, s.resolution / 2), 0.7 / found.slope)
        if found.trials < 1.5:
            step = 0.0  # nothing near yet
        rate = found.rate_qps * exp(-step if found.lower_gap > found.upper_gap else step)
        # The interval narrows with the square root of time: what is missing, in a few trials' time.
        spent_s = sum(w * o.seconds for o, w in near)
        longest_s = max((o.seconds for o, w in near if w > 0.5), default=s.trial_s)
        missing_s = spent_s * ((half / s.resolution) ** 2 - 1)
        useful_s = min(max(missing_s / 4, spent_s / 8), 2 * longest_s, LONGEST * s.trial_s, s.budget_s / 8)
        duration_s = min(max(useful_s, s.trial_s), max(left_s, s.trial_s / 2))
        return rate, duration_s

    # Ending.
    def _settle(self, found: Crossing) -> None:
        """Make sure that some rate near the capacity was tried and met the target."""
        rate = min(found.low_qps, found.rate_qps)
        rate = rate if rate > 0.5 * found.rate_qps else 0.9 * found.rate_qps
        for _ in range(5):
            if self._point(found.rate_qps, found.low_qps) is not None:
                return
            self._try(rate, self.settings.trial_s)
            rate /= 1 + 2 * self.settings.resolution

    def _point(self, capacity_qps: float, low_qps: float = 0.0) -> Probe | None:
        """The highest rate up to the capacity, to the grid, that was tried and met the target."""
        most = capacity_qps * (1 + self.settings.resolution / 2)
        least = 0.9 * low_qps
        for rate in reversed(self.runner.rates()):
            if least <= rate <= most:
                probe = self.runner.probe(rate, self.settings.confidence)
                if probe.summary.meets(self.target):
                    return probe
        return None

    def _source_limited(self) -> CapacityResult:
        """Every rate that the source could offer met the target."""
        good = [o.rate_qps for o in self.runner.observations if self._below(o)]
        if not good:
            raise TrialsVoidError("no valid trial: the load source was late at every rate that was tried")
        return self._result(Outcome.SOURCE_LIMITED, max(good), max(good), inf, resolved=False)

    def _result(
        self, outcome: Outcome, capacity_qps: float | None, low: float, high: float, *, resolved: bool
    ) -> CapacityResult:
        runner, confidence = self.runner, self.settings.confidence
        return CapacityResult(
            outcome=outcome,
            capacity_qps=capacity_qps,
            low_qps=low,
            high_qps=high,
            confidence=confidence,
            resolved=resolved,
            point=None if capacity_qps is None else self._point(capacity_qps),
            probes=tuple(runner.probe(rate, confidence) for rate in runner.rates()),
            **asdict(runner.cost),
        )
