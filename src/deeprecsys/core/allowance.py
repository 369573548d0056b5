"""What a load that is announced allows for: batches that take longer later, and the network face."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.target import Target

MARGIN = 0.1
"""Share by which batches may take longer than measured: machines were seen to drift by as much in an hour."""
FACE_MOST = 0.8
"""The most of one core that the network face is to use: it is one thread, and beyond that its queue grows."""
FACE_TIMES = 2.0
"""Times of `face_s` that a query's latency has more over the network: its own time, and as much waiting."""
MOST_OF_TARGET = 0.5
"""The most of a target's latency that is taken off for the face, as a share."""

Limit = Literal["workers", "network face"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """Under what a target must still be met at the announced load.

    Attributes:
        margin: share by which all takes longer than it was measured to.
        face_s: CPU seconds of the server's own process per query, over the network; 0 if not measured.
        shared: that process runs on the workers' cores.
    """

    margin: float = 0.0
    face_s: float = 0.0
    shared: bool = True

    def profile(self, measured: LatencyProfile) -> LatencyProfile:
        """The batch times to be allowed for; `host_s` is the face's where that shares the workers' cores."""
        host_s = self.face_s if self.face_s and self.shared else measured.host_s
        return replace(measured.slowed(1 + self.margin), host_s=(1 + self.margin) * host_s)

    def target(self, target: Target) -> Target:
        """What is left of the target's latency for queueing and scoring."""
        face_s = (1 + self.margin) * FACE_TIMES * self.face_s
        return replace(target, latency_s=target.latency_s - min(face_s, MOST_OF_TARGET * target.latency_s))

    @property
    def most_qps(self) -> float:
        """The load that the face itself can carry, queries/s."""
        return FACE_MOST / ((1 + self.margin) * self.face_s) if self.face_s else inf

    def limit(self, qps: float) -> Limit:
        """What keeps a load from being higher."""
        return "network face" if qps >= self.most_qps else "workers"


NOTHING = Allowance()
"""The target is met as it is, by batches as they were measured, without a network face."""
