"""The margin between the highest rate that a node carries now and the one that it is to be run at.

The margin is a slowdown: the rate is the highest that still meets the target when all batches take so much
longer. By default that is what the machine itself drifted by meanwhile, seen by a reference batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Policy
from deeprecsys.core.runlog import RunLog
from deeprecsys.core.target import Target, percentile
from deeprecsys.search.rank import PathTrial, capacity_on_path

LEAST, MOST = 0.03, 0.25
"""The least margin that is chosen, for a drift over minutes says little of an hour's; and the most."""
BEYOND = (0.0, 0.02, 0.05, 0.10)
"""Shares above a rate at which the latency is predicted."""
CURVE = (0.7, 0.8, 0.9, 0.95)
"""Shares of a rate below it at which it is."""


class Drift:
    """Times of one reference batch, taken now and then."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def add(self, batches_s: Sequence[float]) -> None:
        """One look: batches in a row, of which the median counts."""
        self.seconds.append(float(np.median(batches_s)))

    @property
    def usual_s(self) -> float | None:
        """The median of all looks, in seconds."""
        return float(np.median(self.seconds)) if self.seconds else None

    @property
    def share(self) -> float | None:
        """How much longer the slowest look's batch took than the fastest's; None before the second look."""
        return max(self.seconds) / min(self.seconds) - 1 if len(self.seconds) > 1 else None


@dataclass(frozen=True, slots=True)
class Margin:
    """A slowdown to allow for, as a share; `drift` is the machine's own, None where it is not known."""

    share: float
    drift: float | None
    chosen: bool = False

    @classmethod
    def of(cls, drift: Drift, percent: float | None = None) -> Margin:
        """The margin that was asked for, or the machine's drift, from `LEAST` to `MOST`."""
        if percent is not None:
            return cls(percent / 100, drift.share, True)
        return cls(allowance_for(drift.share or 0.0), drift.share)

    def to_json(self) -> dict[str, Any]:
        drift = None if self.drift is None else 100 * self.drift
        return {"margin_percent": 100 * self.share, "margin_chosen": self.chosen, "drift_percent": drift}


def allowance_for(drift: float) -> float:
    """The slowdown to allow for where a machine drifted by a share: that, from `LEAST` to `MOST`."""
    return min(max(drift, LEAST), MOST)


def checked_margin(percent: float | None) -> float | None:
    """A margin in percent, if it is one."""
    if percent is not None and not 0 <= percent < 100:
        raise InputError(f"--margin: expected a percentage from 0 to below 100, got {percent:g}")
    return percent


class NearLimit:
    """A policy near its limit, in virtual time.

    Rates are shares of the limit on the simulated path, so that the simulator's own error in the limit is
    left out of what is predicted near it.

    Args:
        path: from a factor, the sample path on which batches take that many times as long as in the profile.
        hint_qps: about the capacity.
    """

    def __init__(
        self, path: Callable[[float], PathTrial], policy: Policy, target: Target, hint_qps: float
    ) -> None:
        self._path, self._policy, self._target = path, policy, target
        self.capacity_qps = self._capacity(1.0, hint_qps) or hint_qps

    def _capacity(self, slower: float, hint_qps: float) -> float:
        path = self._path(slower)
        return capacity_on_path(lambda rate: path(self._policy, rate).carries(self._target), hint_qps)

    def share(self, margin: Margin) -> float:
        """The share of the limit at which the target is still met when batches take a margin longer.

        Where none would, what the workers' time alone leaves.
        """
        if not margin.share:
            return 1.0
        slower = 1 + margin.share
        found = self._capacity(slower, self.capacity_qps / slower) / self.capacity_qps
        return min(found, 1.0) or 1 / slower

    def at(self, share: float) -> RunLog:
        """The path at a share of the limit."""
        return self._path(1.0)(self._policy, share * self.capacity_qps)

    def curve(self, rate_qps: float, limit_qps: float) -> list[dict[str, Any]]:
        """The latency at the target's quantile about a rate, in milliseconds: None where the line grows
        without end."""
        found = []
        for more in (*(s - 1 for s in CURVE), *BEYOND):
            log = self.at((1 + more) * rate_qps / limit_qps)
            latency_s = percentile(log.latency_s[log.measured], self._target.quantile)
            grows = log.load >= 1 or not np.isfinite(latency_s)
            found.append(
                {
                    "percent": 100 * more,
                    "rate_qps": (1 + more) * rate_qps,
                    "latency_ms": None if grows else 1e3 * latency_s,
                    "simulated": True,
                }
            )
        return found
