"""The load that `serve` announces: what it rests on, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from deeprecsys.api.retuning.resimulate import Question, Resimulator
from deeprecsys.core.allowance import Allowance
from deeprecsys.core.errors import NodeError
from deeprecsys.core.policy import CPU, GPU
from deeprecsys.node.runtime.cores import usable_cores
from deeprecsys.node.service.backend import OperatingPoint
from deeprecsys.node.service.hosted_model import HostedModel, ModelConfig
from deeprecsys.node.service.service import Service
from deeprecsys.report.text import knobs

PATH_QUERIES = 40_000
CONNECTIONS = 2
"""Open queries of the face's measurement, per worker: all are busy, as they are at the announced load."""


def question(config: ModelConfig, sizes: Sequence[int], workers: int, gpus: int) -> Question:
    """What is asked of virtual time about a model: the best policy, or the capacity of the one it has."""
    return Question(
        config.profile, sizes, workers, config.target, config.max_items, config.policy, PATH_QUERIES,
        config.gpu_profile if config.split else None, gpus, config.allowance,
    )  # fmt: skip


async def measured_loads(
    service: Service, sizes: Mapping[str, Sequence[int]], simulation: Resimulator, seconds: float
) -> None:
    """Measure what a query of each model costs the server's own process, and estimate anew what is carried.

    Args:
        sizes: a sample of each model's query sizes; seconds: measured for each; 0 leaves the face out.
    """
    from deeprecsys.serve.face_cost import face_seconds  # it loads what comes with the extra

    node = service.config
    workers = len(node.cores)
    shared = len({core for cores in node.cores for core in cores}) >= len(usable_cores())
    for served in service.hosted:
        name, config = served.name, served.config
        face_s = None
        if seconds:
            face_s = await face_seconds(service, name, sizes[name], CONNECTIONS * workers, seconds)
            served.forget_load()  # what follows from it is to follow from the clients' queries alone
        allowance = replace(config.allowance, face_s=face_s or 0.0, shared=shared)
        asked = question(replace(config, allowance=allowance), sizes[name], workers, node.gpus)
        try:
            found = await simulation.best(replace(asked, present=served.policy, search=False))
        except NodeError:  # a policy of the user's own that does not run in virtual time
            service.estimate(name, None, allowance)
        else:
            service.estimate(name, found.present_qps, allowance)


def workers_of(counts: Mapping[str, int]) -> str:
    """The number of workers of each device, in words."""
    found = f"{counts[CPU]} worker{'s' if counts[CPU] != 1 else ''}"
    if gpus := counts.get(GPU):
        found += f" and {gpus} accelerator{'s' if gpus > 1 else ''}"
    return found


def line(served: HostedModel, workers: int, gpus: int, margin: str) -> str:
    """The operating point in one line; `margin` says whose its margin is."""
    config, target = served.config, served.config.target
    node = workers_of({CPU: workers} | ({GPU: gpus} if config.gpu else {}))
    engine = f"{config.engine} and {config.gpu}" if config.gpu else config.engine
    return (
        f"{config.name}: p{100 * target.quantile:g} within {1e3 * target.latency_s:g} ms "
        f"on {node}, {engine} {config.precision}: "
        f"{knobs(served.policy.describe())} ({served.point.why}); "
        f"load it can carry: {load(served.point, margin)}"
    )


def load(point: OperatingPoint, margin: str) -> str:
    """A load in words, with what it allows for."""
    if point.capacity_qps is None:
        return "unknown: its policy could not be simulated"
    longer = f"also if batches take {100 * point.allowance.margin:.3g} % longer ({margin})"
    if not point.capacity_qps:
        return f"none that meets the target, simulated, {longer}"
    allowed = f"{longer}; limited by the {point.limit}"
    return f"{point.capacity_qps:.4g} queries/s, simulated, {allowed}; {face(point.allowance)}"


def face(allowed: Allowance) -> str:
    """What is counted of the network face, in words."""
    if not allowed.face_s:
        return "without the network face, which was not measured"
    where = "the workers' cores" if allowed.shared else "a core of its own"
    took = f"{1e3 * allowed.face_s:.2g} ms per query of {where}"
    return f"the network face takes {took}, with the kernel, without the client"
