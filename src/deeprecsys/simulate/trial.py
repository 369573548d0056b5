"""A node in virtual time, as a callable that runs one trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.dispatcher import Limits
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.simulate.driver import ServiceTimes
from deeprecsys.simulate.fast import run

_SPREAD = 0x5E41  # the stream of service times, apart from that of the load


class VirtualLoad(Protocol):
    """A seeded source of queries."""

    def __call__(
        self, rate_qps: float, duration_s: float, seed: int, /
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Arrivals, rising, in seconds below `duration_s`, and sizes. One seed is one path, scaled."""
        ...


@dataclass(frozen=True)
class VirtualNode:
    """Workers whose batch times come from a profile; calling it runs a trial (see tune.capacity.Trial).

    Attributes:
        service: batch times, for all devices or for each.
        workers: of each device.
        load: where the queries come from.
        target: sets the warm-up, by the rule of `core.runlog.warmup_s`.
        limits: of the waiting lines.
    """

    service: ServiceTimes | LatencyProfile | Mapping[str, ServiceTimes | LatencyProfile]
    workers: int | Mapping[str, int]
    load: VirtualLoad
    target: Target | None = None
    limits: Limits = field(default_factory=Limits)

    def __call__(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        arrivals, sizes = self.load(rate_qps, duration_s, seed)
        spread = int(np.random.SeedSequence([seed, _SPREAD]).generate_state(1)[0])
        return run(
            policy,
            arrivals,
            sizes,
            self.service,
            self.workers,
            seed=spread,
            warmup_s=warmup_s(duration_s, self.target),
            rate_qps=rate_qps,
            limits=self.limits,
        )
