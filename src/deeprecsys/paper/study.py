"""What all figures share: platforms, capacities found once, and how accurate they are to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy import CPU, GPU, DeepRecSched, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog, warmup_s
from deeprecsys.core.target import LEVELS, Target
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.platforms import CpuSpec, gtx_1080_ti, modelled, work_of
from deeprecsys.simulate.platforms.accelerator import TRANSFER_SHARE
from deeprecsys.simulate.platforms.known import BROADWELL, SKYLAKE
from deeprecsys.simulate.table import Tabulated
from deeprecsys.tune.on_path import capacity_on_path
from deeprecsys.tune.search import thresholds
from deeprecsys.workload.stream import Workload
from deeprecsys.zoo import MODELS as ZOO

SPECS: Mapping[str, CpuSpec] = {"Skylake": SKYLAKE, "Broadwell": BROADWELL}
BATCHES = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
FEW_BATCHES = (32, 128, 512)
WITHIN = 0.02
"""Batch sizes whose capacity is within this of the best are as good as it."""


def medium_s(model: str) -> float:
    """The paper's medium target for one of its models, seconds."""
    target_ms = ZOO[model].medium_target_ms
    assert target_ms is not None
    return 1e-3 * target_ms


@dataclass(frozen=True, slots=True)
class Case:
    """A model on a platform under a workload, for a target.

    Attributes:
        model: of the zoo.
        level: of the target: low, medium or high.
        platform: of `SPECS`.
        sizes: the size distribution.
        transfer: whether the accelerator's times include input transfer.
    """

    model: str
    level: str = "medium"
    platform: str = "Skylake"
    sizes: str = "production"
    transfer: bool = True

    @property
    def target(self) -> Target:
        return Target(medium_s(self.model) * LEVELS[self.level])


@dataclass(frozen=True, slots=True)
class Found:
    """An operating point and what it reaches.

    Attributes:
        batch_size, offload_above: its knobs.
        qps: capacity; 0 where the target is met at no load.
        cpu_load, gpu_load: utilisation there, in [0, 1].
        gpu_share: share of all items that the accelerator scores.
        p95_ms, p99_ms: at the capacity.
    """

    batch_size: int
    offload_above: int | None
    qps: float
    cpu_load: float = 0.0
    gpu_load: float = 0.0
    gpu_share: float = 0.0
    p95_ms: float = float("nan")
    p99_ms: float = float("nan")


