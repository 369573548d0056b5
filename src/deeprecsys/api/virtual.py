"""A profile, a workload and a number of workers as what searches in virtual time ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy import CPU, GPU, Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog, Summary, summarise, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.simulate.fast import Services, run
from deeprecsys.simulate.table import Tabulated
from deeprecsys.simulate.trial import VirtualNode
from deeprecsys.workload.stream import Stream, Workload

PATH_QUERIES = 40_000
"""Of the sample path that ranks candidates: 2,000 queries above its 95th percentile."""


class Accelerators(NamedTuple):
    """The second pool of a node in virtual time."""

    profile: LatencyProfile
    workers: int = 1


def pools(
    profile: LatencyProfile, workers: int, gpu: Accelerators | None
) -> tuple[Mapping[str, Tabulated], Mapping[str, int]]:
    """Batch times and workers of each device."""
    services, counts = {CPU: Tabulated(profile)}, {CPU: workers}
    if gpu:
        services[GPU], counts[GPU] = Tabulated(gpu.profile), gpu.workers
    return services, counts


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
    profile: LatencyProfile,
    workload: Workload,
    workers: int,
    target: Target | None,
    gpu: Accelerators | None = None,
) -> VirtualNode:
    """The node that profiles describe."""
    return VirtualNode(*pools(profile, workers, gpu), StreamLoad(workload), target)


def virtual_log(
    policy: Policy,
    stream: Stream,
    service: Services,
    workers: int | Mapping[str, int],
    seed: int,
    target: Target | None,
) -> RunLog:
    """A trial of a stream in virtual time, its warm-up by the usual rule."""
    return run(
        policy,
        stream.arrival_s,
        stream.size,
        service,
        workers,
        seed=seed,
        warmup_s=warmup_s(float(stream.arrival_s[-1]), target),
        rate_qps=stream.rate_qps,
    )


class SamplePath:
    """Runs one path of the workload, at any rate: `tune.by_model.PathTrial`."""

    def __init__(
        self,
        profile: LatencyProfile,
        workload: Workload,
        workers: int,
        target: Target,
        queries: int = PATH_QUERIES,
        gpu: Accelerators | None = None,
    ) -> None:
        self._service, self._workers = pools(profile, workers, gpu)
        self._target = target
        self._workload, self._queries = workload, queries

    def __call__(self, policy: Policy, rate_qps: float) -> Summary:
        return summarise(self.log(policy, rate_qps), self._target)

    def log(self, policy: Policy, rate_qps: float) -> RunLog:
        """The path's run log at a rate."""
        stream = self._workload.stream(rate_qps, queries=self._queries)
        return virtual_log(policy, stream, self._service, self._workers, self._workload.seed, self._target)
