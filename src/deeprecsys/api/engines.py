"""What a search by model chooses from: engines, precisions, threads and workers, each with its profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeprecsys.api.experiment import Experiment, check_profile, load_profile
from deeprecsys.api.trials import measure_profile, sample_sizes, start
from deeprecsys.api.virtual import path_queries, sample_path
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.engine import PRECISIONS, EngineSpec
from deeprecsys.engine.dense import installed
from deeprecsys.engine.isa import cpu_flags
from deeprecsys.machine.record import machine_record, same_machine
from deeprecsys.node.node import default_workers
from deeprecsys.search.climbs import model_search
from deeprecsys.search.history import batch_sizes
from deeprecsys.search.rank import Ranking, rank
from deeprecsys.search.saturation import saturation_qps

ENGINES = {"fp32": ("eager", "compiled"), "bf16": ("compiled",), "int8": ("compiled",)}
"""Precision -> the engines that are tried at it where none is named."""
BF16_DENSE = "compiled:openvino"
"""Tried too where the CPU computes in bf16 and the package is there."""
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True)
class EngineChoice:
    """An engine, its threads and the number of workers: what a search by model may choose from."""

    job: Experiment
    profile: LatencyProfile | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankedEngine:
    """What a setup can do in virtual time."""

    setup: EngineChoice
    profile: LatencyProfile
    workers: int
    ranking: Ranking
    policy: Policy | None
    qps: float

    def to_json(self) -> dict[str, Any]:
        node = self.setup.job.node
        return {
            "engine": node.engine,
            "precision": node.precision,
            "threads": node.threads,
            "workers": self.workers,
            "simulated_qps": self.qps,
            **(self.policy.describe() if self.policy else {}),
        }


def setups_of(options: dict[str, Any], profile_files: tuple[Path, ...]) -> list[EngineChoice]:
    """What is to be tried: the given profiles' engines and threads, or those that the options name.

    Every precision from the one allowed up to fp32 is tried, the lowest first, with every engine that
    computes in it.

    Raises:
        InputError: an option's value cannot be.
    """
    engines, threads = options.pop("engines"), options.pop("threads_tried")
    if profile_files:
        return [from_profile(file, options, engines[:1] or ("eager",)) for file in profile_files]
    allowed = PRECISIONS[: PRECISIONS.index(options["precision"]) + 1]
    return [
        EngineChoice(Experiment.resolve(**{**options, "precision": p}, engine=e, threads=t))
        for p in reversed(allowed)
        for e in engines_at(p, engines)
        for t in threads
    ]


def engines_at(precision: str, named: tuple[str, ...]) -> tuple[str, ...]:
    """Of the engines named, those that compute in a precision; the usual ones where none is named.

    Raises:
        InputError: no such engine.
    """
    if named:
        return tuple(e for e in named if precision in EngineSpec.parse(e).precisions)
    usual = ENGINES[precision]
    if precision != "fp32" and BF16_FLAGS & cpu_flags() and "openvino" in installed():
        usual += (BF16_DENSE,)
    return usual


def from_profile(file: Path, options: dict[str, Any], engine: tuple[str, ...]) -> EngineChoice:
    """The setup that a profile was measured in; one written by hand names no engine, and gets the first."""
    profile = load_profile(file)
    named = engine[0] if profile.engine == "unknown" else profile.engine
    job = Experiment.resolve(
        **{**options, "precision": profile.precision}, engine=named, threads=profile.threads
    )
    check_profile(file, profile, job)
    elsewhere = profile.machine and not same_machine(dict(profile.machine), machine_record())
    return EngineChoice(job, profile, (f"{file} was measured on another machine",) if elsewhere else ())


def tried_out(setup: EngineChoice, profile_s: float, kinds: Sequence[type[Policy]]) -> RankedEngine:
    """Measure a setup's batch times, where they are not known, and find its best policy in virtual time.

    Args:
        kinds: the policies to search.
    """
    job, profile = setup.job, setup.profile
    if profile is None:
        with start(job.on_cpu()) as node:
            profile, workers = measure_profile(node, job, profile_s), node.workers
    else:
        workers = job.node.workers or default_workers(job.node)
    static = job.baseline(workers)
    hint = saturation_qps(profile, static.batch_size, sample_sizes(job), workers)
    path = sample_path(profile, job.workload, workers, job.target, path_queries(kinds))
    ranking = Ranking(path, job.target, hint)
    search = model_search(sizes_of(job, workers), kinds=kinds, latency_s=job.target.latency_s)
    rank(ranking, search, static)
    best = search.best
    return RankedEngine(
        setup, profile, workers, ranking, best.policy if best else None, best.qps if best else 0.0
    )


def sizes_of(job: Experiment, workers: int) -> tuple[int, ...]:
    """The batch sizes to try."""
    if not job.splits:
        return (job.workload.sizes.cap,)
    return batch_sizes(job.workload.sizes.cap, job.baseline(workers).batch_size)
