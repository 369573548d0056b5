"""`tune`: the main job, by model or by a live climb."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from deeprecsys.cli import options as opt
from deeprecsys.cli.live import (
    LiveTrials,
    accelerated,
    baseline,
    document,
    measure_gpu,
    measure_profile,
    offline_qps,
    sample_sizes,
    start,
)
from deeprecsys.cli.output import emit, report_on, run_directory
from deeprecsys.cli.predict import offloaded_share, prediction
from deeprecsys.cli.quality import quality_of
from deeprecsys.cli.searching import Listener, tune_settings
from deeprecsys.cli.setup import Job, check_profile, load_profile
from deeprecsys.cli.virtual import Accelerators, SamplePath, virtual_node
from deeprecsys.core.errors import positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.engine import PRECISIONS, check, computes_in
from deeprecsys.engine.dense import installed
from deeprecsys.engine.isa import cpu_flags
from deeprecsys.node.node import Node, default_workers
from deeprecsys.report import text
from deeprecsys.report.machine import machine_record, same_machine
from deeprecsys.tune.by_model import ModelSettings, Ranking, tune_by_model
from deeprecsys.tune.hill_climb import HillClimb
from deeprecsys.tune.neighbours import model_search
from deeprecsys.tune.search import batch_sizes, thresholds
from deeprecsys.tune.tuner import TuneResult, tune
from deeprecsys.tune.work import saturation_qps

PROFILE_S = 20.0
ENGINES = {"fp32": ("eager", "compiled"), "bf16": ("compiled",), "int8": ("compiled",)}
"""Precision -> the engines that are tried at it where none is named."""
BF16_DENSE = "compiled:openvino"
"""Tried too where the CPU computes in bf16 and the package is there."""
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
SHARE_QUERIES = 100_000


@click.command("tune")
@opt.model
@opt.target
@opt.workload
@opt.nodes
@opt.accelerator
@click.option("--profile", "profile_files", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
              help="A profile measured before, with its engine and threads; several may be given. "
                   "Without one they are measured first.")  # fmt: skip
@click.option("--method", type=click.Choice(["model", "live"]), default="model", show_default=True,
              help="Search by simulation on the profile, or the paper's climb under live load.")  # fmt: skip
@opt.search
@opt.output
def tune_command(
    profile_files: tuple[Path, ...],
    method: str,
    budget: float | None,
    json_file: str | None,
    out_dir: Path | None,
    **options: Any,
) -> None:
    """Find the operating point that carries the most queries per second of MODEL within the target.

    Measures batch times, searches engines, policies and their knobs in virtual time, and runs the winner and
    the static baseline live, side by side, with load that nothing was chosen by. With --method live the
    search itself is live, on the first engine named: from batch size 1 up, as long as the rate rises.
    """
    setups = setups_of(options, profile_files)
    job = setups[0].job
    if budget is not None:
        positive("--budget", budget)
    settings = tune_settings(job.target, budget)
    profile_s = min(PROFILE_S, settings.climb_budget_s / 4)
    with ExitStack() as stack:
        out = stack.enter_context(run_directory(out_dir, job.configuration()))
        several = method == "model" and len(setups) > 1
        tried = [tried_out(setup, profile_s) for setup in setups] if several else []
        best = max(tried, key=lambda t: t.qps, default=None)
        job = best.setup.job if best else job
        exact = job.node.precision == "fp32"
        quality = None if exact else quality_of(replace(job, node=replace(job.node, threads=1)))
        known = best.profile if best else setups[0].profile
        ready, emulated = stack.enter_context(accelerated(job, known, profile_s))
        node = stack.enter_context(start(ready))
        profile = known or measure_profile(node, job, profile_s)
        gpu = accelerators(node, job, emulated, profile_s)
        hint = saturation_qps(profile, baseline(node, job).batch_size, sample_sizes(job), node.workers)
        listener = stack.enter_context(Listener(job.node.model, out, settings))
        if method == "live":
            found = tune(
                LiveTrials(node, job, listener),
                job.target,
                static=baseline(node, job),
                search=HillClimb(sizes_of(job, node.workers), thresholds_of(job)),
                hint_qps=hint,
                settings=settings,
                seed=job.node.seed,
                progress=listener,
            )
        else:
            path = SamplePath(profile, job.workload, node.workers, job.target, gpu=gpu)
            ranking = best.ranking if best and gpu is None else Ranking(path, job.target, hint)
            found = by_model(node, job, profile, ranking, listener, budget, gpu)
        result = {
            **document(node, job, gpu.profile if gpu else None),
            "profile": profile.to_json(),
            **found.to_json(),
            "precision_allowed": options["precision"],
            "quality": quality,
            "setups": [t.to_json() for t in tried],
            "warnings": [w for setup in setups for w in setup.warnings],
        }
        result["tuned"] |= {
            "engine": job.node.engine,
            "precision": job.node.precision,
            "threads": job.node.threads,
            "workers": node.workers,
        }
        for point in filter(None, (result["static"], result["tuned"])):
            point["energy"] = listener.energy(point)
        result["offline_qps"] = offline_qps(node, job, found.tuned.policy, hint)
        result |= prediction(profile, job, node.workers, found.tuned, gpu)
        if gpu:
            sizes = job.workload.stream(1.0, queries=SHARE_QUERIES)
            result["tuned"]["gpu_share"] = offloaded_share(found.tuned.policy, sizes)
        if out:
            out.result(result)
    emit(text.tune(result), result, json_file)
    report_on(out_dir)


@dataclass(frozen=True)
class Setup:
    """An engine, its threads and the number of workers: what a search by model may choose from."""

    job: Job
    profile: LatencyProfile | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tried:
    """What a setup can do in virtual time."""

    setup: Setup
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


def setups_of(options: dict[str, Any], profile_files: tuple[Path, ...]) -> list[Setup]:
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
        Setup(Job.resolve(**{**options, "precision": p}, engine=e, threads=t))
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
        return tuple(e for e in named if check(e) and precision in computes_in(e))
    usual = ENGINES[precision]
    if precision != "fp32" and BF16_FLAGS & cpu_flags() and "openvino" in installed():
        usual += (BF16_DENSE,)
    return usual


def from_profile(file: Path, options: dict[str, Any], engine: tuple[str, ...]) -> Setup:
    """The setup that a profile was measured in; one written by hand names no engine, and gets the first."""
    profile = load_profile(file)
    named = engine[0] if profile.engine == "unknown" else profile.engine
    job = Job.resolve(**{**options, "precision": profile.precision}, engine=named, threads=profile.threads)
    check_profile(file, profile, job)
    elsewhere = profile.machine and not same_machine(dict(profile.machine), machine_record())
    return Setup(job, profile, (f"{file} was measured on another machine",) if elsewhere else ())


def tried_out(setup: Setup, profile_s: float) -> Tried:
    """Measure a setup's batch times, where they are not known, and find its best policy in virtual time."""
    job, profile = setup.job, setup.profile
    if profile is None:
        with start(job.on_cpu()) as node:
            profile, workers = measure_profile(node, job, profile_s), node.workers
    else:
        workers = job.node.workers or default_workers(job.node)
    static = job.baseline(workers)
    hint = saturation_qps(profile, static.batch_size, sample_sizes(job), workers)
    ranking = Ranking(SamplePath(profile, job.workload, workers, job.target), job.target, hint)
    search = model_search(sizes_of(job, workers))
    search.tell(static, ranking.score(static, None))
    ranking.finish(search)
    best = search.best
    return Tried(setup, profile, workers, ranking, best.policy if best else None, best.qps if best else 0.0)


