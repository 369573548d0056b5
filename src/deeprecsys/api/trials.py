"""Live trials: one at a rate (`bench`), on this node or on a server, and the search of a `capacity`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack, cast

from deeprecsys.api.accelerator import emulated_profile, engine_of, gpu_document, published
from deeprecsys.api.experiment import (
    Experiment,
    ExperimentOptions,
    checked_rate,
    offered,
    shows_options,
)
from deeprecsys.api.from_run import GivenRun, Knobs, TunedRun
from deeprecsys.api.profiles import check_failures, measure_profile, quick_profile, sample_sizes, start
from deeprecsys.api.progress import Interrupted, ProgressOption, SearchProgress, TickHooks, stage
from deeprecsys.api.runs import BenchRun, CapacityRun, Record
from deeprecsys.api.sustaining import Budget, Reference, Sustaining, about
from deeprecsys.api.virtual import NodeModel, path_queries
from deeprecsys.core.errors import InputError, positive, shown
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog, Status, Steady, Summary, summarise
from deeprecsys.core.target import Target
from deeprecsys.engine import EngineSpec
from deeprecsys.machine.energy import Energy
from deeprecsys.machine.record import machine_record
from deeprecsys.node.driver import Recording
from deeprecsys.node.node import Node
from deeprecsys.node.trial import Hooks
from deeprecsys.search.capacity import capacity as search_capacity
from deeprecsys.search.confirm import Confirmed, Limit, in_blocks
from deeprecsys.search.margin import Margin, checked_margin
from deeprecsys.search.rank import saturation_qps
from deeprecsys.search.result import CapacityResult, Settings
from deeprecsys.workload.stream import Stream
from deeprecsys.zoo import model as named_model
from deeprecsys.zoo.custom import short_name

DURATION_S = 10.0
OFFLINE_S = 3.0
"""Length in seconds of the run that finds the offline rate."""
LEAST_TRIAL_S = 0.3


@shows_options(ExperimentOptions)
def bench(
    model: str | None = None,
    *,
    from_run: GivenRun | None = None,
    rate: float | None = None,
    duration: float | None = None,
    queries: int | None = None,
    policy: str | Policy | None = None,
    batch_size: int | None = None,
    offload_above: int | None = None,
    url: str | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    slices: bool = False,
    abandon: bool = True,
    progress: ProgressOption = True,
    **options: Unpack[ExperimentOptions],
) -> BenchRun:
    """Run one live trial of a model at a given rate.

    Args:
        from_run: a run of `tune`: its model, node, load, target, policy and rate, where none is given.
        rate: offered queries per second; a trace is offered at its own without one.
        duration: seconds of arrivals, or queries: how many; 10 seconds by default.
        policy: `NAME[:ARG]` or a policy, `deeprecsched` by default; batch_size, offload_above: its knobs.
        url: of a running server to load over HTTP; engine, workers and policy are its own.
        name: the model's at that URL; by default as `serve` names it by itself.
        out: a run directory to write to; slices: record each slice also without one.
        abandon: give the trial up once a query has been open for 20 targets; never on a server at a URL.

    Raises:
        InputError: an option's value is not valid.
        NodeError: the node cannot start, or nothing answers at the URL.
        Interrupted: the trial was; holds the result so far.
    """
    if name is not None and url is None:
        raise InputError(f"--name: expected --url with it, got {shown(name)} without")
    knobs = policy, batch_size, offload_above
    if from_run is not None:
        tuned = TunedRun(from_run)
        model, knobs = tuned.model(model), tuned.knobs(*knobs)
        options = cast(ExperimentOptions, tuned.options(options, ExperimentOptions.__annotations__))
        rate = tuned.rate_qps if rate is None else rate
    if model is None:
        raise InputError("MODEL: expected a model, or --from RUN, got neither")
    experiment = Experiment.resolve(model, **options)
    if rate is not None:
        checked_rate(rate)
    if duration is None and queries is None and options.get("trace") is None:
        duration = DURATION_S
    load = experiment.workload
    stream = offered(load.stream(rate, queries=queries, duration_s=duration), load, duration)
    with Record(experiment.configuration(), out, slices) as record:
        if url is not None:
            found = _bench_url(url, name, experiment, stream, record, progress)
        else:
            found = _bench(experiment, stream, knobs, record, abandon, progress)
        extra = found["extra"]
        found |= {
            "asked_s": duration or float(stream.arrival_s[-1]),
            "gave_up_after_s": extra["elapsed_s"] if extra.get("abandoned") else None,
        }
        result = BenchRun.of(record.run(found), found)
    if found["extra"].get("interrupted"):
        raise Interrupted(result)
    return result


def _bench(
    experiment: Experiment,
    stream: Stream,
    knobs: Knobs,
    record: Record,
    abandon: bool,
    progress: ProgressOption,
) -> dict[str, Any]:
    """One trial on a node of this machine."""
    with ExitStack() as stack:
        ready, gpu = stack.enter_context(accelerated(experiment, progress=progress))
        node = stack.enter_context(start(ready, progress))
        policy = experiment.policy(knobs[0] or "deeprecsched", *knobs[1:], node.workers)
        recording = Recording() if record.slices else None
        with stage(f"{experiment.node.model}: {stream.rate_qps:g} queries/s", progress) as report:
            hooks = TickHooks(lambda share: report(share, ""))
            log = run_trial(node, experiment, policy, stream, hooks, recording, abandon)
        record.trial("bench", log, recording.batches if recording else None, policy.describe())
        check_failures(log)
        return {
            **trial_document(log, experiment.target),
            **document(node, experiment, gpu),
            **policy.describe(),
            "extra": log.observed(),
            "touched": node.touched(stream),
        }


def _bench_url(
    url: str,
    name: str | None,
    experiment: Experiment,
    stream: Stream,
    record: Record,
    progress: ProgressOption,
) -> dict[str, Any]:
    """One trial on a server that runs elsewhere.

    Raises:
        InputError: it is no URL, or no such model is served there.
        NodeError: nothing answers there.
    """
    from deeprecsys.serve.load.offer import load  # it loads a parser of HTTP

    node = experiment.node
    schema = named_model(node.model).scaled(node.rows_scale).schema
    with stage(f"{node.model} at {url}: {stream.rate_qps:g} queries/s", progress) as report:
        asked = short_name(node.model) if name is None else name
        log = load(url, asked, schema, stream, experiment.target, node.seed,
                   progress=lambda share: report(share, ""))  # fmt: skip
    record.trial("bench", log, None, {})
    return {
        **trial_document(log, experiment.target),
        "model": node.model,
        "target": experiment.target_document(),
        "workload": experiment.workload.describe(),
        "url": url,
        "engine": f"that of {url}",
        "machine": machine_record(),
        "utilisation": None,
        "extra": log.observed(),
    }


@shows_options(ExperimentOptions)
def capacity(
    model: str,
    *,
    policy: str | Policy = "deeprecsched",
    batch_size: int | None = None,
    offload_above: int | None = None,
    budget: float | None = None,
    margin: float | None = None,
    full: bool = False,
    out: str | Path | None = None,
    progress: ProgressOption = True,
    **options: Unpack[ExperimentOptions],
) -> CapacityRun:
    """Find the highest rate at which a model meets its target under one given policy, by live trials, and run
    it uninterrupted at that rate less the margin.

    Args:
        policy: `NAME[:ARG]` or a policy; batch_size, offload_above: its knobs.
        budget: seconds of trials that the search may take; by default it depends on the target. The run at
        the
            rate found takes up to twice as long, and 75 s at most.
        margin: percent that batches may take longer at the rate found; by default the machine's own drift.
        full: run it as long as the rule for a sustained capacity asks.
        out: a run directory to write to.

    Raises:
        InputError: an option's value is not valid.
        NodeError: the node cannot start.
        TargetUnreachableError, TrialsVoidError: there is no capacity to be found.
        Interrupted: the search was; holds what it had found.
    """
    experiment = Experiment.resolve(model, **options)
    settings = Settings.live(experiment.target)
    runs = Budget.of(checked_margin(margin), full, budget)
    if budget is not None:
        share = positive("--budget", budget) / settings.budget_s
        trial_s = within_budget_s(settings.trial_s, experiment.target, share)
        settings = replace(settings, trial_s=trial_s, budget_s=budget)
    with ExitStack() as stack:
        record = stack.enter_context(Record(experiment.configuration(), out))
        ready, gpu = stack.enter_context(accelerated(experiment, progress=progress))
        node = stack.enter_context(start(ready, progress))
        chosen = experiment.policy(policy, batch_size, offload_above, node.workers)
        size = chosen.batch_size or experiment.node.max_query
        quick = quick_profile(node, experiment, size, settings.budget_s / 4)
        hint = 0.8 * saturation_qps(quick, size, sample_sizes(experiment), node.workers)
        size = min(size, experiment.node.max_query)
        reference = Reference(node, size, quick.seconds(size, node.workers))
        report = stack.enter_context(stage(f"{experiment.node.model}: searching", progress))
        listener = SearchProgress(report, record)
        with interruptible(listener):
            live = LiveTrials(node, experiment, listener, reference)
            found = search_capacity(
                live,
                chosen,
                experiment.target,
                hint_qps=hint,
                settings=settings,
                seed=experiment.node.seed,
                progress=listener,
            )
            # The profile holds no accelerator's batches: near its limit the CPU's baseline stands for it.
            holding = Sustaining(
                NodeModel.of(experiment, quick, node.workers),
                Margin.of(reference.drift, runs.margin_percent), runs, listener,
                path_queries([type(chosen)]),
            )  # fmt: skip
            near = holding.near(chosen if gpu is None else experiment.baseline(node.workers), hint)
            point = holding.held(live, limit_of(chosen, found), near)
            reference.look()
        result = {
            **document(node, experiment, gpu),
            **chosen.describe(),
            **summary_document(point.probe.summary),
            **found.to_json(),
            **about(near, point, holding.margin, reference),
            "sustained": point.sustained.to_json(),
            "qps": point.qps,
            "search": asdict(listener.cost),
        }
        return CapacityRun.of(record.run(result), result)


def limit_of(policy: Policy, found: CapacityResult) -> Confirmed:
    """What a capacity search found as a limit, with the highest rate that it ran and met."""
    assert found.capacity_qps is not None
    probe, met = found.point or found.probes[0], found.point is not None
    limit = Limit(found.capacity_qps, found.low_qps, found.high_qps)
    return Confirmed(policy, found, probe, met, 0, limit, in_blocks(probe, met))


@contextmanager
def interruptible(listener: SearchProgress) -> Iterator[None]:
    """Let an interrupt carry what a search had found."""
    try:
        yield
    except KeyboardInterrupt as e:
        raise Interrupted(found=tuple(listener.found)) from e


@contextmanager
def accelerated(
    experiment: Experiment,
    cpu: LatencyProfile | None = None,
    budget_s: float = 5.0,
    progress: ProgressOption = True,
) -> Iterator[tuple[Experiment, LatencyProfile | None]]:
    """The experiment with an accelerator that can start, and the profile of an emulated one.

    A published device is derived from the batch times of this machine's CPU, one worker busy: those of
    `cpu`, or measured first for about `budget_s`.
    """
    gpu = experiment.node.gpu
    if gpu is None:
        yield experiment, None
        return
    if published(gpu) and cpu is None:
        with start(experiment.on_cpu(), progress) as node:
            cpu = measure_profile(node, experiment, budget_s, alone=True, progress=progress)
    profile = emulated_profile(gpu, cpu)
    with TemporaryDirectory(prefix="deeprecsys-") as folder:
        engine = engine_of(gpu, profile, Path(folder))
        yield replace(experiment, node=replace(experiment.node, gpu=engine)), profile


def run_trial(
    node: Node,
    experiment: Experiment,
    policy: Policy,
    stream: Stream,
    hooks: Hooks | None,
    recording: Recording | None,
    abandon: bool = True,
) -> RunLog:
    """One trial, with the energy that the machine took meanwhile under `extra["energy"]`."""
    gpu = experiment.node.gpu
    real = gpu is not None and EngineSpec.parse(gpu).on_gpu
    with Energy(range(experiment.node.gpus) if real else ()) as spent:
        log = node.run(policy, stream, experiment.target, hooks, recording, abandon)
    served = int((log.status == Status.SERVED).sum())
    log.extra["energy"] = spent.document(served, emulated=gpu is not None and not real)
    return log


class LiveTrials:
    """Runs trials of an experiment on a node. Calling it is `search.probes.Trial`.

    Args:
        keeper: records the trials, under the role of their point; reference: looked at before each of them.
    """

    def __init__(
        self,
        node: Node,
        experiment: Experiment,
        keeper: SearchProgress | None = None,
        reference: Reference | None = None,
        role: str | None = None,
    ) -> None:
        self._node, self._experiment, self._keeper = node, experiment, keeper
        self._reference, self._role = reference, role
        self._hooks = TickHooks(keeper.tick) if keeper else None

    def __call__(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        """One trial; raises KeyboardInterrupt where Ctrl-C ended it, to end the search too."""
        if self._reference:
            self._reference.look()
        stream = replace(self._experiment.workload, seed=seed).stream(rate_qps, duration_s=duration_s)
        recording = self._keeper.recording() if self._keeper else None
        log = run_trial(self._node, self._experiment, policy, stream, self._hooks, recording)
        if self._keeper:
            self._keeper.keep(policy, log, recording, self._role)
        check_failures(log)
        if log.interrupted:
            raise KeyboardInterrupt
        return log


def within_budget_s(usual_s: float, target: Target, share: float) -> float:
    """Seconds of a trial where a search may take `share` of its usual time.

    Trials shrink with the budget, down to a few targets each: a queue would not show in shorter ones.
    """
    return max(min(share, 1.0) * usual_s, 5 * target.latency_s, LEAST_TRIAL_S)


def offline_qps(
    node: Node, experiment: Experiment, policy: Policy, about_qps: float, budget_s: float = OFFLINE_S
) -> float:
    """The node's rate without a target, over about three seconds of queries, or less: `budget_s`."""
    count = max(int(min(OFFLINE_S, budget_s) * about_qps), 50)
    return node.offline_qps(policy, experiment.workload.stream(1.0, queries=count))


