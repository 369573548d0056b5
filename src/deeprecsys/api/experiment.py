"""An experiment: model, node, workload and target, resolved from options before anything starts."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from deeprecsys.api.accelerator import check_gpu
from deeprecsys.api.policies import policy_of
from deeprecsys.core.errors import InputError, at_most, positive, unknown
from deeprecsys.core.policy import Policy, Static
from deeprecsys.core.target import LEVELS, NEAREST, Target
from deeprecsys.engine import FASTEST, EngineSpec
from deeprecsys.engine.isa import DEFAULT, environment
from deeprecsys.memory import available_bytes
from deeprecsys.node.node import NodeConfig
from deeprecsys.node.runtime.cores import usable_cores
from deeprecsys.workload.arrivals import Replay
from deeprecsys.workload.lengths import HEAVY
from deeprecsys.workload.stream import Stream, Workload
from deeprecsys.zoo import model as named_model
from deeprecsys.zoo.custom import with_weights
from deeprecsys.zoo.model import splittable

log = logging.getLogger("deeprecsys.api")

LOCALITY = "zipf:0.9"
MOST_PER_CORE, WORKER_BYTES, MOST_GPUS = 32, 64 << 20, 64
"""The most worker processes, and threads of each, for each core; the least memory of a worker process; the
most accelerators."""
MOST_SEED = (1 << 63) - 1
LEAST_QPS = 1e-9
FEW_ROWS = 0.01
"""The share of a trace's rows below which a notice says that few arrive within the duration."""
UNUSED_MS = 1e3
"""The target, in milliseconds, of an experiment that needs none and whose model has none."""
F = TypeVar("F", bound=Callable[..., Any])


class HostOptions(TypedDict, total=False):
    """The model, its workers and the seed; all defaults are those of `Experiment.resolve`."""

    weights: str | Path | None
    example: str | Path | None
    rows_scale: float
    workers: int | None
    isa: str
    seed: int


class NodeOptions(HostOptions, total=False):
    """A model on a node that offers load to itself."""

    locality: str
    lookups: str


class ModelOptions(NodeOptions, total=False):
    """A model on a node, with what scores it."""

    engine: str
    precision: str
    threads: int


class TargetOptions(TypedDict, total=False):
    """The query sizes and the latency target."""

    sizes: str | None
    sla_ms: float | None
    target: str | None
    quantile: float


class LoadOptions(TargetOptions, total=False):
    """The load and the latency target."""

    arrivals: str | None
    trace: str | Path | None


class DeviceOptions(TypedDict, total=False):
    """The lowest precision, and the accelerators."""

    precision: str
    gpu: str | None
    gpus: int


class SimulateOptions(LoadOptions, total=False):
    """The load, the target and the accelerators of a node in virtual time."""

    gpu: str | None
    gpus: int


class TuneOptions(NodeOptions, LoadOptions, DeviceOptions, total=False):
    """An experiment whose engine and threads are searched."""


class ExperimentOptions(TuneOptions, total=False):
    """All options of an experiment."""

    engine: str
    threads: int


class ServeOptions(HostOptions, TargetOptions, DeviceOptions, total=False):
    """The models of a server, all with one target."""

    threads: int


@dataclass(frozen=True)
class Experiment:
    """A model on a node under a workload, and its target.

    Attributes:
        splits: queries may be cut: the model scores each item by itself.
    """

    node: NodeConfig
    workload: Workload
    target: Target
    splits: bool = True

    @classmethod
    def resolve(
        cls,
        model: str,
        *,
        weights: str | Path | None = None,
        example: str | Path | None = None,
        rows_scale: float = 1.0,
        engine: str = FASTEST,
        precision: str = "fp32",
        threads: int = 1,
        workers: int | None = None,
        isa: str = DEFAULT,
        locality: str = LOCALITY,
        lookups: str = HEAVY,
        seed: int = 0,
        gpu: str | None = None,
        gpus: int = 1,
        arrivals: str | None = None,
        sizes: str | None = None,
        trace: str | Path | None = None,
        sla_ms: float | None = None,
        target: str | None = None,
        quantile: float = 95.0,
        needs_target: bool = True,
    ) -> Experiment:
        """The experiment that options describe; each means what the command line's of its name does.

        Args:
            needs_target: whether a model without a published target needs one to be given.

        Raises:
            InputError: an option's value is not valid.
        """
        name = with_weights(model, weights or None, example or None)
        chosen = named_model(name).scaled(positive("--rows-scale", rows_scale))
        EngineSpec.parse(engine).require(precision)
        environment(isa)
        check_gpu(gpu)
        _check_counts(workers, threads, gpus)
        at_most(MOST_SEED, "--seed", abs(seed), "a number of 64 bits")
        workload = Workload.parse(arrivals, sizes, trace=trace, seed=seed, locality=locality,
                                  lookups=lookups)  # fmt: skip
        known_ms = chosen.medium_target_ms or (None if needs_target else UNUSED_MS)
        node = NodeConfig(
            model=name,
            rows_scale=rows_scale,
            engine=engine,
            precision=precision,
            threads=threads,
            workers=workers,
            seed=seed,
            max_query=workload.sizes.cap,
            locality=locality,
            lookups=workload.lookups,
            isa=isa,
            gpu=gpu,
            gpus=gpus,
        )
        workload = replace(workload, work=node.work(chosen.schema))
        return cls(node, workload, target_of(sla_ms, target, quantile, known_ms), splittable(chosen))

    def baseline(self, workers: int) -> Static:
        """The static baseline on this many workers: the whole query where it must not be cut."""
        return Static.baseline(self.workload.sizes.cap, workers if self.splits else 1)

    def policy(
        self, given: str | Policy, batch_size: int | None, offload_above: int | None, workers: int
    ) -> Policy:
        """The policy that a name and knobs describe, on this many workers; or the one given."""
        return policy_of(
            given, batch_size, offload_above, largest=self.workload.sizes.cap, workers=workers,
            target=self.target, splits=self.splits,
        )  # fmt: skip

    def on_cpu(self) -> Experiment:
        """The experiment without an accelerator."""
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


