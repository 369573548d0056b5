"""A profile, a workload and a number of workers as what searches in virtual time ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from deeprecsys.core.policy import CPU, GPU, Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.target import Target
from deeprecsys.simulate.fast import COMPILED
from deeprecsys.simulate.table import Tabulated
from deeprecsys.simulate.trial import Load, SamplePath, VirtualNode
from deeprecsys.workload.stream import Workload

PATH_QUERIES = 40_000
"""Queries of the sample path that ranks candidates: 2,000 of them are above its 95th percentile."""


FEWER_QUERIES = 10_000
"""Queries of the path where a policy is searched that the simulator does not compile: that takes longer."""


def path_queries(kinds: Sequence[type[Policy]]) -> int:
    """Queries of the sample path that ranks policies."""
    return PATH_QUERIES if set(kinds) <= set(COMPILED) else FEWER_QUERIES


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


def virtual_node(
    profile: LatencyProfile,
    workload: Workload,
    workers: int,
    target: Target | None,
    gpu: Accelerators | None = None,
) -> VirtualNode:
    """The node that profiles describe, under a workload at a rate."""

    def load(rate_qps: float, duration_s: float, seed: int) -> Load:
        stream = replace(workload, seed=seed).stream(rate_qps, duration_s=duration_s)
        return stream.arrival_s, stream.size

    return VirtualNode(*pools(profile, workers, gpu), load, target)


def sample_path(
    profile: LatencyProfile,
    workload: Workload,
    workers: int,
    target: Target,
    queries: int = PATH_QUERIES,
    gpu: Accelerators | None = None,
) -> SamplePath:
    """One path of the workload on the node that profiles describe."""

    def load(rate_qps: float) -> Load:
        stream = workload.stream(rate_qps, queries=queries)
        return stream.arrival_s, stream.size

    return SamplePath(*pools(profile, workers, gpu), load, target, workload.seed)
