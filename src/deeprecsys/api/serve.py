"""From the options of `serve` to models in service: profiles, engines, the policies to begin with."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from deeprecsys.api.experiment import Experiment
from deeprecsys.api.policies import check_whole, policy_of
from deeprecsys.api.profiles import LISTWISE, load_profile, measure_gpu, measure_profile, sample_sizes, start
from deeprecsys.api.retuning.decision import BestPolicy
from deeprecsys.api.retuning.resimulate import Question, Resimulator
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import CPU, GPU, Policy, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.machine.record import machine_record, same_machine
from deeprecsys.node.service.hosted_model import ModelConfig
from deeprecsys.report import text
from deeprecsys.zoo.custom import short_name, with_weights

PROFILE_S, GPU_PROFILE_S = 10.0, 5.0
ENGINE = "compiled"
TUNE_QUERIES = 40_000


def named(model_names: tuple[str, ...], weights: Path | None) -> tuple[str, ...]:
    """The models with their weights, each known to clients by a name of its own.

    Raises:
        InputError: two would have the same name, or it is not clear whose the weights are.
    """
    if weights and len(model_names) > 1:
        got = f"{len(model_names)} models"
        raise InputError(f"--weights: expected one MODEL, or MODEL@FILE for each, got {got}")
    names = tuple(with_weights(name, weights) for name in model_names)
    asked = [short_name(name) for name in names]
    if len(set(asked)) < len(asked):
        raise InputError(f"MODEL: expected each once, got {', '.join(asked)}")
    return names


def profiles_in(
    files: tuple[Path, ...], names: Sequence[str], gpu: str | None
) -> dict[tuple[str, str], LatencyProfile]:
    """The given profiles by model and device; one whose engine is `gpu` is of the accelerator."""
    found: dict[tuple[str, str], LatencyProfile] = {}
    for file in files:
        profile = load_profile(file)
        if profile.model not in names:
            raise InputError(
                f"--profile {file}: expected a profile of {', '.join(names)}, got one of {profile.model}"
            )
        key = profile.model, GPU if gpu and profile.engine == gpu else CPU
        if key in found:
            raise InputError(f"--profile {file}: expected one of each model, got a second of {profile.model}")
        if profile.machine and not same_machine(dict(profile.machine), machine_record()):
            click.echo(f"deeprecsys: {file} was measured on another machine", err=True)
        found[key] = profile
    return found


def job_of(name: str, profile: LatencyProfile | None, options: dict[str, Any]) -> Experiment:
    """What is to be served of one model; a profile says with which engine its times were measured."""
    timed = profile.engine if profile and profile.engine != "unknown" else None
    engine = options["engine"] or timed or ENGINE
    if timed and engine != timed:
        raise InputError(f"--engine: expected {timed}, of the profile of {name}, got {engine}")
    job = Experiment.resolve(name, **{**options, "engine": engine})
    if profile:
        if profile.threads != job.node.threads:
            raise InputError(
                f"--threads: expected {profile.threads}, of the profile of {name}, got {job.node.threads}"
            )
        if (precision := job.node.precision) != profile.precision:
            raise InputError(
                f"--precision: expected {profile.precision}, of the profile of {name}, got {precision}"
            )
    return job


def measured(
    job: Experiment, cpu: LatencyProfile | None, gpu: LatencyProfile | None
) -> tuple[LatencyProfile, LatencyProfile | None]:
    """The batch times of each device; what is not known is measured, on one started node."""
    if cpu and (gpu or not job.node.gpu):
        return cpu, gpu
    with start(job) as node:
        if job.node.gpu:
            gpu = gpu or measure_gpu(node, job, GPU_PROFILE_S)
        return cpu or measure_profile(node, job, PROFILE_S), gpu


def configured(
    job: Experiment,
    profile: LatencyProfile,
    gpu: LatencyProfile | None,
    workers: int,
    policy_name: str | None,
    batch_size: int | None,
    offload_above: int | None,
    max_items: int | None,
) -> ModelConfig:
    """A model's configuration: its policy as given, or the best in virtual time."""
    largest = max_items or job.workload.sizes.cap
    static = Static.baseline(largest, workers if job.splits else 1)
    pinned = policy_name is not None or batch_size is not None or offload_above is not None
    policy: Policy
    if pinned:
        name = policy_name or "deeprecsched"
        if not job.splits:
            check_whole(name, batch_size, largest)
        policy = policy_of(
            name, batch_size, offload_above, baseline=static, largest=largest, target=job.target
        )
        why, capacity = "given on the command line", None
    else:
        question = Question(
            profile, sample_sizes(job).tolist(), workers, job.target, largest,
            None if job.splits else static, TUNE_QUERIES, gpu if job.splits else None, job.node.gpus,
        )  # fmt: skip
        found = asyncio.run(_answered(question))
        if job.splits:
            policy, capacity = found.policy, found.capacity_qps or None
            why = f"tuned in virtual time for {job.workload.sizes.describe()['name']} sizes"
        else:
            policy, capacity, why = static, found.present_qps or None, LISTWISE
    node = job.node
    config = ModelConfig(
        short_name(node.model), job.target, policy, profile, node.rows_scale, node.seed, node.engine,
        node.precision, max_items=largest, capacity_qps=capacity, why=why, pinned=pinned, split=job.splits,
        model=node.model, gpu=node.gpu, gpu_profile=gpu,
    )  # fmt: skip
    click.echo(_line(config, workers, node.gpus))
    return config


async def _answered(question: Question) -> BestPolicy:
    simulation = Resimulator()
    try:
        return await simulation.best(question)
    finally:
        await simulation.close()


def workers_of(counts: Mapping[str, int]) -> str:
    """The number of workers of each device, in words."""
    found = f"{counts[CPU]} worker{'s' if counts[CPU] != 1 else ''}"
    if gpus := counts.get(GPU):
        found += f" and {gpus} accelerator{'s' if gpus > 1 else ''}"
    return found


def _line(config: ModelConfig, workers: int, gpus: int) -> str:
    """The operating point in one line."""
    target = config.target
    load = f"{config.capacity_qps:.4g} queries/s, simulated" if config.capacity_qps else "unknown"
    node = workers_of({CPU: workers} | ({GPU: gpus} if config.gpu else {}))
    engine = f"{config.engine} and {config.gpu}" if config.gpu else config.engine
    return (
        f"{config.name}: p{100 * target.quantile:g} within {1e3 * target.latency_s:g} ms "
        f"on {node}, {engine} {config.precision}: "
        f"{text.knobs(config.policy.describe())} ({config.why}); load it can carry: {load}"
    )