class Study:
    """Capacities on sample paths, each found once.

    Args:
        quick: fewer queries and batch sizes.
        profiles: where the measured profiles of this machine lie.
        specs: the platforms' constants, by name.
        model_of: the zoo's name for a figure's: its artefact variant, say.
        spread: of modelled batch times.
        transfer_share: of the accelerator's time.
        gpu_reference: how many cores the published speed-ups are taken to be over.
        seed: of the sample path.
    """

    def __init__(
        self,
        *,
        quick: bool = False,
        profiles: Path | None = None,
        specs: Mapping[str, CpuSpec] = SPECS,
        model_of: Callable[[str], str] = str,
        spread: float = 0.0,
        transfer_share: float | None = None,
        gpu_reference: int = 1,
        seed: int = 0,
    ) -> None:
        self.quick, self.profiles, self.specs, self.seed = quick, profiles, specs, seed
        self._model_of, self._spread = model_of, spread
        self._transfer_share = TRANSFER_SHARE if transfer_share is None else transfer_share
        self._gpu_reference = gpu_reference
        self.curve = cache(self._curve)
        self.tuned = cache(self._tuned)
        self.with_gpu = cache(self._with_gpu)
        self.by_threshold = cache(self._by_threshold)
        self.static = cache(self._static)
        self._cpu = cache(self._cpu_profile)
        self._gpu = cache(self._gpu_profile)
        self._path = cache(self._unit_path)

    def cpu(self, model: str, platform: str) -> LatencyProfile:
        """The modelled profile of a model on a platform."""
        return self._cpu(model, platform)[0]

    def table(self, model: str, platform: str) -> Tabulated:
        """The same as a table of times."""
        return self._cpu(model, platform)[1]

    def gpu(self, model: str, transfer: bool = True) -> LatencyProfile:
        return self._gpu(model, transfer)[0]

    def static_batch(self, case: Case) -> int:
        """The paper's static batch size: 1000 over the cores (facts §4), whatever the distribution."""
        return Static.baseline(1000, self.specs[case.platform].cores).batch_size

    def score(self, case: Case, batch: int, offload_above: int | None = None, floor: float = 0.0) -> Found:
        """The capacity of an operating point; 0 queries/s where it does not exceed the floor."""
        policy = DeepRecSched(batch, offload_above)
        trial = self._trial(case)
        hint = floor or self._hint(case)
        qps = capacity_on_path(
            lambda r: trial.meets(policy, r), hint, floor_qps=floor or None, tolerance=4e-3
        )
        return trial.found(policy, qps) if qps else Found(batch, offload_above, 0.0)

    def _curve(self, case: Case) -> tuple[Found, ...]:
        sizes = sorted({*(FEW_BATCHES if self.quick else BATCHES), self.static_batch(case), 1000})
        return tuple(self.score(case, b) for b in sizes)

    def _static(self, case: Case) -> Found:
        return next(f for f in self.curve(case) if f.batch_size == self.static_batch(case))

    def _tuned(self, case: Case) -> Found:
        return max(self.curve(case), key=lambda f: f.qps)

    def as_good(self, case: Case) -> tuple[int, int]:
        """The least and the greatest batch size as good as the best."""
        good = [f.batch_size for f in self.curve(case) if f.qps >= (1 - WITHIN) * self.tuned(case).qps]
        return min(good), max(good)

    def _by_threshold(self, case: Case) -> tuple[Found, ...]:
        """The second climb: every threshold at the best batch size."""
        batch = self.tuned(replace(case, transfer=True)).batch_size
        limits = thresholds(1000)[:: 4 if self.quick else 1]
        return tuple(self.score(case, batch, n) for n in limits)

    def _with_gpu(self, case: Case) -> Found:
        """The best of the second climb, or the CPU alone: a threshold that does not beat the best so far is
        given up after one run."""
        best = self.tuned(replace(case, transfer=True))
        for n in reversed(thresholds(1000)[:: 4 if self.quick else 1]):
            found = self.score(case, best.batch_size, n, floor=best.qps)
            best = max(best, found, key=lambda f: f.qps)
        return best

    def quickest(self, case: Case, load: float) -> int:
        """The batch size of the least p95 at a share of the static capacity."""
        rate, trial = load * self.static(case).qps, self._trial(case)
        sizes = [x.batch_size for x in self.curve(case) if x.qps > rate]
        return min(sizes, key=lambda b: trial.found(DeepRecSched(b), rate).p95_ms)

    def _hint(self, case: Case) -> float:
        profile, cores = self.cpu(case.model, case.platform), self.specs[case.platform].cores
        mean = float(Workload.parse(sizes=case.sizes).sizes.describe()["mean"])
        return 0.8 * cores / (mean * profile.seconds(128, cores) / 128)

    def measured(self, profile: LatencyProfile, cores: int, case: Case) -> tuple[Found, Found] | None:
        """Static and tuned on a measured profile, or one scaled from it; None where static cannot."""
        table = (profile, Tabulated(profile))
        static = Static.baseline(1000, cores).batch_size
        hint = 0.8 * cores / (139 * profile.seconds(128, cores) / 128)
        queries = int(min(max(20 * case.target.latency_s * hint, 1500 if self.quick else 8000), 60_000))
        unit, size = self._path(case.sizes, queries)
        trial = Trial(unit, size, case.target, table, table, cores, self.seed)

        def score(batch: int) -> Found:
            policy = DeepRecSched(batch)
            qps = capacity_on_path(lambda r: trial.meets(policy, r), hint, tolerance=4e-3)
            return trial.found(policy, qps) if qps else Found(batch, None, 0.0)

        found = {b: score(b) for b in sorted({*(FEW_BATCHES if self.quick else BATCHES[2:]), static, 1000})}
        best = max(found.values(), key=lambda f: f.qps)
        return (found[static], best) if found[static].qps else None

    def _trial(self, case: Case) -> Trial:
        spec = self.specs[case.platform]
        spans = 4 if self.quick else 12
        least, most = (1200, 12_000) if self.quick else (8000, 50_000)
        queries = int(min(max(spans * case.target.latency_s * self._hint(case), least), most))
        unit, size = self._path(case.sizes, queries)
        return Trial(
            unit, size, case.target, self._cpu(case.model, case.platform),
            self._gpu(case.model, case.transfer), spec.cores, self.seed,
        )  # fmt: skip

    def _unit_path(self, sizes: str, queries: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        stream = Workload.parse(sizes=sizes, seed=self.seed).stream(1.0, queries=queries)
        return stream.arrival_s, stream.size

    def _cpu_profile(self, model: str, platform: str) -> tuple[LatencyProfile, Tabulated]:
        work = work_of(ZOO[self._model_of(model)])
        profile = replace(modelled(self.specs[platform], work, spread=self._spread), model=model)
        return profile, Tabulated(profile)

    def _gpu_profile(self, model: str, transfer: bool) -> tuple[LatencyProfile, Tabulated]:
        """Over the Skylake of the facts, whatever is varied: the card does not change with our constants."""
        skylake = replace(modelled(SKYLAKE, work_of(ZOO[self._model_of(model)]), cores=1), model=model)
        profile = gtx_1080_ti(
            skylake,
            transfer=transfer,
            transfer_share=self._transfer_share,
            reference_cores=self._gpu_reference,
        )
        return profile, Tabulated(profile)


@dataclass(frozen=True, slots=True)
class Trial:
    """One sample path on one node, at any rate.

    Attributes:
        unit_s: arrivals at one query a second; size: items.
        target: to be met.
        cpu, gpu: profiles, as they are and as tables.
        cores: workers of the CPU; the accelerator has one.
        seed: of the spread of times.
    """

    unit_s: NDArray[np.float64]
    size: NDArray[np.int32]
    target: Target
    cpu: tuple[LatencyProfile, Tabulated]
    gpu: tuple[LatencyProfile, Tabulated]
    cores: int
    seed: int

    def log(self, policy: DeepRecSched, rate: float) -> RunLog:
        at = self.unit_s / rate
        away = policy.offload_above is not None
        service = {CPU: self.cpu[1], GPU: self.gpu[1]} if away else self.cpu[1]
        workers = {CPU: self.cores, GPU: 1} if away else self.cores
        return run(
            policy, at, self.size, service, workers, seed=self.seed, rate_qps=rate,
            warmup_s=warmup_s(float(at[-1]), self.target),
        )  # fmt: skip

    def meets(self, policy: DeepRecSched, rate: float) -> bool:
        """Whether the target is met with everything served, and no device is given more than it can do."""
        log = self.log(policy, rate)
        cpu_load, gpu_load = self.loads(policy, log)
        if max(cpu_load, gpu_load) > 1 or not bool((log.status == 1).all()):
            return False
        latency = log.latency_s[log.measured]
        return bool(np.count_nonzero(latency > self.target.latency_s) <= self.target.miss_rate * len(latency))

    def loads(self, policy: DeepRecSched, log: RunLog) -> tuple[float, float]:
        """Work brought over the time in which it came, of CPU and accelerator."""
        span_s = float(log.arrival_s[-1])
        gpu_s = 0.0
        if policy.offload_above is not None:
            times = self.gpu[1].quantiles(int(self.size.max()))[0, :, 0]
            gpu_s = float(times[self.size[self.size > policy.offload_above]].sum())
        return (log.busy_s - gpu_s) / (self.cores * span_s), gpu_s / span_s

    def found(self, policy: DeepRecSched, rate: float) -> Found:
        log = self.log(policy, rate)
        cpu_load, gpu_load = self.loads(policy, log)
        away = self.size > (policy.offload_above if policy.offload_above is not None else 1 << 30)
        p95, p99 = np.quantile(log.latency_s[log.measured], (0.95, 0.99), method="inverted_cdf")
        return Found(
            policy.batch_size, policy.offload_above, rate, cpu_load, gpu_load,
            float(self.size[away].sum() / self.size.sum()), 1e3 * float(p95), 1e3 * float(p99),
        )  # fmt: skip