def summary_document(s: Summary) -> dict[str, Any]:
    """A trial's summary under the names of the JSON of `bench`."""
    return {**asdict(s), "qps": s.rate_qps, "miss_rate": s.miss_rate}


def trial_document(log: RunLog, target: Target | None) -> dict[str, Any]:
    """One trial's figures under the names of the JSON of `bench`; whether it is void comes first."""
    steady = Steady.of(log, target) if target else None
    summary = summary_document(summarise(log, target))
    return {
        "void": summary["void"],
        **summary,
        "goodput_qps": steady.goodput_qps if steady else None,
        "throughput_qps": steady.throughput_qps if steady else None,
    }


def document(node: Node, experiment: Experiment, gpu: LatencyProfile | None = None) -> dict[str, Any]:
    """What every live result states: model, target, workload, node, accelerator and machine.

    Args:
        gpu: the profile that an emulated accelerator replays, or what was measured of a real one.
    """
    config = experiment.node
    return {
        "model": config.model,
        "target": experiment.target_document(),
        "workload": experiment.workload.describe(),
        "engine": config.engine,
        "precision": config.precision,
        "threads": config.threads,
        "workers": node.pool.counts,
        "node": node.describe(),
        **gpu_document(config.gpu, config.gpus, gpu),
        "machine": machine_record(),
    }
