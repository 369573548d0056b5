"""A live node as what the tuner asks for: a callable that runs one trial, and one that times batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import click
import numpy as np
from numpy.typing import NDArray

from deeprecsys.api.accelerator import emulated_profile, engine_of, gpu_document, published
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.progress import Bar, TickHooks
from deeprecsys.core.policy import GPU, Policy, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog, Status, summarise
from deeprecsys.engine import EngineSpec
from deeprecsys.machine.energy import Energy
from deeprecsys.machine.record import machine_record
from deeprecsys.node.driver import Recording
from deeprecsys.node.node import Node
from deeprecsys.node.runtime.cores import usable_cores
from deeprecsys.node.trial import Hooks
from deeprecsys.search.calibration import Ran, ratios
from deeprecsys.search.profiler import ProfilePlan, ProfileStep, profile
from deeprecsys.search.saturation import saturation_qps
from deeprecsys.simulate.fast import run
from deeprecsys.workload.stream import Stream

SAMPLE = 4000  # sizes that stand for the distribution where an expectation is wanted
OFFLINE_S = 3.0
TRIAL_S, TRIAL_LOAD, TRIALS = 3.0, 0.6, 3
"""Length and load of the trial that sets a profile right; how often it is run where it is disturbed."""
LEAST_BATCHES = 30
"""Of that trial: fewer do not say how quick and slow ones follow each other."""
HOST_BATCHES = 200
LISTWISE = "an item's score depends on the other items of its query: queries are scored whole, never cut"
DEVICE_BATCHES = tuple(1 << k for k in range(13))
"""Batch sizes of an accelerator's profile: what several queries may share."""


def start(job: Experiment) -> Node:
    """The job's node, with a bar while its tables are filled and its workers start."""
    if not job.splits:
        click.echo(f"deeprecsys: {job.node.model}: {LISTWISE}", err=True)
    with Bar(f"{job.node.model}: starting") as bar:
        return Node(job.node, bar.said)


@contextmanager
def accelerated(
    job: Experiment, cpu: LatencyProfile | None = None, budget_s: float = 5.0
) -> Iterator[tuple[Experiment, LatencyProfile | None]]:
    """The job with an accelerator that can start, and the profile of an emulated one.

    A published device goes by the batch times of this machine's CPU, one worker busy: those of `cpu`, or
    measured first for about `budget_s`.
    """
    gpu = job.node.gpu
    if gpu is None:
        yield job, None
        return
    if published(gpu) and cpu is None:
        with start(job.on_cpu()) as node:
            cpu = measure_profile(node, job, budget_s, alone=True)
    profile = emulated_profile(gpu, cpu)
    with TemporaryDirectory(prefix="deeprecsys-") as folder:
        engine = engine_of(gpu, profile, Path(folder))
        yield replace(job, node=replace(job.node, gpu=engine)), profile


class TrialRecorder(Protocol):
    """Hears of progress within a trial, and keeps its raw records where somebody wants them."""

    def tick(self, share: float) -> None: ...

    def recording(self) -> Recording | None:
        """Where the next trial is to be recorded slice by slice; None if it need not be."""

    def keep(self, policy: Policy, log: RunLog, recording: Recording | None) -> None:
        """A trial ended."""


def run_trial(
    node: Node,
    job: Experiment,
    policy: Policy,
    stream: Stream,
    hooks: Hooks | None,
    recording: Recording | None,
) -> RunLog:
    """One trial, and under `extra["energy"]` what the machine took meanwhile."""
    gpu = job.node.gpu
    real = gpu is not None and EngineSpec.parse(gpu).on_gpu
    with Energy(range(job.node.gpus) if real else ()) as spent:
        log = node.run(policy, stream, job.target, hooks, recording)
    served = int((log.status == Status.SERVED).sum())
    log.extra["energy"] = spent.document(served, emulated=gpu is not None and not real)
    return log


