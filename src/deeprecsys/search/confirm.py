"""Points that a search found are run again in blocks, interleaved, with seeds that it never used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, log, sqrt
from typing import Any, NamedTuple

from deeprecsys.core.errors import TrialsVoidError, positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.target import Target
from deeprecsys.search.estimate import estimate
from deeprecsys.search.events import Progress, silent
from deeprecsys.search.history import Evaluation, Score
from deeprecsys.search.probes import Runner, Trial
from deeprecsys.search.result import COST, Probe, Verdict, fields_of
from deeprecsys.search.sustain import Holding, Sustained

CONFIRMATION = 2
"""The purpose (see `trial_seed`) of these trials."""
REACH = 1.1
"""A limit is at most this many times the highest rate that was tried."""
WIDE = 3
"""Steps between the rate that was met and the one that failed, above which the capacity counts as unknown."""
MOST_STEP = 0.5
"""The largest step, as a share of the rate."""


MEASURED = (
    "mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms", "served", "offered", "completed", "shed",
    "utilisation", "lateness_p99_ms",
)  # fmt: skip
"""What of the summary of its trials is in the document of a confirmed point."""


class Limit(NamedTuple):
    """A rate and its interval, queries/s; `bound_qps`, where that cut one of them off, is what no policy
    exceeds."""

    qps: float
    low_qps: float
    high_qps: float
    bound_qps: float | None = None

    def within(self, bound_qps: float) -> Limit:
        """The limit with what lies above a bound cut off."""
        if max(self.qps, self.high_qps) <= bound_qps:
            return self
        qps, low, high = (min(rate, bound_qps) for rate in self[:3])
        return Limit(qps, low, high, bound_qps)

    @property
    def open(self) -> float:
        """Half the interval's width, as a logarithm."""
        return log(self.high_qps / self.low_qps) / 2 if 0 < self.low_qps < inf else inf

    def to_json(self) -> dict[str, Any]:
        high = self.high_qps if self.high_qps < inf else None
        return {
            "limit_today_qps": self.qps,
            "limit_interval_qps": [self.low_qps, high],
            "limit_bound_qps": self.bound_qps,
        }


@dataclass(frozen=True, slots=True)
class Confirmed:
    """An operating point that was run afresh.

    Attributes:
        policy: what ran.
        capacity: as the search found it.
        probe: all fresh trials at the highest rate that met the target; at the last one if none did.
        met: whether they meet the target together, every query served; if not, no rate that was tried did.
        attempts: how many rates were tried.
        limit: the rate, with its interval, at which the miss rate is what the target allows, by all trials:
            what the machine can do now, without a margin.
        sustained: what its run says; of trials in blocks that they are no uninterrupted run.
        failed_qps: the lowest rate above it that did not meet the target; infinite where none was tried.
    """

    policy: Policy
    capacity: Score
    probe: Probe
    met: bool
    attempts: int
    limit: Limit
    sustained: Sustained
    failed_qps: float = inf

    @property
    def qps(self) -> float:
        return self.probe.rate_qps

    def within(self, bound_qps: float) -> Confirmed:
        """The point with its limit below a bound, but not below what it met."""
        return replace(self, limit=self.limit.within(max(bound_qps, self.qps if self.met else 0.0)))

    def to_json(self) -> dict[str, Any]:
        return {
            **self.policy.describe(),
            **fields_of(self, "qps", "met", "attempts"),
            **fields_of(self.probe.summary, *MEASURED),
            **fields_of(self.probe, "miss_rate", "verdict"),
            "miss_interval": [self.probe.miss_low, self.probe.miss_high],
            "confirmed_by": fields_of(self.probe, *COST),
            "failed_qps": self.failed_qps if self.failed_qps < inf else None,
            "capacity": self.capacity.to_json(),
            **self.limit.to_json(),
            "sustained": self.sustained.to_json(),
        }


