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

from deeprecsys.api.progress import Bar
from deeprecsys.api.retuning.decision import RetuneSettings
from deeprecsys.api.retuning.retuner import Retuner
from deeprecsys.api.serve import configured, job_of, measured, named, profiles_in, workers_of
from deeprecsys.cli import options as opt
from deeprecsys.core.errors import InputError, positive
from deeprecsys.core.policy import CPU, GPU
from deeprecsys.node.node import default_workers, pinning
from deeprecsys.node.runtime.cores import awake, interleave_memory, numa_nodes, realtime
from deeprecsys.node.service.backend import Backend
from deeprecsys.node.service.hosted_model import check_scores
from deeprecsys.node.service.service import Service, ServiceConfig
from deeprecsys.serve.extra import require_extra, without_fork_handlers
from deeprecsys.serve.metrics.logs import log_as_json

log = logging.getLogger("deeprecsys.serve")

PORTS = (8000, 8001)
"""Default ports of HTTP and gRPC: those that clients of the protocol expect."""


class ServeForever(Protocol):
    """Serves a backend over the network until `stop` is set; `ready` is called with its ports."""

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
    """Options of the service as a whole."""

    host: str
    http_port: int
    grpc_port: int
    spares: int
    retune: bool
    drain_s: float


@click.command("serve")
@click.argument("model_names", metavar="MODEL...", nargs=-1, required=True)
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE",
              help="Weights of a model of your own (a class); among several, MODEL@FILE.")  # fmt: skip
@opt.rows_scale
@opt.target
@opt.sizes
@click.option("--profile", "profile_files", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
              help="Batch times measured before, with their engine and threads; one for each model, and one "
                   "with the engine of --gpu. What is missing is measured first.")  # fmt: skip
@click.option("--engine", metavar="NAME",
              help="What scores a batch.  [default: the profile's, or compiled]")  # fmt: skip
@opt.precision()
@opt.workers
@opt.isa
@opt.threads
@click.option("--spares", type=click.IntRange(0), default=1, show_default=True, metavar="N",
              help="Started workers that stand by for one that dies.")  # fmt: skip
@click.option("--gpu", metavar="ENGINE",
              help="Engine of accelerators, for large queries: cuda[:PRECISION].")  # fmt: skip
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, metavar="K",
              help="How many accelerators, each with a process of its own.")  # fmt: skip
@click.option("--policy", "policy_name", metavar="NAME[:ARG]",
              help="How queries become batches, pinned.  [default: tuned on the profile]")  # fmt: skip
@click.option("--batch-size", type=int, metavar="B", help="Most items per batch, pinned.  [default: tuned]")
@click.option("--offload-above", type=int, metavar="N",
              help="Send queries of more than N items to an accelerator, pinned.  [default: tuned]"
              )  # fmt: skip
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
@opt.seed
@opt.config
def serve_command(
    model_names: tuple[str, ...],
    weights: Path | None,
    profile_files: tuple[Path, ...],
    policy_name: str | None,
    batch_size: int | None,
    offload_above: int | None,
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
    the target, prints it with the load that it carries, and serves until SIGTERM, which drains. A model of
    your own is asked for by its class's name, or its file's without folder and suffix.
    """
    require_extra()
    without_fork_handlers()
    face: ServeForever = importlib.import_module("deeprecsys.serve.app").serve_forever
    names = named(model_names, weights)
    check_scores(options["gpu"])
    if offload_above is not None and options["gpu"] is None:
        raise InputError(f"--offload-above: expected --gpu with it, got {offload_above} without")
    profiles = profiles_in(profile_files, names, options["gpu"])
    jobs = [job_of(name, profiles.get((name, CPU)), options) for name in names]
    node = jobs[0].node
    workers = node.workers or default_workers(node)
    configs = []
    for job, name in zip(jobs, names, strict=True):
        cpu, gpu = measured(job, profiles.get((name, CPU)), profiles.get((name, GPU)))
        model = configured(job, cpu, gpu, workers, policy_name, batch_size, offload_above, max_items)
        configs.append(replace(model, max_queries=max_queue, most_bytes=max_queue_mb << 20))
    cores, gpus = tuple(pinning(workers, node.threads)), node.gpus if node.gpu else 0
    config = ServiceConfig(tuple(configs), cores, node.threads, spares, gpus, node.isa)
    positive("--drain", drain_s)
    log_as_json()
    interleave_memory(numa_nodes())
    import uvloop  # it comes with the extra

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, face, Options(host, http_port, grpc_port, spares, retune, drain_s)))


async def _serve(config: ServiceConfig, face: ServeForever, options: Options) -> None:
    """Serve until a signal says to stop; the second one does not wait for open queries."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    with Bar("starting") as bar:
        service = await Service.start(config, lambda what, share: bar.set(share, what))
    retuner = asyncio.create_task(Retuner(service, RetuneSettings()).run()) if options.retune else None
    draining: set[asyncio.Task[None]] = set()

    async def drain() -> None:
        log.info("draining: no new queries")
        if not await service.drain(options.drain_s):
            log.warning("gave up on open queries after %g s", options.drain_s)
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
                log.warning("the dispatcher may not take precedence over the workers")
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
        f"serving {', '.join(service.models)} on {workers_of(service.workers)}: "
        f"http://{host}:{http_port}, gRPC {host}:{grpc_port}"
    )
