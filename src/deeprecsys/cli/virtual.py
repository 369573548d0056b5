"""A profile, a workload and a number of workers as what searches in virtual time ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import Summary, summarise, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.table import Tabulated
from deeprecsys.simulate.trial import VirtualNode
from deeprecsys.workload.stream import Workload

PATH_QUERIES = 40_000
"""Of the sample path that ranks candidates: 2,000 queries above its 95th percentile."""


@dataclass(frozen=True)
class StreamLoad:
    """A workload as the load of a `VirtualNode`."""

    workload: Workload

    def __call__(
        self, rate_qps: float, duration_s: float, seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        stream = replace(self.workload, seed=seed).stream(rate_qps, duration_s=duration_s)
        return stream.arrival_s, stream.size


def virtual_node(
    profile: LatencyProfile, workload: Workload, workers: int, target: Target | None
) -> VirtualNode:
    """The node that a profile describes."""
    return VirtualNode(Tabulated(profile), workers, StreamLoad(workload), target)


class SamplePath:
    """Runs one path of the workload, at any rate: `tune.by_model.PathTrial`."""

    def __init__(
        self,
        profile: LatencyProfile,
        workload: Workload,
        workers: int,
        target: Target,
        queries: int = PATH_QUERIES,
    ) -> None:
        self._service, self._workers, self._target = Tabulated(profile), workers, target
        self._workload, self._queries = workload, queries

    def __call__(self, policy: Policy, rate_qps: float) -> Summary:
        stream = self._workload.stream(rate_qps, queries=self._queries)
        log = run(
            policy,
            stream.arrival_s,
            stream.size,
            self._service,
            self._workers,
            seed=self._workload.seed,
            warmup_s=warmup_s(float(stream.arrival_s[-1]), self._target),
            rate_qps=rate_qps,
        )
        return summarise(log, self._target)
