"""What all figures share: platforms, capacities found once, and how accurate they are to be."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy import DeepRecSched, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.target import LEVELS, Target
from deeprecsys.paper.platforms import Anchor, CpuSpec, eager, gtx_1080_ti, modelled, work_of
from deeprecsys.paper.platforms.accelerator import TRANSFER_SHARE
from deeprecsys.paper.platforms.known import BROADWELL, SKYLAKE
from deeprecsys.paper.trial import FigureCapacity, FigureTrial
from deeprecsys.search.history import thresholds
from deeprecsys.simulate.table import Tabulated
from deeprecsys.workload.stream import Workload
from deeprecsys.zoo import MODELS as ZOO

SPECS: Mapping[str, CpuSpec] = {"Skylake": SKYLAKE, "Broadwell": BROADWELL}
BATCHES = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
FEW_BATCHES = (32, 128, 512)
WITHIN = 0.02
"""Relative: two operating points whose capacities differ by less are as good as each other. It covers the
tolerances of two searches and the difference between two paths of that length."""


def medium_s(model: str) -> float:
    """The paper's medium target for one of its models, seconds."""
    target_ms = ZOO[model].medium_target_ms
    assert target_ms is not None
    return 1e-3 * target_ms


@dataclass(frozen=True, slots=True)
class Case:
    """A model on a platform under a workload, for a target.

    Attributes:
        level: of the target: low, medium or high.
        platform: of `SPECS`.
        transfer: whether the accelerator's times include input transfer.
    """

    model: str
    level: str = "medium"
    platform: str = "Skylake"
    sizes: str = "production"
    transfer: bool = True

    @property
    def target(self) -> Target:
        return Target(latency_s=medium_s(self.model) * LEVELS[self.level])


T = TypeVar("T")
P = ParamSpec("P")
Memo = dict[tuple[Hashable, ...], Any]
"""What was computed, by its name and arguments."""
Computed = Callable[Concatenate["Study", P], T]


def memoised(name: str, reading: bool = False) -> Callable[[Computed[P, T]], Computed[P, T]]:
    """Keeps the results of a function of a study, under a name, by its other arguments.

    Args:
        reading: they depend on what the published speed-ups are taken to be over.
    """

    def wrap(compute: Computed[P, T]) -> Computed[P, T]:
        @wraps(compute)
        def method(study: Study, /, *args: P.args, **kwargs: P.kwargs) -> T:
            key = (name, *((study.gpu_reference,) if reading else ()), *args)
            if key not in study.memo:
                study.memo[key] = compute(study, *args, **kwargs)
            return cast(T, study.memo[key])

        return method

    return wrap


