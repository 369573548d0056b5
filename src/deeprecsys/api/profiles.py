"""Latency profiles: batch times s(b), measured on a live node and calibrated, or read from a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from deeprecsys.api.experiment import Experiment, ModelOptions, shows_options
from deeprecsys.api.progress import ProgressOption, stage
from deeprecsys.api.runs import ProfileRun, Record, TuneRun
from deeprecsys.core.errors import NodeError, positive
from deeprecsys.core.policy import GPU
from deeprecsys.core.profile import FAR, LatencyProfile
from deeprecsys.core.runlog import RunLog, Status, summarise
from deeprecsys.files import read_profile
from deeprecsys.machine.record import machine_record, same_machine
from deeprecsys.node.driver import Recording
from deeprecsys.node.node import Node
from deeprecsys.node.runtime.cores import usable_cores
from deeprecsys.search.profiler import ProfilePlan, ProfileStep, Ran, ratios
from deeprecsys.search.profiler import profile as measure
from deeprecsys.search.rank import saturation_qps
from deeprecsys.simulate.fast import run
from deeprecsys.zoo import model
from deeprecsys.zoo.custom import Own

log = logging.getLogger("deeprecsys.api")

STAGED_ITEMS, STAGE_ROUNDS, STAGE_REPEATS = 64, 5, 20
"""Items of the batch by which a user stage's saving is measured, rounds, and batches of each kind in one."""
SAMPLE = 4000
"""Query sizes that stand for their distribution in an expectation."""
TRIAL_S, TRIAL_LOAD, TRIALS = 3.0, 0.6, 3
"""Length in seconds and load of the trial that calibrates a profile; how often it runs where disturbed."""
HINT_S = 1.5
"""Seconds of measuring for a first guess of the capacity."""
LEAST_BATCHES = 30
"""Batches of that trial below which the order of quick and slow ones is not known."""
HOST_BATCHES = 200
LISTWISE = "an item's score depends on the other items of its query: queries are scored whole, never cut"
DEVICE_BATCHES = tuple(1 << k for k in range(13))
QUERIES_TOGETHER = 4
"""Largest queries in the largest batch of an accelerator that is measured."""
"""Batch sizes of an accelerator's profile, in items: several queries may share one."""

GivenProfile = LatencyProfile | ProfileRun | TuneRun | str | Path
"""A profile, the result of `profile` or `tune`, or a file."""


@shows_options(ModelOptions)
def profile(
    model: str,
    *,
    budget: float = 20.0,
    sizes: str | None = None,
    out: str | Path | None = None,
    progress: ProgressOption = True,
    **options: Unpack[ModelOptions],
) -> ProfileRun:
    """Measure the batch times s(b) of a model on this machine, with 1 to all workers busy.

    Args:
        budget: seconds to measure for.
        sizes: the query sizes; the largest is the largest batch.
        out: a run directory to write to.

    Raises:
        InputError: an option's value is not valid.
        NodeError: the node cannot start.
    """
    experiment = Experiment.resolve(model, sizes=sizes, needs_target=False, **options)
    positive("--budget", budget)
    with Record(experiment.configuration(), out) as record:
        with start(experiment, progress) as node:
            found = measure_profile(node, experiment, budget, progress=progress).to_json()
        return ProfileRun.of(record.run(found), found)


def start(experiment: Experiment, progress: ProgressOption = True) -> Node:
    """The experiment's node; progress is that of filling its tables and starting its workers."""
    if not experiment.splits:
        log.warning("%s: %s", experiment.node.model, LISTWISE)
    found = model(experiment.node.model)
    for note in found.notes if isinstance(found, Own) else ():
        log.warning("%s: %s", experiment.node.model, note)
    with stage(f"{experiment.node.model}: starting", progress) as report:
        return Node(experiment.node, lambda what, share: report(share, what))


def load_profile(path: str | Path) -> LatencyProfile:
    """A latency profile from a file.

    Raises:
        InputError: there is no such file, or it is no profile.
    """
    return read_profile(f"--profile {path}", path)


def given_profile(given: GivenProfile) -> LatencyProfile:
    """A profile that was given, or measured, or is in a file."""
    if isinstance(given, ProfileRun | TuneRun):
        return given.latency_profile
    return given if isinstance(given, LatencyProfile) else load_profile(given)


def name_of(given: GivenProfile) -> str:
    """A given profile's name in messages: its file, or its model."""
    return str(given.model if isinstance(given, LatencyProfile | ProfileRun | TuneRun) else given)


