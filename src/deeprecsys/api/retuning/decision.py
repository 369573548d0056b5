"""When another policy is worth a change: the load of a window, what a simulation of it found, the decision.

All pure: arrivals come from the service, and a process of low priority simulates (`resimulate`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from deeprecsys.core.policy import GPU, Policy
from deeprecsys.core.target import percentile


@dataclass(frozen=True, slots=True)
class RetuneSettings:
    """How live retuning behaves.

    Attributes:
        every_s: seconds between two looks; window_s: length of the window whose load counts, seconds.
        least_queries: queries in the window below which nothing is decided.
        gain: relative gain in simulated capacity from which a change is made: profiles have errors, and each
            change should have a reason that can be read.
        hold_s: seconds after a change in which no other is made.
        path_queries: queries of the simulated sample path.
    """

    every_s: float = 10.0
    window_s: float = 30.0
    least_queries: int = 200
    gain: float = 0.05
    hold_s: float = 20.0
    path_queries: int = 10_000


@dataclass(frozen=True, slots=True)
class OfferedLoad:
    """The load of a window: rate and sizes of valid queries, refused ones included."""

    rate_qps: float
    sizes: tuple[int, ...]

    @property
    def mean_items(self) -> float:
        return float(np.mean(self.sizes))

    @property
    def p95_items(self) -> float:
        return percentile(np.asarray(self.sizes), 0.95)


@dataclass(frozen=True, slots=True)
class BestPolicy:
    """Result of a simulation: the best policy and its capacity, and the capacity of the present policy."""

    policy: Policy
    capacity_qps: float
    present_qps: float


@dataclass(frozen=True, slots=True)
class Change:
    """A change of policy, and its reason."""

    policy: Policy
    capacity_qps: float
    why: str


def offered_load(
    offered: Iterable[tuple[float, int]], now_s: float, settings: RetuneSettings
) -> OfferedLoad | None:
    """The load of the window that ends now; None below `least_queries`.

    Args:
        offered: arrival and items of queries, in any order.
    """
    begin_s = now_s - settings.window_s
    recent = [(at, n) for at, n in offered if at >= begin_s]
    if len(recent) < settings.least_queries:
        return None
    # A window that is not yet full has begun with its first query.
    span_s = max(now_s - min(at for at, _ in recent), 1e-3)
    return OfferedLoad(len(recent) / span_s, tuple(n for _, n in recent))


def decide(
    present: Policy,
    load: OfferedLoad,
    found: BestPolicy,
    since_s: float,
    now_s: float,
    settings: RetuneSettings,
) -> Change | None:
    """The change that is worth making, if any.

    Args:
        since_s: when the present policy was taken into service.
    """
    if found.policy == present or now_s - since_s < settings.hold_s:
        return None
    if found.capacity_qps <= (1 + settings.gain) * found.present_qps:
        return None
    why = (
        f"{len(load.sizes)} queries at {load.rate_qps:.1f}/s with {load.mean_items:.0f} items in the mean "
        f"and {load.p95_items:.0f} at p95: simulated to carry {found.capacity_qps:.1f}/s "
        f"instead of {found.present_qps:.1f}/s"
    )
    return Change(found.policy, found.capacity_qps, why)


def searched(policy: Policy, gpu: bool = False) -> bool:
    """Whether a policy is of a kind that is searched in virtual time, with an accelerator or without."""
    return policy.searched and (gpu or GPU not in policy.devices)