@dataclass(frozen=True, slots=True)
class ConfirmSettings:
    """How points are confirmed.

    Attributes:
        trial_s: length of each fresh trial, seconds.
        rounds: fresh trials of each point at a rate, unless fewer say clearly whether it meets the target;
            the rate that is stated in the end gets at least as many.
        most_rounds: as many there, where the interval of the miss rate still holds the target's after
            `rounds`, and the budget is not spent.
        confidence: of verdicts.
        margin: the first rate is at most this share below the capacity, and not below its interval.
        step: the second rate is this share below the first, or below what the node served where it could not
            follow; each further step down is twice the last, so that a machine that has become slower since
            the search is followed within a few steps. Once a rate is met, rates between it and the lowest
            that was not are tried, to about this share.
        upward: try higher rates after one that was met, by twice the step, and by steps that double.
        attempts: how many rates at most.
        budget_s: trial seconds, of all points together, after which no rate is tried that need not be: a
            point that is met goes on only while a rate more than `WIDE` steps above it has failed.
        limit_s: trial seconds after which not even those are: only a point that met no rate yet goes on, by
            one trial for each rate, whatever it says.
        max_odd: repetitions of one in which the machine stood still or was slow.
    """

    trial_s: float = 4.0
    rounds: int = 3
    most_rounds: int = 3
    confidence: float = 0.95
    margin: float = 0.02
    step: float = 0.03
    upward: bool = False
    attempts: int = 7
    budget_s: float = inf
    limit_s: float = inf
    max_odd: int = 3


def confirm(
    trial: Trial,
    candidates: Sequence[Evaluation],
    target: Target,
    settings: ConfirmSettings,
    *,
    seed: int = 0,
    beside: Sequence[tuple[Trial, Evaluation]] = (),
    progress: Progress = silent,
) -> list[Confirmed]:
    """Run points afresh, in turn, each at its capacity less a margin, and lower until the target is met.

    Points take turns trial by trial; the k-th of each sees the same arrivals, scaled. On the way a rate is
    left as soon as its trials say clearly whether it meets the target. The highest that did is then run until
    it has had all its rounds and its interval decides. What does not hold then is given up for the next lower
    one, and rates between are looked at again.

    Args:
        beside: further points that take turns with the candidates, each run by a trial of its own.

    Raises:
        TrialsVoidError: no trial at any rate was valid.
    """
    s = settings
    points = []
    for own, candidate in [*((trial, c) for c in candidates), *beside]:
        runner = Runner(
            own, candidate.policy, target,
            seed=seed, purpose=CONFIRMATION, max_odd=s.max_odd, progress=progress,
        )  # fmt: skip
        points.append(_Point(runner, candidate, s))

    def spent_s() -> float:
        return sum(p.seconds for p in points)

    while open_ := [p for p in points if p.turn(spent_s())]:
        while running := [p for p in open_ if p.undecided(spent_s())]:
            for point in running:
                point.run()
        for point in open_:
            point.judge()
    return [p.result() for p in points]


def in_blocks(probe: Probe, met: bool) -> Sustained:
    """What trials at one rate say together: never that it is sustained, for each began with an empty node."""
    verdict = Holding.UNDECIDED if met else Holding.NOT_MET
    lacks = ("one uninterrupted run",) if met else ()
    miss = (probe.miss_rate, probe.miss_low, probe.miss_high)
    return Sustained(verdict, probe.seconds, probe.queries, None, None, False, *miss, lacks)


class RateSteps:
    """Which rate to try next: down in growing steps until one is met, or up until one is not; then between.

    Attributes:
        rate_qps: to try.
        met_qps: the highest that was met; 0 while none was.
        failed_qps: the lowest that was not; infinite while none failed.
        done: whether there is nothing more to try.
    """

    def __init__(self, first_qps: float, step: float, upward: bool = False) -> None:
        self.rate_qps = first_qps
        self.failed_qps = inf
        self.done = False
        self._met: list[float] = []
        self._step, self._upward, self._falls, self._rises = step, upward, 0, 0

    @property
    def met_qps(self) -> float:
        return max(self._met, default=0.0)

    @property
    def wide(self) -> bool:
        """Whether much is left between met and failed."""
        return WIDE < log(self.failed_qps / self.met_qps) / self._step < inf if self.met_qps else True

    def judge(self, met: bool, served_qps: float = inf) -> None:
        """What came of the present rate; sets the next, or ends.

        Args:
            met: whether the target was.
            served_qps: what the node got done. Where that is clearly less than it was offered, the line grew
                to the end, and no rate above it can be met however long the steps would still be.
        """
        if met:
            self._met.append(self.rate_qps)
            if self.failed_qps == inf:
                self.done = not self._upward
                self.rate_qps *= 1 + min(2 * self._step * 2**self._rises, MOST_STEP)
                self._rises += 1
                return
        else:
            self.failed_qps = min(self.failed_qps, self.rate_qps)
        self._close_in(served_qps)

    def withdraw(self, served_qps: float = inf) -> None:
        """The highest rate that was met is not, as more trials at it say; sets the next, or ends."""
        self.rate_qps = self.failed_qps = self.met_qps
        self._met.remove(self.rate_qps)
        self._close_in(served_qps)

    def _close_in(self, served_qps: float) -> None:
        """After a rate that failed: down, or between it and the one below that was met."""
        if self._met:
            self.rate_qps = sqrt(self.met_qps * self.failed_qps)
            self.done = self.failed_qps < self.met_qps * (1 + 2 * self._step)
        else:
            self.done = False
            self._fall(served_qps)

    def _fall(self, served_qps: float) -> None:
        if served_qps < self.rate_qps * (1 - self._step):
            self.rate_qps = max(served_qps, self.rate_qps / 4) * (1 - self._step)
        else:
            self.rate_qps *= 1 - min(self._step * 2**self._falls, MOST_STEP)
            self._falls += 1