def measured_elsewhere(profile: LatencyProfile) -> bool:
    """Whether a profile states that another machine was measured."""
    return bool(profile.machine) and not same_machine(dict(profile.machine), machine_record())


def sample_sizes(experiment: Experiment) -> NDArray[np.int32]:
    """A sample of the workload's query sizes."""
    return experiment.workload.stream(1.0, queries=SAMPLE).size


def measure_profile(
    node: Node,
    experiment: Experiment,
    budget_s: float,
    *,
    alone: bool = False,
    progress: ProgressOption = True,
) -> LatencyProfile:
    """s(b) of the experiment's model on this node, at one, some and all workers busy.

    Args:
        alone: at one busy worker only, and not calibrated.
    """
    largest = experiment.node.max_query
    sizes = (*(1 << k for k in range(largest.bit_length()) if 1 << k < largest), largest)
    levels = [1] if alone else sorted({1, -(-node.workers // 2), node.workers})
    plan = ProfilePlan(batches=sizes, busy=tuple(levels), budget_s=budget_s, after_idle=not alone)
    with stage(f"{experiment.node.model}: profiling", progress) as report:

        def step(s: ProfileStep) -> None:
            report(s.spent_s / s.budget_s, f"batch {s.batch}, {s.busy} busy")

        measured = measure(
            node.measure,
            experiment.node.model,
            plan,
            engine=experiment.node.engine,
            precision=experiment.node.precision,
            threads=experiment.node.threads,
            machine=machine_record(),
            progress=step,
        )
    if node.work:
        detail = {**measured.detail, "lookups": experiment.workload.lookups}
        measured = replace(measured, lookup_share=node.lookup_share, detail=detail)
    if alone:
        return measured
    if node.user_stage:
        measured = with_stage(node, measured)
    return calibrated(node, experiment, measured, plan.budget_s)


def with_stage(node: Node, measured: LatencyProfile) -> LatencyProfile:
    """The profile with the times of a user stage, and of what batches then save, all workers busy."""
    stage, whole, rest = ([] for _ in range(3))  # type: tuple[list[float], list[float], list[float]]
    items = min(STAGED_ITEMS, node.config.max_query)
    for _ in range(STAGE_ROUNDS):
        for found, batch, staged in ((stage, 0, False), (whole, items, False), (rest, items, True)):
            found.append(float(np.median(node.measure(batch, node.workers, STAGE_REPEATS, staged=staged))))
    saved_s = max(float(np.median(whole) - np.median(rest)), 0.0)
    # Stages in a row find their weights in a cache; between other batches they cost what they save.
    return replace(measured, stage_s=max(float(np.median(stage)), saved_s), staged_s=saved_s)


def calibrated(
    node: Node, experiment: Experiment, closed: LatencyProfile, budget_s: float = inf
) -> LatencyProfile:
    """A profile of batches in a row, calibrated by one trial at `TRIAL_LOAD` of the load that it predicts.

    Queries that come when they come find colder caches, sizes in turn and a node process that must be woken:
    on the same cores that costs time which batches of one size in a row do not show (docs/design/0010).
    What the process takes for every query becomes `host_s`; all times are multiplied by what is left then
    between the time that the trial's batches took and what the simulator makes of the same queries. Quick and
    slow ones follow each other as the trial's did (`LatencyProfile.ordered`): a shared machine is slow for a
    while, and batches that are slow together make longer lines.

    A profile that was measured before is calibrated the same way: the machine's speed may have changed.

    Args:
        budget_s: seconds of arrivals, where that is less than the usual `TRIAL_S`.
    """
    policy, share = experiment.baseline(node.workers), TRIAL_LOAD
    full = saturation_qps(closed, policy.batch_size, sample_sizes(experiment), node.workers)
    for _ in range(TRIALS):
        rate = share * full
        stream = experiment.workload.stream(rate, duration_s=min(TRIAL_S, budget_s))
        recording = Recording()
        trial = node.run(policy, stream, experiment.target, recording=recording)
        check_failures(trial)
        summary = summarise(trial, experiment.target)
        swamped = summary.completed < summary.offered
        if not (swamped or summary.disturbed or summary.void):
            break
        share /= 2 if swamped else 1
    profile = replace(closed, host_s=host_s(node, experiment, trial))
    if not (trial.status == Status.SERVED).all():
        return profile  # what the time of an overloaded trial went to is not known
    virtual = run(policy, trial.arrival_s, trial.size, profile, node.workers, rate_qps=rate)
    assert trial.occupied_s is not None
    ratio = trial.occupied_s / virtual.busy_s
    known = {k: v for k, v in closed.detail.items() if k != "open_loop_ratio"}
    right = profile.slowed(ratio)
    if len(recording.batches) >= LEAST_BATCHES:
        ran = [Ran(posted, heard, b.worker, b.items) for b, posted, _, _, heard in recording.numbered]
        right = right.ordered(ratios(ran, profile))
    return replace(right, host_s=profile.host_s, detail={**known, "open_loop_ratio": ratio})


def host_s(node: Node, experiment: Experiment, trial: RunLog) -> float:
    """CPU seconds that one query of a trial cost the node's own process, beyond those of batches in a row; 0
    where the workers leave the process a core of its own."""
    if node.workers * experiment.node.threads < len(usable_cores()):
        return 0.0
    began = time.process_time()
    batches = len(node.measure(1, node.workers, HOST_BATCHES))
    batch_s = (time.process_time() - began) / max(batches, 1)
    assert trial.node_cpu_share is not None
    assert trial.elapsed_s is not None
    assert trial.batches is not None
    spent_s = trial.node_cpu_share * trial.elapsed_s
    return max(spent_s - trial.batches * batch_s, 0.0) / max(len(trial.size), 1)


def refreshed(
    node: Node,
    experiment: Experiment,
    known: LatencyProfile | None,
    other_run: bool,
    budget_s: float,
    progress: ProgressOption = True,
) -> tuple[LatencyProfile, list[str]]:
    """The batch times of a node at its present speed, and warnings about them.

    A trial compares the machine's speed with a profile's. A profile of another run is calibrated by it; one
    of this run, measured before other engines were, is kept if it still holds, else measured again.

    Args:
        known: the profile of this engine; None to measure it.
        other_run: whether it was measured in another run.
    """
    if known is None:
        return measure_profile(node, experiment, budget_s, progress=progress), []
    profile = calibrated(node, experiment, known, budget_s)
    ratio = profile.points[0].mean_s / known.points[0].mean_s
    if 1 / FAR < ratio < FAR:
        return profile if other_run else known, []
    now = f"batches now take {ratio:.2f} times what the profile"
    if other_run:
        return profile, [f"{now} says; all times were calibrated by that"]
    measured = measure_profile(node, experiment, budget_s, progress=progress)
    return measured, [f"{now} of minutes before says; it was measured again"]


def measure_gpu(node: Node, experiment: Experiment, budget_s: float) -> LatencyProfile:
    """s(b) of the experiment's model on this node's accelerator, through the node's own path."""
    most = QUERIES_TOGETHER * experiment.node.max_query
    plan = ProfilePlan(batches=tuple(b for b in DEVICE_BATCHES if b <= most), budget_s=budget_s)
    on_gpu = partial(node.measure, device=GPU)
    engine = str(experiment.node.gpu)
    machine: Mapping[str, Any] = machine_record() | {"gpu": engine}
    return measure(on_gpu, experiment.node.model, plan, engine=engine, precision=experiment.node.precision,
                   machine=machine)  # fmt: skip


def check_failures(log: RunLog) -> None:
    """Raise NodeError, with the first cause, if queries of a trial failed: it measures nothing."""
    if failed := int((log.status == Status.FAILED).sum()):
        causes = log.extra.get("failures") or ["for no reason that is known"]
        raise NodeError(f"{failed} of {len(log.status)} queries failed, the first: {causes[0]}")


def quick_profile(
    node: Node, experiment: Experiment, batch_size: int, budget_s: float = inf
) -> LatencyProfile:
    """Batch times with all workers busy, from a second or two of measuring, or less: `budget_s`."""
    largest = experiment.node.max_query
    batches = sorted({1, min(batch_size, largest), largest})
    seconds = min(HINT_S, budget_s)
    plan = ProfilePlan(batches=tuple(batches), busy=(node.workers,), budget_s=seconds, rounds=2)
    return replace(measure(node.measure, experiment.node.model, plan), lookup_share=node.lookup_share)


def quick_hint_qps(node: Node, experiment: Experiment, batch_size: int, budget_s: float = inf) -> float:
    """About what the node can carry, from a moment of measuring."""
    quick = quick_profile(node, experiment, batch_size, budget_s)
    return saturation_qps(quick, batch_size, sample_sizes(experiment), node.workers)
