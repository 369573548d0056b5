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

from deeprecsys.api.announced import line, measured_loads, question, workers_of
from deeprecsys.api.experiment import Experiment, ServeOptions, check_processes, shows_options
from deeprecsys.api.from_run import GivenRun, TunedRun
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
from deeprecsys.api.progress import ProgressOption, stage
from deeprecsys.api.retuning.decision import BestPolicy, RetuneSettings
from deeprecsys.api.retuning.resimulate import Question, Resimulator
from deeprecsys.api.retuning.retuner import Retuner
from deeprecsys.core.allowance import MARGIN, Allowance
from deeprecsys.core.errors import InputError, at_least, at_most, not_negative, positive, shown
from deeprecsys.core.policy import CPU, GPU, Policy, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.engine import FASTEST
from deeprecsys.extras import require
from deeprecsys.files import read_text
from deeprecsys.memory import available_bytes
from deeprecsys.node.node import default_workers, pinning
from deeprecsys.node.runtime.cores import awake, interleave_memory, numa_nodes, realtime
from deeprecsys.node.service.hosted_model import ModelConfig, check_scores
from deeprecsys.node.service.service import Service, ServiceConfig
from deeprecsys.serve.addresses import (
    Admin,
    authority,
    check_addresses,
    loopback,
    without_fork_handlers,
)
from deeprecsys.workload.trace import LARGEST
from deeprecsys.zoo.custom import same_model, short_name, with_weights

log = logging.getLogger("deeprecsys.serve")
notices = logging.getLogger("deeprecsys.api")

PORTS = (8000, 8001)
"""The ports of HTTP and of gRPC that clients of the protocol expect."""
PROFILE_S, GPU_PROFILE_S = 10.0, 5.0
FACE_TEST_S, MOST_FACE_TEST_S = 1.5, 600.0
DRAIN_S, MOST_DRAIN_S = 30.0, 86_400.0
MOST_OPEN = 1 << 16
"""The most open queries of a model: many times what connections can carry."""


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
    margin: float = 100 * MARGIN,
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
        margin: by how many percent batches may take longer while the announced load still meets the target.
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
    if not 0 <= margin < 100:
        raise InputError(f"--margin: expected a percentage from 0 to below 100, got {margin:g}")
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
        policy, batch_size, offload_above = tuned.knobs(policy, batch_size, offload_above)
        merged = tuned.options({**options, "engine": engine}, (*ServeOptions.__annotations__, "engine"))
        engine, options = merged.pop("engine", None), cast(ServeOptions, merged)
    if not given:
        raise InputError("MODEL: expected a model, or --from RUN, got neither")
    _check_sizes(len(given), max_items, max_queue, max_queue_mb)
    gpu = options.get("gpu")
    check_scores(gpu)
    if offload_above is not None and gpu is None:
        raise InputError(f"--offload-above: expected --gpu with it, got {offload_above} without")
    names = named(given, options.pop("weights", None), options.pop("example", None))
    asked = client_names(names, name)
    profiles = profiles_in((profile,) if isinstance(profile, GivenProfile) else profile, names, gpu)
    experiments = [_experiment(name, profiles.get((name, CPU)), engine, options) for name in names]
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
                announce(line(served, workers, first.gpus))
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
                times = _measured(experiment, *known, progress)
                config = configured(
                    experiment, *times, workers, (policy, batch_size, offload_above), max_items, short,
                    margin / 100, lambda q: runner.run(simulation.best(q)),
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


def _check_sizes(models: int, max_items: int | None, max_queue: int, max_queue_mb: int) -> None:
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


def _experiment(
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


def _measured(
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
