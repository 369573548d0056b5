"""`serve`: models on the network, from options and operating points to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Unpack, cast

from deeprecsys.api.announced import line, measured_loads, workers_of
from deeprecsys.api.experiment import ServeOptions, check_processes, shows_options
from deeprecsys.api.from_run import GivenRun, TunedRun
from deeprecsys.api.profiles import GivenProfile, sample_sizes
from deeprecsys.api.progress import ProgressOption, stage
from deeprecsys.api.retuning.decision import RetuneSettings
from deeprecsys.api.retuning.resimulate import Resimulator
from deeprecsys.api.retuning.retuner import Retuner
from deeprecsys.api.served_models import (
    batch_times,
    check_sizes,
    client_names,
    configured,
    experiment_of,
    named,
    profiles_in,
)
from deeprecsys.core.allowance import MARGIN
from deeprecsys.core.errors import InputError, at_most, not_negative, positive
from deeprecsys.core.policy import CPU, GPU, Policy
from deeprecsys.extras import require
from deeprecsys.files import read_text
from deeprecsys.node.node import default_workers, pinning
from deeprecsys.node.runtime.cores import awake, interleave_memory, numa_nodes, realtime
from deeprecsys.node.service.hosted_model import check_scores
from deeprecsys.node.service.service import Service, ServiceConfig
from deeprecsys.search.margin import allowance_for, checked_margin
from deeprecsys.serve.addresses import (
    Admin,
    authority,
    check_addresses,
    loopback,
    without_fork_handlers,
)

log = logging.getLogger("deeprecsys.serve")

PORTS = (8000, 8001)
"""The ports of HTTP and of gRPC that clients of the protocol expect."""
FACE_TEST_S, MOST_FACE_TEST_S = 1.5, 600.0
DRAIN_S, MOST_DRAIN_S = 30.0, 86_400.0


@dataclass(frozen=True)
class Listening:
    """A server that takes requests: `url` of HTTP, `grpc` as HOST:PORT, and workers by device."""

    url: str
    grpc: str
    models: tuple[str, ...]
    workers: Mapping[str, int]

    def __str__(self) -> str:
        workers = workers_of(self.workers)
        return f"serving {', '.join(self.models)} on {workers}: {self.url}, gRPC {self.grpc}"


@shows_options(ServeOptions)
def serve(
    model: str | Sequence[str] = (),
    *,
    name: str | Sequence[str] = (),
    from_run: GivenRun | None = None,
    profile: GivenProfile | Sequence[GivenProfile] = (),
    engine: str | None = None,
    policy: str | Policy | None = None,
    batch_size: int | None = None,
    offload_above: int | None = None,
    spares: int = 1,
    retune: bool = True,
    max_items: int | None = None,
    max_queue: int = 1024,
    max_queue_mb: int = 128,
    not_finite: Literal["error", "pass"] = "error",
    shed_late: bool = False,
    host: str = "127.0.0.1",
    http_port: int = PORTS[0],
    grpc_port: int = PORTS[1],
    admin: str | Path | None = None,
    admin_token: str | Path | None = None,
    watch: str | Path | None = None,
    drain: float = DRAIN_S,
    margin: float | None = None,
    face_test: float = FACE_TEST_S,
    announce: Callable[[str], None] = lambda line: None,
    ready: Callable[[Listening], None] = lambda listening: None,
    progress: ProgressOption = True,
    **options: Unpack[ServeOptions],
) -> None:
    """Serve models over the network (Open Inference Protocol on HTTP and gRPC) until SIGTERM or SIGINT.

    It blocks the main thread, which must run no other event loop; `ServerProcess` serves in the background.
    Batch times are measured where no profile is given; the policy that carries the most queries within the
    target is found in virtual time.

    Args:
        model: one model, or several, with their weights as MODEL@FILE.
        name: what clients ask for: one for each model, in their order. By default a class's name, or a
            file's without folder and suffix.
        from_run: a run of `tune`: its model, batch times, target and policy, where none is given.
        profile: batch times measured before, with their engine and threads, one for each model.
        engine: by default the profile's, or the fastest.
        policy: `NAME[:ARG]` or a policy; batch_size, offload_above: its knobs. Any of them pins the policy.
        spares: started workers that stand by for one that dies.
        retune: follow rate and mix of sizes with another policy while serving.
        max_items: items of the largest query; by default the largest of `sizes`.
        max_queue, max_queue_mb: queries of one model that may be open at once, and the megabytes of their
            features and scores.
        not_finite: what becomes of scores that are infinite or NaN.
        shed_late: refuse queries that would be late even while the target's quantile leaves room for them.
        http_port, grpc_port: 0 takes a free one.
        admin: the directory of weights (safetensors) that requests may load; None lets none.
        admin_token: a file with the token that such requests must carry; needed unless only this machine
            reaches `host`.
        watch: a directory laid out as MODEL/VERSION/weights.safetensors, whose new versions are loaded.
        drain: seconds to answer open queries in, after the signal.
        margin: by how many percent batches may take longer while the announced load still meets the target;
            by default the machine's drift that the run measured (3 to 25 %), 10 % without one.
        face_test: seconds of load through the loopback socket before it serves, for each model, by which the
            network face's cost is counted in the announced load; 0 leaves it out.
        announce: called with each model's operating point and announced load, as text.
        ready: called once requests are taken.

    Raises:
        InputError: an option's value is not valid, or the extra `serve` is not installed.
        NodeError: a worker cannot start.
    """
    require("serve", "the network face")
    without_fork_handlers()
    at_most(MOST_DRAIN_S, "--drain", positive("--drain", drain), "a day")
    allowed, whose = checked_margin(margin), "as asked"
    at_most(MOST_FACE_TEST_S, "--face-test", not_negative("--face-test", face_test), "ten minutes")
    check_processes("--spares", spares)
    check_addresses(host, http_port, grpc_port)
    opened = administered(host, admin, admin_token, watch)
    given, why = (model,) if isinstance(model, str) else tuple(model), ""
    if from_run is not None:
        tuned = TunedRun(from_run)
        if len(given) > 1:
            raise InputError(f"--from: expected one MODEL, got {len(given)}")
        measured = engine is None and not {"precision", "threads"} & options.keys()
        profile = tuned.profile if measured and not profile else profile
        given = (tuned.model(given[0] if given else None),)
        why = f"tuned, {tuned.name}" if policy is None else ""
        if allowed is None and tuned.drift is not None:
            allowed, whose = 100 * allowance_for(tuned.drift), f"the drift that {tuned.name} measured"
        policy, batch_size, offload_above = tuned.knobs(policy, batch_size, offload_above)
        merged = tuned.options({**options, "engine": engine}, (*ServeOptions.__annotations__, "engine"))
        engine, options = merged.pop("engine", None), cast(ServeOptions, merged)
    if allowed is None:
        allowed, whose = 100 * MARGIN, "the usual margin, as no run measured this machine's drift"
    if not given:
        raise InputError("MODEL: expected a model, or --from RUN, got neither")
    check_sizes(len(given), max_items, max_queue, max_queue_mb)
    gpu = options.get("gpu")
    check_scores(gpu)
    if offload_above is not None and gpu is None:
        raise InputError(f"--offload-above: expected --gpu with it, got {offload_above} without")
    names = named(given, options.pop("weights", None), options.pop("example", None))
    asked = client_names(names, name)
    profiles = profiles_in((profile,) if isinstance(profile, GivenProfile) else profile, names, gpu)
    experiments = [experiment_of(name, profiles.get((name, CPU)), engine, options) for name in names]
    first = experiments[0].node
    workers = first.workers or default_workers(first)
    import uvloop  # it comes with the extra

    from deeprecsys.serve.app import serve_forever
    from deeprecsys.serve.repository import Repository

    def listening(started: Service, http: int, grpc: int) -> None:
        models, url = tuple(started.models), f"http://{authority(host, http)}"
        ready(Listening(url, authority(host, grpc), models, started.workers))
        if not loopback(host):
            log.warning("there is no authentication: every client that reaches %s can send queries", host)

    async def serving(config: ServiceConfig, sizes: Mapping[str, Sequence[int]]) -> None:
        with stage("starting", progress) as report:
            started = await Service.start(config, lambda what, share: report(share, what))

        async def face(stop: asyncio.Event) -> None:
            with stage("measuring the network face", progress):
                await measured_loads(started, sizes, simulation, face_test)
            await simulation.close()
            for served in started.hosted:
                announce(line(served, workers, first.gpus, whose))
            await serve_forever(
                started, host=host, http_port=http_port, grpc_port=grpc_port, stop=stop,
                ready=lambda http, grpc: listening(started, http, grpc),
                repository=(lambda counters: Repository(started, counters, opened)) if opened else None,
            )  # fmt: skip

        await _until_drained(started, retune, drain, face)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        simulation = Resimulator()
        try:
            configs, sizes = [], {}
            for experiment, full, short in zip(experiments, names, asked, strict=True):
                known = profiles.get((full, CPU)), profiles.get((full, GPU))
                times = batch_times(experiment, *known, progress)
                config = configured(
                    experiment, *times, workers, (policy, batch_size, offload_above), max_items, short,
                    allowed / 100, lambda q: runner.run(simulation.best(q)),
                )  # fmt: skip
                config = replace(config, why=why or config.why, max_queries=max_queue)
                config = replace(config, most_bytes=max_queue_mb << 20, shed_late=shed_late)
                configs.append(replace(config, finite=not_finite == "error"))
                sizes[config.name] = sample_sizes(experiment).tolist()
            service = ServiceConfig(
                tuple(configs), tuple(pinning(workers, first.threads)), first.threads, spares,
                gpus=first.gpus if first.gpu else 0, isa=first.isa,
            )  # fmt: skip
            interleave_memory(numa_nodes())
            runner.run(serving(service, sizes))
        finally:
            runner.run(simulation.close())


async def _until_drained(
    service: Service, retune: bool, drain_s: float, face: Callable[[asyncio.Event], Awaitable[None]]
) -> None:
    """Serve until a signal; a second signal does not wait for open queries."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    retuner = asyncio.create_task(Retuner(service, RetuneSettings()).run()) if retune else None
    draining: set[asyncio.Task[None]] = set()

    async def drain() -> None:
        log.info("draining: no new queries")
        if not await service.drain(drain_s):
            log.warning("gave up on open queries after %g s", drain_s)
        stop.set()

    def on_signal() -> None:
        if draining:
            stop.set()
        draining.add(asyncio.create_task(drain()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    gc.collect()
    gc.freeze()  # what lives as long as the process need not be looked at by later collections
    try:
        with realtime() as granted, awake():
            if not granted:
                log.warning("the dispatcher may not take precedence over the workers")
            await face(stop)
    finally:
        if retuner:
            retuner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await retuner
        for task in draining:
            task.cancel()
        service.close()


MOST_TOKEN_BYTES, LEAST_TOKEN = 4096, 16


def administered(
    host: str, admin: str | Path | None, token: str | Path | None, watch: str | Path | None
) -> Admin | None:
    """Whether and how weights may be changed, from the options of `serve`.

    Raises:
        InputError: no directory, no token, or one where nothing needs it.
    """
    if admin is None and token is not None:
        raise InputError(f"--admin-token: expected --admin with it, got {token} without")
    for field, folder in (("--admin", admin), ("--watch", watch)):
        if folder is not None and not Path(folder).is_dir():
            raise InputError(f"{field}: expected a directory, got {folder}")
    if admin is not None and watch is not None and not Path(admin).samefile(watch):
        raise InputError(f"--watch: expected the directory of --admin, {admin}, got {watch}")
    if admin is not None and token is None and not loopback(host):
        raise InputError(f"--admin-token: expected a file, as others reach --host {host}, got none")
    folder = admin or watch
    if folder is None:
        return None
    return Admin(
        Path(folder).absolute(), admin is not None, token_of(token) if token else "", watch is not None
    )


def token_of(file: str | Path) -> str:
    """The token in a file.

    Raises:
        InputError: it is no token.
    """
    field = f"token {file}"
    token = read_text(field, file, "a file with a token", MOST_TOKEN_BYTES).strip()
    if len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise InputError(f"{field}: expected at least {LEAST_TOKEN} printable characters without a space")
    return token