class LiveTrials:
    """Runs trials of a job on a node. Calling it is `tune.Trial`."""

    def __init__(self, node: Node, job: Experiment, keeper: TrialRecorder | None = None) -> None:
        self._node, self._job, self._keeper = node, job, keeper
        self._hooks = TickHooks(keeper.tick) if keeper else None

    def __call__(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        """One trial; raises KeyboardInterrupt where Ctrl-C ended it, for the tuner to end too."""
        stream = replace(self._job.workload, seed=seed).stream(rate_qps, duration_s=duration_s)
        recording = self._keeper.recording() if self._keeper else None
        log = run_trial(self._node, self._job, policy, stream, self._hooks, recording)
        if self._keeper:
            self._keeper.keep(policy, log, recording)
        if log.interrupted:
            raise KeyboardInterrupt
        return log


def sample_sizes(job: Experiment) -> NDArray[np.int32]:
    """A sample of the workload's query sizes."""
    return job.workload.stream(1.0, queries=SAMPLE).size


def measure_profile(node: Node, job: Experiment, budget_s: float, *, alone: bool = False) -> LatencyProfile:
    """s(b) of the job's model on this node, at one, some and all workers busy; or at one alone."""
    largest = job.node.max_query
    sizes = (*(1 << k for k in range(largest.bit_length()) if 1 << k < largest), largest)
    levels = [1] if alone else sorted({1, -(-node.workers // 2), node.workers})
    plan = ProfilePlan(batches=sizes, busy=tuple(levels), budget_s=budget_s, after_idle=not alone)
    with Bar(f"{job.node.model}: profiling") as bar:

        def step(s: ProfileStep) -> None:
            bar.set(s.spent_s / s.budget_s, f"batch {s.batch}, {s.busy} busy")

        measured = profile(
            node.measure,
            job.node.model,
            plan,
            engine=job.node.engine,
            precision=job.node.precision,
            threads=job.node.threads,
            machine=machine_record(),
            progress=step,
        )
    return measured if alone else in_open_loop(node, job, measured)


def in_open_loop(node: Node, job: Experiment, closed: LatencyProfile) -> LatencyProfile:
    """A profile of batches in a row, set right by one trial at `TRIAL_LOAD` of the load that it lets expect.

    Queries that come when they come find colder caches, sizes in turn and a node process that must be woken:
    on the same cores that costs time which batches of one size in a row do not show (docs/design/0010).
    What the process takes for every query becomes `host_s`; all times are multiplied by what is left then
    between the time that the trial's batches took and what the simulator makes of the same queries. Quick and
    slow ones follow each other as the trial's did (`LatencyProfile.ordered`): a shared machine is slow for a
    while, and batches that are slow together make longer lines.

    A profile that was measured before is set right the same way: the machine may run at another speed today.
    """
    policy, share = baseline(node, job), TRIAL_LOAD
    full = saturation_qps(closed, policy.batch_size, sample_sizes(job), node.workers)
    for _ in range(TRIALS):
        rate = share * full
        stream = job.workload.stream(rate, duration_s=TRIAL_S)
        recording = Recording()
        log = node.run(policy, stream, job.target, recording=recording)
        summary = summarise(log, job.target)
        swamped = summary.completed < summary.offered
        if not (swamped or summary.disturbed or summary.void):
            break
        share /= 2 if swamped else 1
    profile = replace(closed, host_s=host_s(node, job, log))
    if not (log.status == Status.SERVED).all():
        return profile  # of a load that was too high it is not known what the time went to
    virtual = run(policy, log.arrival_s, log.size, profile, node.workers, rate_qps=rate)
    assert log.occupied_s is not None
    ratio = log.occupied_s / virtual.busy_s
    known = {k: v for k, v in closed.detail.items() if k != "open_loop_ratio"}
    right = profile.slowed(ratio)
    if len(recording.batches) >= LEAST_BATCHES:
        ran = [Ran(posted, heard, b.worker, b.items) for b, posted, _, _, heard in recording.numbered]
        right = right.ordered(ratios(ran, profile))
    return replace(right, host_s=profile.host_s, detail={**known, "open_loop_ratio": ratio})


def host_s(node: Node, job: Experiment, log: RunLog) -> float:
    """What one query of a trial cost the node's own process in CPU seconds, beyond what batches in a row cost
    it; 0 where the workers leave it a core of its own."""
    if node.workers * job.node.threads < len(usable_cores()):
        return 0.0
    began = time.process_time()
    batches = len(node.measure(1, node.workers, HOST_BATCHES))
    batch_s = (time.process_time() - began) / max(batches, 1)
    assert log.node_cpu_share is not None
    assert log.elapsed_s is not None
    assert log.batches is not None
    spent_s = log.node_cpu_share * log.elapsed_s
    return max(spent_s - log.batches * batch_s, 0.0) / max(len(log.size), 1)


def measure_gpu(node: Node, job: Experiment, budget_s: float) -> LatencyProfile:
    """s(b) of the job's model on this node's accelerator, through the node's own path."""
    plan = ProfilePlan(batches=DEVICE_BATCHES, budget_s=budget_s)
    measure = partial(node.measure, device=GPU)
    machine = machine_record() | {"gpu": str(job.node.gpu)}
    return profile(measure, job.node.model, plan, engine=str(job.node.gpu), precision=job.node.precision,
                   machine=machine)  # fmt: skip


def quick_hint_qps(node: Node, job: Experiment, batch_size: int) -> float:
    """About what the node can carry, from a second or two of measuring."""
    batches = sorted({1, min(batch_size, job.node.max_query), job.node.max_query})
    plan = ProfilePlan(batches=tuple(batches), busy=(node.workers,), budget_s=1.5, rounds=2)
    quick = profile(node.measure, job.node.model, plan)
    return saturation_qps(quick, batch_size, sample_sizes(job), node.workers)


def offline_qps(node: Node, job: Experiment, policy: Policy, about_qps: float) -> float:
    """The node's rate without a target, over about three seconds of queries."""
    count = max(int(OFFLINE_S * about_qps), 50)
    return node.offline_qps(policy, job.workload.stream(1.0, queries=count))


def baseline(node: Node, job: Experiment) -> Static:
    """The static baseline of this node and workload."""
    return job.baseline(node.workers)


def document(node: Node, job: Experiment, gpu: LatencyProfile | None = None) -> dict[str, Any]:
    """What every result states: model, target, workload, node and machine; of an accelerator, what it is.

    Args:
        gpu: the profile that an emulated accelerator replays, or what was measured of a real one.
    """
    return {
        "model": job.node.model,
        "target": job.target_document(),
        "workload": job.workload.describe(),
        "engine": job.node.engine,
        "precision": job.node.precision,
        "threads": job.node.threads,
        "workers": node.pool.counts,
        "node": node.describe(),
        **gpu_document(job.node.gpu, job.node.gpus, gpu),
        "machine": machine_record(),
    }
