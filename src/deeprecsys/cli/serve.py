"""`serve`: a network server for one or several models."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import click

from deeprecsys.cli import options as opt
from deeprecsys.cli.live import measure_profile, sample_sizes, start
from deeprecsys.cli.policies import policy_of
from deeprecsys.cli.progress import Bar
from deeprecsys.cli.setup import Job, check_profile, load_profile
from deeprecsys.core.errors import InputError, positive
from deeprecsys.core.policy import CPU, Policy, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.node.cores import awake, interleave_memory, numa_nodes, realtime
from deeprecsys.node.node import default_workers, pinning
from deeprecsys.report import text
from deeprecsys.report.machine import machine_record, same_machine
from deeprecsys.serve.backend import Backend
from deeprecsys.serve.resimulate import Resimulator
from deeprecsys.serve.retune import RetuneSettings
from deeprecsys.serve.retuner import Retuner
from deeprecsys.serve.served import ModelConfig
from deeprecsys.serve.service import Service, ServiceConfig

PROFILE_S = 10.0
ENGINE = "compiled"
TUNE_QUERIES = 40_000
PORTS = (8000, 8001)
"""Of HTTP and of gRPC: those that clients of the protocol expect."""


class Face(Protocol):
    """The network face: serves a backend until told to stop; `ready` hears the ports it is bound to."""

    def __call__(
        self,
        backend: Backend,
        *,
        host: str,
        http_port: int,
        grpc_port: int,
        stop: asyncio.Event,
        ready: Callable[[int, int], None],
    ) -> Awaitable[None]: ...


@dataclass(frozen=True)
class Options:
    """What the command line says of the service as a whole."""

    host: str
    http_port: int
    grpc_port: int
    spares: int
    retune: bool
    drain_s: float


@click.command("serve")
@click.argument("model_names", metavar="MODEL...", nargs=-1, required=True)
@click.option("--rows-scale", type=float, default=1.0, show_default=True, metavar="X",
              help="Factor on the rows of every embedding table.")  # fmt: skip
@opt.target
@opt.sizes
@click.option("--profile", "profile_files", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
              help="Batch times measured before, with their engine and threads; one for each model. "
                   "What is missing is measured first.")  # fmt: skip
@click.option("--engine", metavar="NAME",
              help="What scores a batch.  [default: the profile's, or compiled]")  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "bf16", "int8"]), default="fp32", show_default=True,
              help="Arithmetic of the engine.")  # fmt: skip
@click.option("--workers", type=int, metavar="K", help="Worker processes.  [default: one per usable core]")
@click.option("--threads", type=int, default=1, show_default=True, metavar="T",
              help="Compute threads per worker.")  # fmt: skip
@click.option("--spares", type=click.IntRange(0), default=1, show_default=True, metavar="N",
              help="Started workers that stand by for one that dies.")  # fmt: skip
@click.option("--policy", "policy_name", metavar="NAME[:ARG]",
              help="How queries become batches, pinned.  [default: tuned on the profile]")  # fmt: skip
@click.option("--batch-size", type=int, metavar="B", help="Most items per batch, pinned.  [default: tuned]")
@click.option("--retune/--no-retune", default=True, show_default=True,
              help="Follow rate and mix of sizes with another policy while serving.")  # fmt: skip
@click.option("--max-items", type=int, metavar="N",
              help="Items of the largest query.  [default: the largest of --sizes]")  # fmt: skip
@click.option("--max-queue", type=click.IntRange(1), default=1024, show_default=True, metavar="N",
              help="Queries of one model that may be open at once.")  # fmt: skip
@click.option("--max-queue-mb", type=click.IntRange(1), default=128, show_default=True, metavar="MB",
              help="Features and scores of one model's open queries.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to listen on; 0.0.0.0 for all.")  # fmt: skip
@click.option("--http-port", type=click.IntRange(0, 65535), default=PORTS[0], show_default=True, metavar="N",
              help="0 takes any that is free.")  # fmt: skip
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=PORTS[1], show_default=True, metavar="N",
              help="0 takes any that is free.")  # fmt: skip
@click.option("--drain", "drain_s", type=float, default=30.0, show_default=True, metavar="S",
              help="Seconds to answer open queries in, after SIGTERM.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, metavar="N",
              help="Seed of tables and weights.")  # fmt: skip
@opt.config
def serve_command(
    model_names: tuple[str, ...],
    profile_files: tuple[Path, ...],
    policy_name: str | None,
    batch_size: int | None,
    max_items: int | None,
    max_queue: int,
    max_queue_mb: int,
    host: str,
    http_port: int,
    grpc_port: int,
    spares: int,
    retune: bool,
    drain_s: float,
    **options: Any,
) -> None:
    """Serve MODELs over the network: Open Inference Protocol on HTTP and gRPC.

    Measures batch times or reads them from --profile, finds the policy that carries the most queries within
    the target, prints it with the load that it carries, and serves until SIGTERM, which drains.
    """
    face: Face = importlib.import_module("deeprecsys.serve.app").serve_forever
    if len(set(model_names)) < len(model_names):
        raise InputError(f"MODEL: expected each once, got {', '.join(model_names)}")
    profiles = _by_model(profile_files, model_names)
    jobs = [_job(name, profiles.get(name), options) for name in model_names]
    workers = jobs[0].node.workers or default_workers(jobs[0].node)
    configs = []
    for job, name in zip(jobs, model_names, strict=True):
        profile = profiles.get(name) or _measured(job)
        model = _configured(job, profile, workers, policy_name, batch_size, max_items)
        configs.append(replace(model, max_queries=max_queue, most_bytes=max_queue_mb << 20))
    cores = tuple(pinning(workers, jobs[0].node.threads))
    config = ServiceConfig(tuple(configs), cores, jobs[0].node.threads, spares)
    positive("--drain", drain_s)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    interleave_memory(numa_nodes())
    asyncio.run(_serve(config, face, Options(host, http_port, grpc_port, spares, retune, drain_s)))


def _by_model(files: tuple[Path, ...], names: tuple[str, ...]) -> dict[str, LatencyProfile]:
    """The given profiles by the model that each is of."""
    found: dict[str, LatencyProfile] = {}
    for file in files:
        profile = load_profile(file)
        if profile.model not in names:
            raise InputError(
                f"--profile {file}: expected a profile of {', '.join(names)}, got one of {profile.model}"
            )
        if profile.model in found:
            raise InputError(f"--profile {file}: expected one of each model, got a second of {profile.model}")
        if profile.machine and not same_machine(dict(profile.machine), machine_record()):
            click.echo(f"deeprecsys: {file} was measured on another machine", err=True)
        found[profile.model] = profile
    return found


def _job(name: str, profile: LatencyProfile | None, options: dict[str, Any]) -> Job:
    """What is to be served of one model; a profile says with which engine its times were measured."""
    measured = profile.engine if profile and profile.engine != "unknown" else None
    engine = options["engine"] or measured or ENGINE
    if measured and engine != measured:
        raise InputError(f"--engine: expected {measured}, of the profile of {name}, got {engine}")
    job = Job.resolve(**{**options, "engine": engine}, model_name=name, locality="zipf:0.9")
    if profile:
        check_profile(Path("FILE"), profile, job)
        if profile.threads != job.node.threads:
            raise InputError(
                f"--threads: expected {profile.threads}, of the profile of {name}, got {job.node.threads}"
            )
    return job


def _measured(job: Job) -> LatencyProfile:
    with start(job) as node:
        return measure_profile(node, job, PROFILE_S)


def _configured(
    job: Job,
    profile: LatencyProfile,
    workers: int,
    policy_name: str | None,
    batch_size: int | None,
    max_items: int | None,
) -> ModelConfig:
    """A model's configuration: its policy as given, or the best in virtual time."""
    largest = max_items or job.workload.sizes.cap
    static = Static.baseline(largest, workers)
    pinned = policy_name is not None or batch_size is not None
    policy: Policy | None = None
    if pinned:
        policy = policy_of(
            policy_name or "deeprecsched", batch_size, None,
            baseline=static, largest=largest, target=job.target,
        )  # fmt: skip
        why, capacity = "given on the command line", None
    else:
        found = asyncio.run(_tuned(job, profile, workers, largest))
        policy, capacity = found.policy, found.capacity_qps or None
        why = f"tuned in virtual time for {job.workload.sizes.describe()['name']} sizes"
    node = job.node
    config = ModelConfig(
        node.model, job.target, policy, profile, node.rows_scale, node.seed, node.engine, node.precision,
        max_items=largest, capacity_qps=capacity, why=why, pinned=pinned,
    )  # fmt: skip
    click.echo(_line(config, workers))
    return config