def _check_counts(workers: int | None, threads: int, gpus: int) -> None:
    """Raise InputError for more processes or threads than this machine could start."""
    cores = len(usable_cores())
    at_most(MOST_PER_CORE * cores, "--threads", threads, f"{MOST_PER_CORE} for each of {cores} cores")
    check_processes("--workers", workers or 0)
    at_most(MOST_GPUS, "--gpus", gpus, "more than a machine has")


def check_processes(option: str, count: int) -> None:
    """Raise InputError for more worker processes than this machine could start."""
    cores = len(usable_cores())
    most = min(MOST_PER_CORE * cores, max(1, available_bytes() // WORKER_BYTES))
    why = f"{MOST_PER_CORE} for each of {cores} cores, {WORKER_BYTES >> 20} MB of free memory for each"
    at_most(most, option, count, why)


def target_of(sla_ms: float | None, level: str | None, quantile: float, medium_ms: float | None) -> Target:
    """The target in milliseconds, or a level of the model's published one, `medium_ms`; that by default.

    Raises:
        InputError: both are given, a value is not valid, or neither is given and none is published.
    """
    if sla_ms is not None and level is not None:
        raise InputError("--sla-ms and --target: expected one of them, got both")
    checked_quantile(quantile)
    if level is not None and level not in LEVELS:
        raise unknown("target", level, LEVELS)
    if sla_ms is not None:
        return Target(latency_s=positive("--sla-ms", sla_ms) / 1e3, quantile=quantile / 100)
    if medium_ms is None:
        given = f"--target {level}" if level else "no target"
        raise InputError(f"--sla-ms: expected milliseconds, as a model of your own has no published target, "
                         f"got {given}")  # fmt: skip
    return Target(latency_s=medium_ms * LEVELS[level or "medium"] / 1e3, quantile=quantile / 100)


def checked_quantile(percent: float) -> float:
    """A quantile in percent, if it is one."""
    if not 100 * NEAREST < percent < 100 * (1 - NEAREST):
        raise InputError(f"--quantile: expected a percentage between 0 and 100, got {percent:g}")
    return percent


def shows_options(options: type) -> Callable[[F], F]:
    """Show options, with the defaults of `Experiment.resolve`, in a signature in place of `**options`."""

    def shown(function: F) -> F:
        own = inspect.signature(function)
        given = inspect.signature(Experiment.resolve).parameters
        parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [given[name] for name in options.__annotations__ if name not in own.parameters]
        function.__signature__ = own.replace(parameters=[*parameters, *more])  # type: ignore[attr-defined]
        return function

    return shown


def checked_rate(qps: float) -> float:
    """An offered rate, if it is one."""
    if positive("--rate", qps) < LEAST_QPS:
        raise InputError(f"--rate: expected at least {LEAST_QPS:g} queries/s, got {qps:g}")
    return qps


def offered(stream: Stream, workload: Workload, duration_s: float | None) -> Stream:
    """A stream, if it has queries. Notes where nearly all of a trace lies outside the duration.

    Raises:
        InputError: no query arrives within the duration.
    """
    trace = workload.arrivals.trace if isinstance(workload.arrivals, Replay) else None
    if not len(stream):
        of = f", of which the trace's first {len(trace)} rows take {trace.period_s:.6g}" if trace else ""
        raise InputError(
            f"--duration: expected a time in which at least one query arrives, got {duration_s:g} seconds{of}"
        )
    if trace and duration_s is not None and len(stream) < FEW_ROWS * len(trace):
        log.warning("%s: %d of its %d rows arrive within %g s: are its times in seconds?",
                    trace.source, len(stream), len(trace), duration_s)  # fmt: skip
    return stream
