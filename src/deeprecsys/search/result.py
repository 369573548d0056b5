"""The settings of a capacity search, and its results: probes and the capacity."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any, NamedTuple

from deeprecsys.core.errors import InputError, positive
from deeprecsys.core.runlog import Summary
from deeprecsys.core.target import Target
from deeprecsys.search.history import Score

COST = ("trials", "seconds", "queries")
"""The fields that say what trials took."""


def fields_of(value: Any, *names: str) -> dict[str, Any]:
    """Some attributes as JSON values."""
    return {name: getattr(value, name) for name in names}


class Verdict(StrEnum):
    """Whether a rate meets the target."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


class Rerun(NamedTuple):
    """One of a probe's trials, as it may be run again in virtual time.

    Attributes:
        seed: of its load.
        offered_s: how long queries were offered.
        warmup_s: from when on they counted.
        seconds_per_item: worker-seconds that an item took on the CPU; nan where the driver did not say.
    """

    seed: int
    offered_s: float
    warmup_s: float
    seconds_per_item: float


@dataclass(frozen=True, slots=True)
class Probe:
    """All trials of one policy at one rate.

    Attributes:
        rate_qps: offered.
        verdict: what the interval, or a query that was not served, says.
        miss_rate: share of measured queries later than the target or not served.
        miss_low, miss_high: its interval.
        trials, seconds, queries: what it took, warm-up included.
        summary: of all its trials together; percentiles are exact.
        reruns: what it takes to run its trials again.
    """

    rate_qps: float
    verdict: Verdict
    miss_rate: float
    miss_low: float
    miss_high: float
    trials: int
    seconds: float
    queries: int
    summary: Summary
    reruns: tuple[Rerun, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **fields_of(self, "rate_qps", "verdict", "miss_rate", "miss_low", "miss_high", *COST),
            **fields_of(self.summary, "p50_ms", "p95_ms", "p99_ms", "served"),
        }


@dataclass(frozen=True, slots=True)
class Settings:
    """How much a capacity search may take, and how sure it is to be.

    Attributes:
        resolution: half-width of the interval to stop at, relative.
        confidence: of the interval, and of each verdict; two-sided.
        trial_s: length of the first trials, seconds; later ones are longer where that pays.
        budget_s: seconds of trial time after which no more refining trial starts (bracketing may overrun).
        least_queries: trials at low rates are lengthened until they expect this many, budget permitting.
        budget_queries: queries after which no more refining trial starts; none expects more than an eighth.
    """

    resolution: float = 0.03
    confidence: float = 0.95
    trial_s: float = 1.5
    budget_s: float = 18.0
    least_queries: int = 100
    budget_queries: float = inf

    def __post_init__(self) -> None:
        for field in ("resolution", "trial_s", "budget_s"):
            if field != "budget_s" or self.budget_s != inf:
                positive(field.replace("_s", ""), getattr(self, field))
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence: expected a number between 0 and 1, got {self.confidence}")

    @classmethod
    def live(cls, target: Target) -> Settings:
        """Each second costs: about 3 % and a dozen short trials, 18 s at a target of 100 ms."""
        trial_s = min(max(1.0, 15 * target.latency_s), 5.0)
        return cls(trial_s=trial_s, budget_s=12 * trial_s)

    @classmethod
    def virtual(cls, target: Target) -> Settings:
        """Accuracy first: 1 % at 99 % confidence, within what memory holds and seconds compute."""
        return cls(
            resolution=0.01,
            confidence=0.99,
            trial_s=400 * target.latency_s,
            budget_s=inf,
            least_queries=2000,
            budget_queries=2e7,
        )


class Outcome(StrEnum):
    """How a capacity search ended."""

    FOUND = "found"
    BELOW_FLOOR = "below floor"  # clearly less than the floor; not looked into further
    SOURCE_LIMITED = "source limited"  # beyond `low_qps` the load source was too late for a valid trial


@dataclass(frozen=True, slots=True)
class CapacityResult(Score):
    """What a capacity search found.

    Attributes:
        outcome: what the figures mean.
        capacity_qps: the rate at which the miss rate is what the target allows, from all trials;
            None when below the floor.
        low_qps, high_qps: its interval; below the floor, 0 and the floor.
        confidence: of the interval.
        resolved: whether the interval is as narrow as asked; if not, the budget ended the search.
        point: the highest rate up to the capacity that was tried and met the target, with what was measured
            there; None when below the floor.
        probes: every rate that was tried, rising.
        seconds, queries, trials, voids: what it took, void trials included.
    """

    outcome: Outcome
    confidence: float
    resolved: bool
    point: Probe | None
    probes: tuple[Probe, ...]
    seconds: float
    queries: int
    trials: int
    voids: int

    @property
    def summary(self) -> Summary | None:
        """Measured at `point`."""
        return self.point.summary if self.point else None

    def to_json(self) -> dict[str, Any]:
        return {
            **fields_of(self, "outcome", "capacity_qps", "confidence", "resolved", *COST, "voids"),
            "interval_qps": [self.low_qps, self.high_qps if self.high_qps < inf else None],
            "point": self.point.to_json() if self.point else None,
            "probes": [p.to_json() for p in self.probes],
        }
