"""A node in virtual time: what profiles say of its devices, its load, and searches of its policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.api.experiment import Experiment
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


class Ranked(NamedTuple):
    """Policies that were searched in virtual time, and the baseline that is compared with them."""

    search: Search
    first: Evaluation
    ranking: Ranking

    @property
    def best(self) -> Policy:
        """The policy that carries most; the baseline where none meets the target."""
        return self.search.best.policy if self.search.best else self.first.policy

    @property
    def qps(self) -> float:
        """What it carries; 0 where none meets the target."""
        return self.search.best.qps if self.search.best else 0.0


def possible(kinds: Sequence[type[Policy]], profile: LatencyProfile) -> list[type[Policy]]:
    """The policies that a profile's model allows: user stages where it has one."""
    return [kind for kind in kinds if profile.stage_s or not kind.user_first]


@dataclass(frozen=True)
class Policies:
    """The policies and knobs that a search may try, on a node.

    Attributes:
        largest: items of the largest query; sizes: a sample of all sizes.
        gpu: whether there is an accelerator, whose threshold is then searched too.
        splits: queries may be cut.
    """

    target: Target
    workers: int
    largest: int
    sizes: NDArray[np.int32]
    gpu: bool = False
    splits: bool = True

    @property
    def static(self) -> Static:
        """The static baseline."""
        return Static.baseline(self.largest, self.workers if self.splits else 1)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes to try."""
        return batch_sizes(self.largest, self.static.batch_size) if self.splits else (self.largest,)

    @property
    def thresholds(self) -> tuple[int, ...]:
        """The offload thresholds to try; none where there is no accelerator."""
        return thresholds(self.largest, self.sizes) if self.gpu else ()

    def saturation_qps(self, profile: LatencyProfile, batch_size: int | None = None) -> float:
        """The rate at which all workers would be busy, by default with the baseline's batches."""
        return saturation_qps(profile, batch_size or self.static.batch_size, self.sizes, self.workers)

    def search(self, kinds: Sequence[type[Policy]]) -> Search:
        """A search of these policies and all values of their knobs."""
        return model_search(self.batches, self.thresholds, kinds=kinds, latency_s=self.target.latency_s)

    def ranked(
        self,
        path: PathTrial,
        profile: LatencyProfile,
        kinds: Sequence[type[Policy]] = (),
        first: Policy | None = None,
    ) -> Ranked:
        """Search policies on one sample path of a node that a profile describes.

        Args:
            kinds: by default all that ask for it.
            first: compared with them; by default the static baseline.
        """
        ranking = Ranking(path, self.target, self.saturation_qps(profile))
        search = self.search(possible(kinds or policies_to_search(), profile))
        return Ranked(search, rank(ranking, search, first or self.static), ranking)


@dataclass(frozen=True)
class NodeModel:
    """A node that profiles describe, under a workload.

    Attributes:
        workers: of the CPU; gpu: the second pool.
        splits: queries may be cut.
    """

    profile: LatencyProfile
    workload: Workload
    workers: int
    target: Target
    gpu: Accelerators | None = None
    splits: bool = True

    def __post_init__(self) -> None:
        # What queries count for is the profile's to say, where their items are not alike.
        object.__setattr__(self, "workload", self.workload.at_share(self.profile.lookup_share))

    @classmethod
    def of(
        cls, experiment: Experiment, profile: LatencyProfile, workers: int, gpu: Accelerators | None = None
    ) -> NodeModel:
        """The node of an experiment."""
        e = experiment
        return cls(profile, e.workload, workers, e.target, gpu, e.splits)

    @cached_property
    def policies(self) -> Policies:
        """What a search may try."""
        largest, sizes = self.workload.sizes.cap, self.workload.stream(1.0, queries=SAMPLE).size
        return Policies(self.target, self.workers, largest, sizes, self.gpu is not None, self.splits)

    def slowed(self, by: float) -> NodeModel:
        """The node when everything takes `by` times as long, its own process too."""

        def slow(p: LatencyProfile) -> LatencyProfile:
            return replace(p.slowed(by), host_s=by * p.host_s)

        gpu = self.gpu and self.gpu._replace(profile=slow(self.gpu.profile))
        return replace(self, profile=slow(self.profile), gpu=gpu)

    def saturation_qps(self, batch_size: int | None = None) -> float:
        """The rate at which all workers would be busy, by default with the baseline's batches."""
        return self.policies.saturation_qps(self.profile, batch_size)

    def trial(self) -> VirtualNode:
        """Runs trials in virtual time."""

        def load(rate_qps: float, duration_s: float, seed: int) -> Load:
            stream = replace(self.workload, seed=seed).stream(rate_qps, duration_s=duration_s)
            return stream.arrival_s, stream.size

        return VirtualNode(*pools(self.profile, self.workers, self.gpu), load, self.target)

    def path(self, queries: int = PATH_QUERIES) -> SamplePath:
        """One path of the workload."""

        def load(rate_qps: float) -> Load:
            stream = self.workload.stream(rate_qps, queries=queries)
            return stream.arrival_s, stream.size

        node = pools(self.profile, self.workers, self.gpu)
        return SamplePath(*node, load, self.target, self.workload.seed)

    def ranked(self, kinds: Sequence[type[Policy]] = ()) -> Ranked:
        """Search policies, by default all that ask for it, on one path."""
        kinds = kinds or policies_to_search()
        return self.policies.ranked(self.path(path_queries(kinds)), self.profile, kinds)

    def curve(self) -> list[dict[str, Any]]:
        """The capacity of every batch size, cut on arrival, on one path: the JSON of `batch_curve`.

        Empty where queries are not cut, or there is an accelerator.
        """
        if self.gpu or not self.splits:
            return []
        ranking = Ranking(self.path(FEWER_QUERIES), self.target, self.saturation_qps())
        return [
            {"batch_size": size, "qps": ranking.score(DeepRecSched(size)).capacity_qps}
            for size in self.policies.batches
        ]
