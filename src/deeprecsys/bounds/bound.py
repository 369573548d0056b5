"""A bound, and the share of it that a policy reaches; neither goes without the bound's name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class BoundKind(StrEnum):
    """Which bound (docs/facts.md §6)."""

    CAPACITY = "capacity"
    O_FCFS = "o_fcfs"
    O_DROP = "o_drop"
    TWO_POOLS = "two_pools"
    ESTIMATE = "planning_estimate"  # not a bound: what to expect


@dataclass(frozen=True, slots=True)
class Bound:
    """A rate that no policy of some kind exceeds.

    Attributes:
        kind: which bound.
        rate_qps: queries per second; infinite where nothing binds, 0 where no rate meets the target.
        coalescing: whether it also holds for policies that put slices of several queries into one batch.
    """

    kind: BoundKind
    rate_qps: float
    coalescing: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}{'_coalescing' if self.coalescing else ''}"

    def fraction(self, rate_qps: float) -> Fraction:
        """The share of the bound that a rate is."""
        return Fraction(self.name, rate_qps / self.rate_qps if self.rate_qps else float("nan"))


@dataclass(frozen=True, slots=True)
class Fraction:
    """A share of a named bound."""

    bound: str
    value: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