def by_model(
    node: Node,
    job: Job,
    profile: LatencyProfile,
    ranking: Ranking,
    listener: Listener,
    budget_s: float | None,
    gpu: Accelerators | None = None,
) -> TuneResult:
    """Tune a job on its node by simulation on a profile; `budget_s` is for the live confirmation."""
    settings = ModelSettings.of(job.target, budget_s) if budget_s else ModelSettings.of(job.target)
    return tune_by_model(
        LiveTrials(node, job, listener),
        virtual_node(profile, job.workload, node.workers, job.target, gpu),
        ranking,
        job.target,
        static=baseline(node, job),
        search=model_search(sizes_of(job, node.workers), thresholds_of(job)),
        settings=settings,
        seed=job.node.seed,
        progress=listener,
    )


def sizes_of(job: Job, workers: int) -> tuple[int, ...]:
    """The batch sizes to try."""
    if not job.splits:
        return (job.workload.sizes.cap,)
    return batch_sizes(job.workload.sizes.cap, job.baseline(workers).batch_size)


def thresholds_of(job: Job) -> tuple[int, ...]:
    """The offload thresholds to try; none where there is no accelerator."""
    return thresholds(job.workload.sizes.cap, sample_sizes(job)) if job.node.gpu else ()


def accelerators(
    node: Node, job: Job, emulated: LatencyProfile | None, budget_s: float
) -> Accelerators | None:
    """The node's accelerators in virtual time: an emulated one's profile, or what a real one measures."""
    if job.node.gpu is None:
        return None
    return Accelerators(emulated or measure_gpu(node, job, budget_s), job.node.gpus)