async def _tuned(job: Job, profile: LatencyProfile, workers: int, largest: int) -> Any:
    simulation = Resimulator()
    sizes = sample_sizes(job).tolist()
    try:
        return await simulation.best(profile, sizes, workers, job.target, largest, None, TUNE_QUERIES)
    finally:
        await simulation.close()


def _line(config: ModelConfig, workers: int) -> str:
    """The operating point in one line."""
    target = config.target
    load = f"{config.capacity_qps:.4g} queries/s, simulated" if config.capacity_qps else "unknown"
    return (
        f"{config.name}: p{100 * target.quantile:g} within {1e3 * target.latency_s:g} ms "
        f"on {workers} worker{'s' if workers > 1 else ''}, {config.engine} {config.precision}: "
        f"{text.knobs(config.policy.describe())} ({config.why}); load it can carry: {load}"
    )


async def _serve(config: ServiceConfig, face: Face, options: Options) -> None:
    """Serve until a signal says to stop; the second one does not wait for open queries."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    with Bar("starting") as bar:
        service = await Service.start(config, bar.said)
    retuner = asyncio.create_task(Retuner(service, RetuneSettings()).run()) if options.retune else None
    draining: set[asyncio.Task[None]] = set()

    async def drain() -> None:
        click.echo("draining: no new queries", err=True)
        if not await service.drain(options.drain_s):
            click.echo(f"gave up on open queries after {options.drain_s:g} s", err=True)
        stop.set()

    def on_signal() -> None:
        if draining:
            stop.set()
        draining.add(asyncio.create_task(drain()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    gc.collect()
    gc.freeze()  # what lives for ever need not be looked at again and again
    try:
        with realtime() as granted, awake():
            if not granted:
                click.echo("the dispatcher may not take precedence over the workers", err=True)
            await face(
                service,
                host=options.host,
                http_port=options.http_port,
                grpc_port=options.grpc_port,
                stop=stop,
                ready=lambda http, grpc: _say_ready(service, options.host, http, grpc),
            )
    finally:
        if retuner:
            retuner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await retuner
        for task in draining:
            task.cancel()
        service.close()


def _say_ready(service: Service, host: str, http_port: int, grpc_port: int) -> None:
    click.echo(
        f"serving {', '.join(service.models)} on {service.workers[CPU]} workers: "
        f"http://{host}:{http_port}, gRPC {host}:{grpc_port}"
    )
