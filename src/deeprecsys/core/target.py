"""The target (SLA), and the definition of a percentile that all packages use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, positive

LEVELS = {"low": 0.5, "medium": 1.0, "high": 1.5}
"""The paper's three target levels, as factors of a model's medium target (docs/facts.md §2)."""

LEAST_S, MOST_S, NEAREST = 1e-9, 1e9, 1e-9
"""Bounds of a target's latency; how near its quantile may be to 0 and 1."""

ROUNDING = 1e-12
"""How far 1 - quantile may fall below the share that it stands for: 1 - 0.9 is less than 0.1."""


def percentile(values: NDArray[Any], quantile: float) -> float:
    """The smallest of `values` such that at least `quantile` of them are no greater; nan when empty.

    An observed value, never an interpolated one: `p95 <= t` says exactly that 95 % were within t.
    """
    return percentiles(values, (quantile,))[0]


def percentiles(values: NDArray[Any], quantiles: Sequence[float]) -> list[float]:
    """The `percentile` of each of `quantiles`; several at once take little longer than one."""
    if not len(values):
        return [float("nan")] * len(quantiles)
    return [float(v) for v in np.quantile(values, quantiles, method="inverted_cdf")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """At least `quantile` of all offered queries are answered within `latency_s` seconds."""

    latency_s: float
    quantile: float = 0.95

    def __post_init__(self) -> None:
        positive("target latency", self.latency_s)
        if not LEAST_S <= self.latency_s <= MOST_S:
            got = f"got {self.latency_s:g}"
            raise InputError(f"target latency: expected from {LEAST_S:g} to {MOST_S:g} seconds, {got}")
        if not NEAREST <= self.quantile <= 1 - NEAREST:
            raise InputError(f"quantile: expected a number between 0 and 1, got {self.quantile}")

    @property
    def miss_rate(self) -> float:
        """The share of queries that may be late."""
        return 1.0 - self.quantile

    def allows(self, miss_rate: float) -> bool:
        """Whether the target is met when this share of the queries is late; not for nan."""
        return miss_rate <= self.miss_rate + ROUNDING
