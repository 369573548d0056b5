"""What a profile predicts of a tuned point: the bound above it, and what the simulator would have said."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import inf, isnan
from typing import Any, NamedTuple

import numpy as np

from deeprecsys.api.virtual import Accelerators, NodeModel, pools
from deeprecsys.bounds.bounds import Bound, BoundKind, two_pools
from deeprecsys.bounds.path import bounds_of
from deeprecsys.bounds.work import batch_times, coalesced_work, least_work, pmf_of
from deeprecsys.core.policy import GPU, Policy
from deeprecsys.core.profile import LatencyProfile, slowdown
from deeprecsys.core.target import Target, percentile
from deeprecsys.search.confirm import Confirmed
from deeprecsys.simulate.fast import run
from deeprecsys.workload.stream import Stream

SECONDS = 60.0  # of virtual time, and of the sample path of the bounds
MOST_QUERIES = 60_000
DRAWS = 9
"""Of the batch times of a trial that is run again: a median is odd."""
QUANTILES = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}
log = logging.getLogger("deeprecsys.api")

MOST_BOUNDED = 1 << 15
"""Items of the largest query whose bounds are computed, which takes time in their square."""
MOST_ITEMS = 1 << 13
"""Of a batch that bounds allow for; a cost per batch spread over more is next to nothing per item."""


def prediction(node: NodeModel, point: Confirmed) -> dict[str, Any]:
    """The parts of the JSON of `tune` that come from the profile.

    The simulator's error is that of the p95 of the very trials that were run live, their queries run again in
    virtual time: simulated over live, less 1. A shared machine may run at another speed minutes later, which
    no simulator can know: so the error is stated also at the point's own pace, all times multiplied by what
    these trials' batches took live over what they took simulated; and bounds are of batch times at that pace.
    With an accelerator it is not known. At that pace too: the capacity of every batch size (`batch_curve`).
    """
    again, live_ms = _Again(node, point), point.probe.summary.p95_ms
    simulated, pace = again.simulated, again.pace
    return {
        **again.bounds(),
        "batch_curve": replace(node, profile=node.profile.slowed(pace or 1.0)).curve(),
        "simulated": simulated.latency_ms,
        "simulator_error": simulated.latency_ms["p95_ms"] / live_ms - 1,
        "pace": pace,
        "paced_simulator_error": pace and again.run(again.profile).latency_ms["p95_ms"] / live_ms - 1,
    }


def bound_qps(node: NodeModel, point: Confirmed) -> float:
    """What no policy of a point's kind exceeds at the pace of the point's own trials; infinite where no bound
    is computed."""
    found = _Again(node, point).bounds()
    if not found:
        return inf
    rate: float = found["bounds"][f"{found['fraction_of_bound']['bound']}_qps"]
    return rate


class Simulated(NamedTuple):
    """What a probe's trials were in virtual time: percentiles of all together, and worker-seconds."""

    latency_ms: dict[str, float]
    busy_s: float


class _Again:
    """The trials that confirmed a point, run again in virtual time.

    Attributes:
        simulated: what they were by the profile as it was measured.
        pace: their worker-seconds live over these; None where it is not known.
        profile: the batch times at that pace.
    """

    def __init__(self, node: NodeModel, point: Confirmed) -> None:
        self._node, self._point = node, point
        self._trials = [
            (replace(node.workload, seed=r.seed).stream(point.qps, duration_s=r.offered_s), r)
            for r in point.probe.reruns
        ]
        live_s = sum(int(stream.size.sum()) * r.seconds_per_item for stream, r in self._trials)
        self.simulated = self.run(node.profile)
        self.pace = None if isnan(live_s) or node.gpu else live_s / self.simulated.busy_s
        host = slowdown(node.profile.host_s, point.qps, node.workers)
        self.profile = node.profile.slowed(self.pace * host) if self.pace else node.profile

    def bounds(self) -> dict[str, Any]:
        """The bounds at that pace, and the share of its own that the point reached."""
        node, qps = self._node, self._point.qps
        stream = node.workload.stream(qps, queries=int(min(SECONDS * qps, MOST_QUERIES)))
        return bounds_document(
            self.profile, node.workers, node.target, stream, self._point.policy, qps, node.gpu
        )

    def run(self, profile: LatencyProfile) -> Simulated:
        """By a profile's batch times: the median of several draws of them."""
        services, counts = pools(profile, self._node.workers, self._node.gpu)
        drawn, busy_s = [], []
        for draw in range(DRAWS):
            logs = [
                run(
                    self._point.policy, stream.arrival_s, stream.size, services, counts,
                    seed=DRAWS * k + draw, warmup_s=r.warmup_s, rate_qps=stream.rate_qps,
                )
                for k, (stream, r) in enumerate(self._trials)
            ]  # fmt: skip
            latency = np.concatenate([log.latency_s[log.measured] for log in logs])
            drawn.append([1e3 * percentile(latency, q) for q in QUANTILES.values()])
            busy_s.append(sum(log.busy_s for log in logs))
        found = np.median(drawn, axis=0)
        return Simulated(dict(zip(QUANTILES, found.tolist(), strict=True)), float(np.median(busy_s)))


