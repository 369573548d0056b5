"""From options to the things that they name: model, node, workload, target, profile."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deeprecsys.api.accelerator import check_gpu
from deeprecsys.core.errors import InputError, positive
from deeprecsys.core.policy import Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.target import LEVELS, Target
from deeprecsys.engine import EngineSpec
from deeprecsys.engine.isa import DEFAULT, environment
from deeprecsys.node.node import NodeConfig
from deeprecsys.workload.stream import Workload
from deeprecsys.zoo import model
from deeprecsys.zoo.custom.spec import with_weights
from deeprecsys.zoo.model import splittable

UNUSED_MS = 1e3
"""The target of a job that needs none and whose model has none: a profile of a user's own."""


@dataclass(frozen=True)
class Experiment:
    """What a command is to do, resolved from its options and checked before anything starts.

    Attributes:
        splits: queries may be cut: the model scores each item by itself.
    """

    options: dict[str, Any]
    node: NodeConfig
    workload: Workload
    target: Target
    splits: bool = True

    @classmethod
    def resolve(cls, **options: Any) -> Experiment:
        """The job that options of the groups model, node, workload and target describe.

        Raises:
            InputError: an option's value cannot be.
        """
        name = with_weights(options["model_name"], options.get("weights"))
        chosen = model(name).scaled(positive("--rows-scale", options["rows_scale"]))
        EngineSpec.parse(options["engine"]).require(options["precision"])
        isa = options.get("isa", DEFAULT)
        environment(isa)
        check_gpu(options.get("gpu"))
        workload = Workload.parse(
            options.get("arrivals"),
            options.get("sizes"),
            trace=options.get("trace_file"),
            seed=options["seed"],
            locality=options["locality"],
        )
        target = target_of(
            options.get("sla_ms"),
            options.get("level"),
            options.get("quantile", 95.0),
            chosen.medium_target_ms if "sla_ms" in options else chosen.medium_target_ms or UNUSED_MS,
        )
        node = NodeConfig(
            model=name,
            rows_scale=options["rows_scale"],
            engine=options["engine"],
            precision=options["precision"],
            threads=options["threads"],
            workers=options["workers"],
            seed=options["seed"],
            max_query=workload.sizes.cap,
            locality=options["locality"],
            isa=isa,
            gpu=options.get("gpu"),
            gpus=options.get("gpus") or 1,
        )
        return cls(options, node, workload, target, splittable(chosen))

    def baseline(self, workers: int) -> Static:
        """The static baseline on so many workers: the whole query where it must not be cut."""
        return Static.baseline(self.workload.sizes.cap, workers if self.splits else 1)

    def on_cpu(self) -> Experiment:
        """The same without an accelerator."""
        return replace(self, node=replace(self.node, gpu=None))

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration, as JSON values."""
        return {
            "node": {k: v for k, v in asdict(self.node).items() if v is not None},
            "workload": self.workload.describe(),
            "target": self.target_document(),
        }

    def target_document(self) -> dict[str, Any]:
        return {"quantile": self.target.quantile, "latency_ms": 1e3 * self.target.latency_s}


def target_of(sla_ms: float | None, level: str | None, quantile: float, medium_ms: float | None) -> Target:
    """The target in milliseconds, or a level of the paper's medium one; the latter's medium by default.

    Raises:
        InputError: both or neither are given, or no published one is known of the model.
    """
    if sla_ms is not None and level is not None:
        raise InputError("--sla-ms and --target: expected one of them, got both")
    checked_quantile(quantile)
    if sla_ms is not None:
        return Target(latency_s=positive("--sla-ms", sla_ms) / 1e3, quantile=quantile / 100)
    if medium_ms is None:
        given = f"--target {level}" if level else "no target"
        raise InputError(f"--sla-ms: expected milliseconds, as a model of your own has no published target, "
                         f"got {given}")  # fmt: skip
    return Target(latency_s=medium_ms * LEVELS[level or "medium"] / 1e3, quantile=quantile / 100)


def checked_quantile(percent: float) -> float:
    """A quantile in percent, if it can be one."""
    if not 0 < percent < 100:
        raise InputError(f"--quantile: expected a percentage between 0 and 100, got {percent:g}")
    return percent


def load_profile(path: Path) -> LatencyProfile:
    """A latency profile from a file.

    Raises:
        InputError: no such file, or not a profile.
    """
    try:
        return LatencyProfile.from_json(json.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise InputError(f"--profile {path}: expected a latency profile in JSON, got: {e}") from e
    except InputError as e:
        raise InputError(f"--profile {path}: {e}") from e


def check_profile(path: Path, profile: LatencyProfile, job: Experiment) -> None:
    """Raise InputError if a profile is not one of the job's model."""
    if profile.model != job.node.model:
        raise InputError(
            f"--profile {path}: expected a profile of {job.node.model}, got one of {profile.model}"
        )