class Study:
    """Capacities on sample paths, each computed once.

    Args:
        quick: fewer queries and batch sizes.
        profiles: where the measured profiles of this machine lie.
        specs: the platforms' constants, by name.
        anchor: measured batches that the platforms' times are scaled from, by platform; None is the analytic
            roofline. By default eager torch's.
        batches: sizes that are tried.
        model_of: the zoo's name for a figure's: its artefact variant, say.
        spread: of modelled batch times.
        transfer_share: of the accelerator's time.
        gpu_reference: how many cores the published speed-ups are taken to be over.
    """

    def __init__(
        self,
        *,
        quick: bool = False,
        profiles: Path | None = None,
        specs: Mapping[str, CpuSpec] = SPECS,
        anchor: Callable[[str], Anchor | None] = lambda platform: eager(),
        batches: Sequence[int] | None = None,
        model_of: Callable[[str], str] = str,
        spread: float = 0.0,
        transfer_share: float | None = None,
        gpu_reference: int = 1,
    ) -> None:
        self.memo: Memo = {}
        self.quick, self.profiles, self.specs = quick, profiles, specs
        self.batches = tuple(batches or (FEW_BATCHES if quick else BATCHES))
        self._anchor, self._model_of, self._spread = anchor, model_of, spread
        self._transfer_share = TRANSFER_SHARE if transfer_share is None else transfer_share
        self.gpu_reference = gpu_reference
        self._cpu = cache(self._cpu_profile)
        self._gpu = cache(self._gpu_profile)
        self._path = cache(self._unit_path)

    def with_card_over(self, cores: int) -> Study:
        """This study with a card whose published speed-ups are over `cores` cores. The memo is shared."""
        other = copy(self)
        other.gpu_reference = cores
        other._gpu = cache(other._gpu_profile)
        return other

    def cpu(self, model: str, platform: str) -> LatencyProfile:
        """The profile of a model on a platform."""
        return self._cpu(model, platform)[0]

    def table(self, model: str, platform: str) -> Tabulated:
        """The profile as a table of times."""
        return self._cpu(model, platform)[1]

    def static_batch(self, case: Case) -> int:
        """The paper's static batch size: 1000 over the cores (facts §4), whatever the distribution."""
        return Static.baseline(1000, self.specs[case.platform].cores).batch_size

    def score(
        self, case: Case, batch: int, offload_above: int | None = None, floor: float = 0.0
    ) -> FigureCapacity:
        """The capacity of an operating point; 0 queries/s where it does not exceed the floor."""
        policy = DeepRecSched(batch, offload_above)
        return self._trial(case).capacity(policy, floor or self._hint(case), floor)

    @memoised("curve")
    def curve(self, case: Case) -> tuple[FigureCapacity, ...]:
        """Every batch size on the CPU alone."""
        sizes = sorted({*self.batches, self.static_batch(case), 1000})
        return tuple(self.score(case, b) for b in sizes)

    def static(self, case: Case) -> FigureCapacity:
        return next(f for f in self.curve(case) if f.batch_size == self.static_batch(case))

    def tuned(self, case: Case) -> FigureCapacity:
        """The best of the first climb."""
        return max(self.curve(case), key=lambda f: f.qps)

    def as_good(self, case: Case) -> tuple[int, int]:
        """The least and the greatest batch size as good as the best."""
        good = [f.batch_size for f in self.curve(case) if f.qps >= (1 - WITHIN) * self.tuned(case).qps]
        return min(good), max(good)

    def batch_rises(self, of: Case, to: Case) -> int:
        """1 where the second case needs larger batches, -1 where smaller ones; 0 where some size is as good
        as the best for both."""
        first, second = self.as_good(of), self.as_good(to)
        return int(second[0] > first[1]) - int(second[1] < first[0])

    @memoised("thresholds", reading=True)
    def by_threshold(self, case: Case) -> tuple[FigureCapacity, ...]:
        """The second climb: every threshold at the best batch size."""
        batch = self.tuned(replace(case, transfer=True)).batch_size
        return tuple(self.score(case, batch, n) for n in thresholds(1000)[:: 4 if self.quick else 1])

    @memoised("card", reading=True)
    def with_gpu(self, case: Case) -> FigureCapacity:
        """The best of the second climb, or the CPU alone: a threshold that does not beat the best so far is
        given up after one run."""
        best = self.tuned(replace(case, transfer=True))
        for n in reversed(thresholds(1000)[:: 4 if self.quick else 1]):
            found = self.score(case, best.batch_size, n, floor=best.qps)
            best = max(best, found, key=lambda f: f.qps)
        return best

    def threshold_rises(self, of: Case, to: Case) -> int:
        """1 where the best threshold of the second case is greater, -1 where it is less; 0 where that of the
        first is as good there: a difference that the search cannot resolve."""
        first, second = self.with_gpu(of), self.with_gpu(to)
        a, b = (1 << 30 if x.offload_above is None else x.offload_above for x in (first, second))
        if a == b:
            return 0
        return 0 if self._suits_both(of, to) else (1 if b > a else -1)

    @memoised("as good", reading=True)
    def _suits_both(self, of: Case, to: Case) -> bool:
        """Whether the best threshold of the first case is as good as the best for the second."""
        first, second = self.with_gpu(of), self.with_gpu(to)
        policy = DeepRecSched(second.batch_size, first.offload_above)
        return self._trial(to).meets(policy, (1 - WITHIN) * second.qps)

    @memoised("quickest")
    def quickest(self, case: Case, load: float) -> int:
        """The batch size of the least p95 at a share of the static capacity."""
        rate, trial = load * self.static(case).qps, self._trial(case)
        sizes = [x.batch_size for x in self.curve(case) if x.qps > rate]
        return min(
            sizes or [self.tuned(case).batch_size], key=lambda b: trial.found(DeepRecSched(b), rate).p95_ms
        )

    def _hint(self, case: Case) -> float:
        profile, cores = self.cpu(case.model, case.platform), self.specs[case.platform].cores
        mean = float(Workload.parse(sizes=case.sizes).sizes.describe()["mean"])
        return 0.8 * cores / (mean * profile.seconds(128, cores) / 128)

    def measured(
        self, profile: LatencyProfile, cores: int, case: Case
    ) -> tuple[FigureCapacity, FigureCapacity] | None:
        """Static and tuned on a measured profile, or one scaled from it; None where static cannot."""
        table = (profile, Tabulated(profile))
        static = Static.baseline(1000, cores).batch_size
        hint = 0.8 * cores / (139 * profile.seconds(128, cores) / 128)
        queries = int(min(max(20 * case.target.latency_s * hint, 1500 if self.quick else 8000), 60_000))
        unit, size = self._path(case.sizes, queries)
        trial = FigureTrial(unit, size, case.target, table, table, cores)

        sizes = sorted({*(FEW_BATCHES if self.quick else BATCHES[2:]), static, 1000})
        found = {b: trial.capacity(DeepRecSched(b), hint) for b in sizes}
        best = max(found.values(), key=lambda f: f.qps)
        return (found[static], best) if found[static].qps else None

    def _trial(self, case: Case) -> FigureTrial:
        spans = 4 if self.quick else 12
        least, most = (1200, 12_000) if self.quick else (8000, 50_000)
        queries = int(min(max(spans * case.target.latency_s * self._hint(case), least), most))
        unit, size = self._path(case.sizes, queries)
        cpu, gpu = self._cpu(case.model, case.platform), self._gpu(case.model, case.transfer)
        return FigureTrial(unit, size, case.target, cpu, gpu, self.specs[case.platform].cores)

    def _unit_path(self, sizes: str, queries: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        stream = Workload.parse(sizes=sizes).stream(1.0, queries=queries)
        return stream.arrival_s, stream.size

    def _cpu_profile(self, model: str, platform: str) -> tuple[LatencyProfile, Tabulated]:
        profile = self._core(model, platform, self.specs[platform], None)
        return profile, Tabulated(profile)

    def _core(self, model: str, platform: str, spec: CpuSpec, cores: int | None) -> LatencyProfile:
        """The profile of a model on some cores of a machine."""
        work, anchor = work_of(ZOO[self._model_of(model)]), self._anchor(platform)
        profile_of = anchor.profile if anchor else modelled
        return replace(profile_of(spec, work, cores=cores, spread=self._spread), model=model)

    def _gpu_profile(self, model: str, transfer: bool) -> tuple[LatencyProfile, Tabulated]:
        """Over the Skylake of the facts, whatever constant is varied: the card does not change with it."""
        skylake = self._core(model, SKYLAKE.name, SKYLAKE, 1)
        share, cores = self._transfer_share, self.gpu_reference
        profile = gtx_1080_ti(skylake, transfer=transfer, transfer_share=share, reference_cores=cores)
        return profile, Tabulated(profile)