def bounds_document(
    profile: LatencyProfile,
    workers: int,
    target: Target,
    stream: Stream,
    policy: Policy,
    met_qps: float | None,
    gpu: Accelerators | None = None,
) -> dict[str, Any]:
    """What no policy exceeds on a sample path, and the share of it that one reached.

    Batch times are those of all workers busy. Bounds of policies that mix queries in one batch hold for
    batches of up to the largest query, the largest measured batch or this policy's, whichever is most.

    Args:
        stream: the sample path.
        policy: whose bound the fraction is of: one that mixes queries is held against one that allows it.
        met_qps: the rate at which it met the target; None where it did not.
        gpu: the second pool; what offloads is held against the bound of two pools.
    """
    largest = int(stream.size.max())
    if largest > MOST_BOUNDED:
        log.warning("bounds: not computed for queries of more than %d items, got %d", MOST_BOUNDED, largest)
        return {}
    own = min(policy.batch_size or MOST_ITEMS, MOST_BOUNDED)
    longest = max(largest, min(max(own, *(p.batch for p in profile.points)), MOST_ITEMS))
    stage = {"stage_s": profile.stage_s, "staged_s": profile.staged_s} if policy.user_first else {}
    found = {
        mixes: bounds_of(
            batch_times(profile, longest if mixes else largest, workers),
            workers, target, stream.arrival_s, stream.size, rate_qps=stream.rate_qps, coalescing=mixes,
            **({} if mixes else stage),
        )
        for mixes in (False, True)
    }  # fmt: skip
    bound = found[policy.merges_queries][BoundKind.O_FCFS]
    if gpu:
        for mixes in (False, True):
            both = two_pools_bound(profile, workers, gpu, stream, longest if mixes else largest, mixes)
            found[mixes][both.kind] = both
        if GPU in policy.devices:
            bound = found[policy.merges_queries][BoundKind.TWO_POOLS]
    return {
        "bounds": {f"{b.name}_qps": b.rate_qps for bounds in found.values() for b in bounds.values()},
        "fraction_of_bound": bound.fraction(met_qps) if met_qps else None,
    }


def two_pools_bound(
    profile: LatencyProfile, workers: int, gpu: Accelerators, stream: Stream, longest: int, mixes: bool
) -> Bound:
    """The highest rate that CPU workers and accelerators carry together, whatever the latency.

    Without regard to the target, as some queries may be late: then it holds for every policy that keeps
    each query on one device.
    """
    largest = int(stream.size.max())
    on_cpu, on_gpu = batch_times(profile, longest, workers), batch_times(gpu.profile, longest)
    if mixes:
        work = coalesced_work(on_cpu, largest), coalesced_work(on_gpu, largest)
    else:
        work = least_work(on_cpu), on_gpu
    rate = two_pools(*work, pmf_of(stream.size), workers, gpu.workers).rate_qps
    return Bound(BoundKind.TWO_POOLS, rate, mixes)


def offloaded_share(policy: Policy, stream: Stream) -> float | None:
    """The share of a path's items that a policy with a threshold sends to the accelerator, exactly; None
    where the state of the node decides."""
    above = policy.offload_above
    if above is None:
        return 0.0
    if policy.name == "earliest":
        return None
    return float(stream.size[stream.size > above].sum() / stream.size.sum())
