"""The models of a server: their names, their batch times, and the policy that each begins with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from deeprecsys.api.announced import question
from deeprecsys.api.experiment import Experiment, ServeOptions
from deeprecsys.api.policies import policy_of
from deeprecsys.api.profiles import (
    LISTWISE,
    GivenProfile,
    given_profile,
    measure_gpu,
    measure_profile,
    measured_elsewhere,
    name_of,
    sample_sizes,
    start,
)
from deeprecsys.api.progress import ProgressOption
from deeprecsys.api.retuning.decision import BestPolicy
from deeprecsys.api.retuning.resimulate import Question
from deeprecsys.core.allowance import Allowance
from deeprecsys.core.errors import InputError, at_least, at_most, shown
from deeprecsys.core.policy import CPU, GPU, Policy, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.engine import FASTEST
from deeprecsys.memory import available_bytes
from deeprecsys.node.service.hosted_model import ModelConfig
from deeprecsys.workload.trace import LARGEST
from deeprecsys.zoo.custom import same_model, short_name, with_weights

notices = logging.getLogger("deeprecsys.api")

PROFILE_S, GPU_PROFILE_S = 10.0, 5.0
MOST_OPEN = 1 << 16
"""The most open queries of a model: many times what connections can carry."""


def named(
    models: tuple[str, ...], weights: str | Path | None, example: str | Path | None = None
) -> tuple[str, ...]:
    """The models with their weights and example inputs.

    Raises:
        InputError: it is not clear whose the weights are.
    """
    if (weights or example) and len(models) > 1:
        got = f"{len(models)} models"
        raise InputError(f"--weights: expected one MODEL, or MODEL@FILE for each, got {got}")
    return tuple(with_weights(name, weights or None, example or None) for name in models)


LONGEST_NAME = 200
_NO_NAMES = (".", "..", "stats")
"""Names that `models/NAME` cannot have: clients resolve the first two, `models/stats` is another path."""


def client_names(models: Sequence[str], given: str | Sequence[str]) -> tuple[str, ...]:
    """What clients call each model: as given, or its short name.

    Raises:
        InputError: not one for each model, one that a path cannot carry, or two that are equal.
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    if names and len(names) != len(models):
        raise InputError(
            f"--name: expected {len(models)}, one for each MODEL in their order, got {len(names)}"
        )
    for name in names:
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or "/" in name or name in _NO_NAMES:
            raise InputError(
                f"--name: expected 1 to {LONGEST_NAME} printable characters without a slash, "
                f"none of {', '.join(_NO_NAMES)}, got {shown(name)}"
            )
    asked = names or tuple(short_name(model) for model in models)
    if len(set(asked)) < len(asked):
        field = "--name" if names else "MODEL"
        raise InputError(f"{field}: expected each once, got {', '.join(asked)}")
    return asked


def check_sizes(models: int, max_items: int | None, max_queue: int, max_queue_mb: int) -> None:
    """Raise InputError for queries, or a memory for them, that are too large or too small for any model."""
    if max_items is not None:
        at_most(LARGEST, "--max-items", at_least(1, "--max-items", max_items), "as of other sizes")
    at_most(MOST_OPEN, "--max-queue", max_queue, "more than connections carry")
    left_mb = available_bytes() >> 20
    each = f"{left_mb} MB of free memory, for each of {models} models" if models > 1 else "free memory"
    at_most(left_mb // models, "--max-queue-mb", max_queue_mb, each)


def profiles_in(
    given: Sequence[GivenProfile], names: Sequence[str], gpu: str | None
) -> dict[tuple[str, str], LatencyProfile]:
    """The given profiles by model and device; one whose engine is `gpu` is of the accelerator."""
    found: dict[tuple[str, str], LatencyProfile] = {}
    for one in given:
        profile, name = given_profile(one), name_of(one)
        model = next((n for n in names if same_model(n, profile.model)), None)
        if model is None:
            raise InputError(
                f"--profile {name}: expected a profile of {', '.join(names)}, got one of {profile.model}"
            )
        key = model, GPU if gpu and profile.engine == gpu else CPU
        if key in found:
            raise InputError(f"--profile {name}: expected one of each model, got a second of {model}")
        if measured_elsewhere(profile):
            notices.warning("%s was measured on another machine", name)
        found[key] = profile
    return found


def experiment_of(
    name: str, profile: LatencyProfile | None, engine: str | None, options: ServeOptions
) -> Experiment:
    """What is to be served of one model; a profile states with which engine its times were measured."""
    timed = profile.engine if profile and profile.engine != "unknown" else None
    engine = engine or timed or FASTEST
    if timed and engine != timed:
        raise InputError(f"--engine: expected {timed}, of the profile of {name}, got {engine}")
    experiment = Experiment.resolve(name, engine=engine, **options)
    if profile:
        of, node = f"of the profile of {name}", experiment.node
        if profile.threads != node.threads:
            raise InputError(f"--threads: expected {profile.threads}, {of}, got {node.threads}")
        if profile.precision != node.precision:
            raise InputError(f"--precision: expected {profile.precision}, {of}, got {node.precision}")
    return experiment


def batch_times(
    experiment: Experiment,
    cpu: LatencyProfile | None,
    gpu: LatencyProfile | None,
    progress: ProgressOption,
) -> tuple[LatencyProfile, LatencyProfile | None]:
    """The batch times of each device; what is not known is measured, on one started node."""
    if cpu and (gpu or not experiment.node.gpu):
        return cpu, gpu
    with start(experiment, progress) as node:
        if experiment.node.gpu:
            gpu = gpu or measure_gpu(node, experiment, GPU_PROFILE_S)
        return cpu or measure_profile(node, experiment, PROFILE_S, progress=progress), gpu


def configured(
    experiment: Experiment,
    profile: LatencyProfile,
    gpu_profile: LatencyProfile | None,
    workers: int,
    given: tuple[str | Policy | None, int | None, int | None],
    max_items: int | None,
    name: str,
    margin: float,
    best: Callable[[Question], BestPolicy],
) -> ModelConfig:
    """A model's configuration: its policy as given, or the best in virtual time.

    Args:
        given: the policy, its batch size and its threshold; None where they are to be tuned.
        name: what clients ask for.
        margin: share by which batches may take longer.
        best: finds the best policy.
    """
    node = experiment.node
    largest = max_items or experiment.workload.sizes.cap
    pinned = any(g is not None for g in given)
    why, policy = "given on the command line", cast(Policy, Static.baseline(largest, 1))
    if pinned:
        policy = policy_of(
            given[0] or "deeprecsched", *given[1:], largest=largest, workers=workers,
            target=experiment.target, splits=experiment.splits,
        )  # fmt: skip
    elif not experiment.splits:
        why = LISTWISE
    config = ModelConfig(
        name, experiment.target, policy, profile, node.rows_scale, node.seed, node.engine,
        node.precision, max_items=largest, why=why, pinned=pinned, split=experiment.splits, model=node.model,
        gpu=node.gpu, gpu_profile=gpu_profile, allowance=Allowance(margin),
    )  # fmt: skip
    if pinned or not experiment.splits:
        return config
    asked = question(config, sample_sizes(experiment).tolist(), workers, node.gpus)
    why = f"tuned in virtual time for {experiment.workload.sizes.describe()['name']} sizes"
    return replace(config, policy=best(replace(asked, present=None)).policy, why=why)