class _Point:
    """One candidate under confirmation."""

    def __init__(self, runner: Runner, candidate: Evaluation, settings: ConfirmSettings) -> None:
        self._runner, self._candidate, self._settings = runner, candidate, settings
        c = candidate.score
        capacity = positive("capacity to confirm", c.capacity_qps or 0.0)
        first_qps = max(c.low_qps, capacity * (1 - settings.margin))
        self._steps = RateSteps(first_qps, settings.step, settings.upward)
        self._probes: dict[float, Probe] = {}
        self._attempts = 0
        self._firm = False  # whether this turn is for the rate that stands, and not for another one
        self._void = False

    @property
    def seconds(self) -> float:
        """Trial seconds so far."""
        return self._runner.cost.seconds

    def turn(self, spent_s: float) -> bool:
        """Whether there is anything to run yet: another rate, or more at the one that stands."""
        s, steps = self._settings, self._steps
        allowed_s = inf if not steps.met_qps else s.limit_s if steps.wide else s.budget_s
        self._firm = steps.done or self._attempts >= s.attempts or spent_s >= allowed_s
        self._void = False
        return not self._firm or (steps.met_qps > 0 and self.undecided(spent_s))

    def undecided(self, spent_s: float) -> bool:
        """Whether this turn needs another trial at its rate."""
        probe = self._probes.get(self._rate_qps)
        if probe is None:
            return not self._void
        if self._void or probe.verdict is Verdict.FAILED:
            return False
        s, trials = self._settings, self._runner.trials_at(self._rate_qps)
        if self._firm:
            more = probe.verdict is Verdict.UNDECIDED and spent_s < s.budget_s
            return trials < (s.most_rounds if more else s.rounds)
        return probe.verdict is Verdict.UNDECIDED and spent_s < s.limit_s and trials < s.rounds

    def run(self) -> None:
        """One more fresh trial at this turn's rate."""
        rate = self._rate_qps
        if self._runner.run(rate, self._settings.trial_s) is None:
            # The source cannot keep up with this rate on this machine now: a lower one may be offered truly.
            self._void = True
            return
        self._probes[rate] = self._runner.noted_probe(rate, self._settings.confidence)

    def judge(self) -> None:
        """After a turn's trials: met or not, and on to the next rate."""
        probe = self._probes.get(self._rate_qps)
        met = not self._void and probe is not None and probe.summary.meets(self._runner.target)
        if not self._firm:
            self._attempts += 1
            self._steps.judge(met, self._served_qps)
        elif not met:
            self._steps.withdraw(self._served_qps)

    @property
    def _rate_qps(self) -> float:
        return self._steps.met_qps if self._firm else self._steps.rate_qps

    @property
    def _served_qps(self) -> float:
        """What the node got done of the present rate; infinite where no trial at it counted."""
        served = [o.served_qps for o in self._runner.observations if o.rate_qps == self._rate_qps]
        return sum(served) / len(served) if served else inf

    def result(self) -> Confirmed:
        if not self._probes:
            raise TrialsVoidError(
                f"the load source was late in every trial down to {self._steps.rate_qps:.4g} queries/s; "
                "the machine is too busy with other work"
            )
        c, steps = self._candidate, self._steps
        met = steps.met_qps > 0
        probe = self._probes[steps.met_qps] if met else list(self._probes.values())[-1]
        found = estimate(self._runner, self._settings.confidence)
        most = REACH * max(self._runner.rates())  # where nothing failed the fit may point anywhere above
        limit = Limit(min(found.rate_qps, most), min(found.low_qps, most), found.high_qps)
        failed = steps.failed_qps if met else inf
        return Confirmed(c.policy, c.score, probe, met, self._attempts, limit, in_blocks(probe, met), failed)
