"""A profile, a workload and a number of workers as what searches in virtual time ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.api.policies import policies_to_search
from deeprecsys.core.policy import CPU, GPU, DeepRecSched, Policy, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.target import Target
from deeprecsys.search.climbs import model_search
from deeprecsys.search.history import Evaluation, Search, batch_sizes, thresholds
from deeprecsys.search.rank import PathTrial, Ranking, rank, saturation_qps
from deeprecsys.simulate.fast import COMPILED
from deeprecsys.simulate.table import Tabulated
from deeprecsys.simulate.trial import Load, SamplePath, VirtualNode
from deeprecsys.workload.stream import Workload

SAMPLE = 4000
"""Query sizes that stand for their distribution in an expectation."""
PATH_QUERIES = 40_000
"""Queries of the sample path that ranks candidates: 2,000 of them are above its 95th percentile."""


FEWER_QUERIES = 10_000
"""Queries of the path of a curve, or where a policy is searched that the simulator does not compile."""


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


class Ranked(NamedTuple):
    """Policies that were searched in virtual time, and the baseline that is compared with them."""

    search: Search
    first: Evaluation

    @property
    def best(self) -> Policy:
        """The policy that carries most; the baseline where none meets the target."""
        return self.search.best.policy if self.search.best else self.first.policy


def search_policies(
    path: PathTrial,
    target: Target,
    profile: LatencyProfile,
    workers: int,
    largest: int,
    sizes: NDArray[np.int32],
    gpu: bool = False,
    first: Policy | None = None,
) -> Ranked:
    """Search all policies that ask for it, on one sample path of a node that profiles describe.

    Args:
        largest: items of the largest query; sizes: a sample of all sizes.
        gpu: whether there is an accelerator, whose threshold is then searched too.
        first: compared with them; by default the static baseline.
    """
    static = Static.baseline(largest, workers)
    hint = saturation_qps(profile, static.batch_size, sizes, workers)
    limits = thresholds(largest, sizes) if gpu else ()
    tried = batch_sizes(largest, static.batch_size)
    search = model_search(tried, limits, kinds=policies_to_search(), latency_s=target.latency_s)
    return Ranked(search, rank(Ranking(path, target, hint), search, first or static))


def curve_of(
    profile: LatencyProfile, workload: Workload, workers: int, target: Target
) -> list[dict[str, Any]]:
    """The capacity of every batch size, cut on arrival, on one sample path: the JSON of `batch_curve`."""
    largest = workload.sizes.cap
    static = Static.baseline(largest, workers).batch_size
    hint = saturation_qps(profile, static, workload.stream(1.0, queries=SAMPLE).size, workers)
    ranking = Ranking(sample_path(profile, workload, workers, target, FEWER_QUERIES), target, hint)
    return [
        {"batch_size": size, "qps": ranking.score(DeepRecSched(size)).capacity_qps}
        for size in batch_sizes(largest, static)
    ]


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
