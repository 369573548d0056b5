"""One sample path on one node, on which every capacity of the figures is searched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy import CPU, GPU, DeepRecSched
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog, warmup_s
from deeprecsys.core.target import Target, percentile
from deeprecsys.search.rank import capacity_on_path
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.table import Tabulated

TOLERANCE = 4e-3
"""Relative, of a capacity that is searched on a path."""


@dataclass(frozen=True, slots=True)
class FigureCapacity:
    """An operating point and what it reaches.

    Attributes:
        batch_size, offload_above: its knobs.
        qps: capacity; 0 where the target is met at no load.
        cpu_load, gpu_load: utilisation there, in [0, 1].
        gpu_share: share of all items that the accelerator scores.
        p95_ms: at the capacity.
    """

    batch_size: int
    offload_above: int | None
    qps: float
    cpu_load: float = 0.0
    gpu_load: float = 0.0
    gpu_share: float = 0.0
    p95_ms: float = float("nan")


@dataclass(frozen=True, slots=True)
class FigureTrial:
    """One sample path on one node, at any rate.

    Attributes:
        unit_s: arrivals at one query a second; size: items.
        cpu, gpu: profiles, as they are and as tables.
        cores: workers of the CPU; the accelerator has one.
    """

    unit_s: NDArray[np.float64]
    size: NDArray[np.int32]
    target: Target
    cpu: tuple[LatencyProfile, Tabulated]
    gpu: tuple[LatencyProfile, Tabulated]
    cores: int

    def log(self, policy: DeepRecSched, rate: float) -> RunLog:
        away = policy.offload_above is not None
        service = {CPU: self.cpu[1], GPU: self.gpu[1]} if away else self.cpu[1]
        workers = {CPU: self.cores, GPU: 1} if away else self.cores
        at = self.unit_s / rate
        return run(
            policy, at, self.size, service, workers,
            rate_qps=rate, warmup_s=warmup_s(float(at[-1]), self.target),
        )  # fmt: skip

    def meets(self, policy: DeepRecSched, rate: float) -> bool:
        """Whether the target is met with everything served, and no device is given more than it can do."""
        log = self.log(policy, rate)
        return max(self.loads(policy, log)) <= 1 and log.meets(self.target)

    def capacity(self, policy: DeepRecSched, hint: float, floor: float = 0.0) -> FigureCapacity:
        """The capacity of an operating point; 0 queries/s where it does not exceed the floor."""
        qps = capacity_on_path(
            lambda rate: self.meets(policy, rate), hint, floor_qps=floor or None, tolerance=TOLERANCE
        )
        none = FigureCapacity(policy.batch_size, policy.offload_above, 0.0)
        return self.found(policy, qps) if qps else none

    def loads(self, policy: DeepRecSched, log: RunLog) -> tuple[float, float]:
        """Work brought over the time in which it came, of CPU and accelerator."""
        span_s = float(log.arrival_s[-1])
        gpu_s = 0.0
        if policy.offload_above is not None:
            times = self.gpu[1].quantiles(int(self.size.max()))[0, :, 0]
            gpu_s = float(times[self.size[self.size > policy.offload_above]].sum())
        return (log.busy_s - gpu_s) / (self.cores * span_s), gpu_s / span_s

    def found(self, policy: DeepRecSched, rate: float) -> FigureCapacity:
        log = self.log(policy, rate)
        cpu_load, gpu_load = self.loads(policy, log)
        away = self.size > (policy.offload_above if policy.offload_above is not None else 1 << 30)
        share, p95_s = self.size[away].sum() / self.size.sum(), percentile(log.latency_s[log.measured], 0.95)
        return FigureCapacity(
            policy.batch_size, policy.offload_above, rate, cpu_load, gpu_load, float(share), 1e3 * p95_s
        )
