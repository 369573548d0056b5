"""The engines, precisions and threads that a search by model chooses from, each with its profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deeprecsys.api.experiment import Experiment, ExperimentOptions, TuneOptions
from deeprecsys.api.profiles import (
    GivenProfile,
    given_profile,
    measure_profile,
    measured_elsewhere,
    name_of,
    start,
)
from deeprecsys.api.progress import ProgressOption
from deeprecsys.api.virtual import NodeModel, Ranked
from deeprecsys.core.errors import InputError, unknown
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.engine import FASTEST, PRECISIONS, EngineSpec
from deeprecsys.engine.dense import installed
from deeprecsys.engine.isa import cpu_flags
from deeprecsys.node.node import default_workers
from deeprecsys.zoo.custom import same_model

ENGINES = {"fp32": ("eager", "compiled"), "bf16": ("compiled",), "int8": ("compiled",)}
"""Precision -> the engines that are tried in it where none is named."""
BF16_DENSE = "compiled:openvino"
"""Tried as well where the CPU computes in bf16 and the package is installed."""
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True)
class EngineChoice:
    """An engine, its threads and the number of workers: what a search by model chooses from."""

    experiment: Experiment
    profile: LatencyProfile | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankedEngine:
    """A choice with its batch times and its best policy in virtual time."""

    setup: EngineChoice
    node: NodeModel
    found: Ranked

    def to_json(self) -> dict[str, Any]:
        node = self.setup.experiment.node
        return {
            "engine": node.engine,
            "precision": node.precision,
            "threads": node.threads,
            "workers": self.node.workers,
            "simulated_qps": self.found.qps,
            **(self.found.best.describe() if self.found.qps else {}),
        }


def choices(
    model: str,
    options: TuneOptions,
    engines: tuple[str, ...] = (),
    threads: tuple[int, ...] = (1,),
    profiles: Sequence[GivenProfile] = (),
) -> list[EngineChoice]:
    """What is to be tried: the given profiles' engines and threads, or those that are named.

    Every precision from the one allowed up to fp32 is tried, the lowest first, with every engine that
    computes in it.

    Raises:
        InputError: an option's value is not valid.
    """
    if profiles:
        return [_of_profile(given, model, options, (*engines, FASTEST)[0]) for given in profiles]
    lowest = options.get("precision", "fp32")
    if lowest not in PRECISIONS:
        raise unknown("precision", lowest, PRECISIONS)
    allowed = PRECISIONS[: PRECISIONS.index(lowest) + 1]
    return [
        EngineChoice(_experiment(model, options, e, p, t))
        for p in reversed(allowed)
        for e in engines_at(p, engines)
        for t in threads
    ]


def _experiment(model: str, options: TuneOptions, engine: str, precision: str, threads: int) -> Experiment:
    chosen: ExperimentOptions = {**options, "engine": engine, "precision": precision, "threads": threads}
    return Experiment.resolve(model, **chosen)


def engines_at(precision: str, named: tuple[str, ...]) -> tuple[str, ...]:
    """The engines among those named that compute in a precision; the usual ones where none is named.

    Raises:
        InputError: no such engine.
    """
    if named:
        return tuple(e for e in named if precision in EngineSpec.parse(e).precisions)
    usual = ENGINES[precision]
    if precision != "fp32" and BF16_FLAGS & cpu_flags() and "openvino" in installed():
        usual += (BF16_DENSE,)
    return usual


def _of_profile(given: GivenProfile, model: str, options: TuneOptions, engine: str) -> EngineChoice:
    """The engine and threads that a profile was measured with; one that names no engine gets `engine`."""
    profile = given_profile(given)
    named = engine if profile.engine == "unknown" else profile.engine
    experiment = _experiment(model, options, named, profile.precision, profile.threads)
    if not same_model(profile.model, experiment.node.model):
        raise InputError(
            f"--profile {name_of(given)}: expected a profile of {experiment.node.model}, "
            f"got one of {profile.model}"
        )
    elsewhere = f"{name_of(given)} was measured on another machine"
    return EngineChoice(experiment, profile, (elsewhere,) if measured_elsewhere(profile) else ())


def ranked(
    setup: EngineChoice,
    profile_s: float,
    kinds: Sequence[type[Policy]],
    progress: ProgressOption = True,
) -> RankedEngine:
    """A choice's batch times, measured where they are not known, and its best policy in virtual time.

    Args:
        kinds: the policies to search.
    """
    experiment, profile = setup.experiment, setup.profile
    if profile is None:
        with start(experiment.on_cpu(), progress) as node:
            profile = measure_profile(node, experiment, profile_s, progress=progress)
            workers = node.workers
    else:
        workers = experiment.node.workers or default_workers(experiment.node)
    model = NodeModel.of(experiment, profile, workers)
    return RankedEngine(setup, model, model.ranked(kinds))
