"""`tune`, the main job: by model or by a live climb; and `quality`, what a lower precision costs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

from deeprecsys.api.engines import choices, ranked, sizes_of
from deeprecsys.api.experiment import Experiment, NodeOptions, TuneOptions, shows_options
from deeprecsys.api.policies import class_of, policies_to_search
from deeprecsys.api.predict import offloaded_share, prediction
from deeprecsys.api.profiles import GivenProfile, measure_gpu, refreshed, sample_sizes, start
from deeprecsys.api.progress import ProgressOption, SearchProgress, stage
from deeprecsys.api.runs import QualityRun, Record, TuneRun
from deeprecsys.api.sustaining import Budget, Reference, Sustaining, about
from deeprecsys.api.trials import (
    LiveTrials,
    accelerated,
    document,
    interruptible,
    offline_qps,
    within_budget_s,
)
from deeprecsys.api.usual import REFERENCE, eager_asked, is_usual, usual_point
from deeprecsys.api.virtual import Accelerators, path_queries, sample_path, virtual_node
from deeprecsys.core.errors import InputError, positive, unknown
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.target import Target
from deeprecsys.engine import FASTEST
from deeprecsys.engine.isa import DEFAULT
from deeprecsys.machine.record import machine_record
from deeprecsys.node.node import Node
from deeprecsys.search.climbs import HillClimb, model_search
from deeprecsys.search.history import Search, thresholds
from deeprecsys.search.margin import Margin, checked_margin
from deeprecsys.search.probes import Trial
from deeprecsys.search.quality import compare
from deeprecsys.search.rank import Ranking, saturation_qps
from deeprecsys.search.result import Settings
from deeprecsys.search.tuner import Beside, TuneResult, TuneSettings, tune_by_model
from deeprecsys.search.tuner import tune as tune_live

METHODS = ("model", "live")
PROFILE_S = 20.0
SHARE_QUERIES = 100_000
QUALITY_QUERIES = 200


@shows_options(TuneOptions)
def tune(
    model: str,
    *,
    profile: GivenProfile | Sequence[GivenProfile] = (),
    method: str = "model",
    policy: str | Sequence[str] = (),
    engine: str | Sequence[str] = (),
    threads: int | Sequence[int] = 1,
    budget: float | None = None,
    margin: float | None = None,
    full: bool = False,
    out: str | Path | None = None,
    progress: ProgressOption = True,
    **options: Unpack[TuneOptions],
) -> TuneRun:
    """Find the operating point that carries the most queries per second of a model within its target.

    Measures batch times, searches engines, policies and their knobs in virtual time, and finds the limits of
    the winner, of the static baseline and of eager torch's live, interleaved, with load that the search never
    used. The winner then runs uninterrupted at its limit less the margin.

    Args:
        profile: profiles measured before, with their engines and threads; without one they are measured.
        method: `model`; or `live`, a climb under live load on the first engine, from batch size 1 up.
        policy: policies to search besides the usual ones: names, `FILE.py:Class` or `module:Class`.
        engine, threads: those to try; by default every engine that computes in the precision, one thread.
        budget: seconds of live trials; by default it depends on the target. The run at the rate found takes
            up to twice as long, and 75 s at most.
        margin: percent that batches may take longer at the rate found; by default the machine's own drift.
        full: run every point as long as the rule for a sustained capacity asks.
        out: a run directory to write to.

    Raises:
        InputError: an option's value is not valid.
        NodeError: the node cannot start.
        TargetUnreachableError: no operating point meets the target at any load.
        NotConfirmedError, TrialsVoidError: none met it when it ran on this machine now.
        Interrupted: the search was; holds what it had found.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    engines = (engine,) if isinstance(engine, str) else tuple(engine)
    tried_threads = (threads,) if isinstance(threads, int) else tuple(threads)
    profiles = (profile,) if isinstance(profile, GivenProfile) else tuple(profile)
    policies = (policy,) if isinstance(policy, str) else tuple(policy)
    kinds = policies_to_search(policies)
    setups = choices(model, options, engines, tried_threads, profiles)
    if budget is not None:
        positive("--budget", budget)
    runs = Budget.of(checked_margin(margin), full, budget)
    settings = tune_settings(setups[0].experiment.target, budget)
    profile_s = min(PROFILE_S, settings.climb_budget_s / 4)
    with ExitStack() as stack:
        record = stack.enter_context(Record(setups[0].experiment.configuration(), out))
        several = method == "model" and len(setups) > 1
        tried = [ranked(setup, profile_s, kinds, progress) for setup in setups] if several else []
        best = max(tried, key=lambda t: t.qps, default=None)
        experiment = best.setup.experiment if best else setups[0].experiment
        one_thread = replace(experiment, node=replace(experiment.node, threads=1))
        exact = experiment.node.precision == "fp32"
        scores = None if exact else _quality(one_thread, QUALITY_QUERIES, progress)
        known = best.profile if best else setups[0].profile
        ready, emulated = stack.enter_context(accelerated(experiment, known, profile_s, progress))
        node = stack.enter_context(start(ready, progress))
        measured, warnings = refreshed(node, experiment, known, bool(profiles), profile_s, progress)
        gpu = accelerators(node, experiment, emulated, profile_s)
        report = stack.enter_context(stage(f"{experiment.node.model}: searching", progress))
        listener = SearchProgress(report, record, settings.climb_budget_s)
        static = experiment.baseline(node.workers)
        hint = saturation_qps(measured, static.batch_size, sample_sizes(experiment), node.workers)
        whole_s = measured.seconds(static.batch_size, node.workers)
        reference = Reference(node, static.batch_size, whole_s)
        live = LiveTrials(node, experiment, listener, reference)
        usual, notes = stack.enter_context(
            usual_point(node, experiment, static, tried, engines, (listener, reference), profile_s, progress)
        )
        warnings += notes
        with interruptible(listener):
            if method == "live":
                found = climb(live, node.workers, experiment, hint, settings, listener, usual, policies)
            else:
                ran_before = best is not None and gpu is None and measured is best.profile
                ranking = best.ranking if best and ran_before else None
                found = by_model(
                    live,
                    node.workers,
                    experiment,
                    measured,
                    ranking,
                    hint,
                    listener,
                    budget,
                    kinds,
                    usual,
                    gpu,
                )
            if is_usual(experiment) and eager_asked(engines):
                found = replace(found, eager=found.static)
            holding = Sustaining(
                experiment, measured, node.workers, Margin.of(reference.drift, runs.margin_percent), runs,
                listener, path_queries(kinds), gpu,
            )  # fmt: skip
            near = holding.near(found.tuned.policy, found.tuned.capacity.capacity_qps or hint)
            found = holding.result(found, near, live, usual and usual[0])
            reference.look()
        result = {
            **document(node, experiment, gpu.profile if gpu else None),
            "profile": measured.to_json(),
            **found.to_json(),
            **about(near, found.tuned, holding.margin, reference),
            "precision_allowed": options.get("precision", "fp32"),
            "quality": scores,
            "setups": [t.to_json() for t in tried],
            "warnings": [w for setup in setups for w in setup.warnings] + warnings,
            "offline_qps": offline_qps(node, experiment, found.tuned.policy, hint, profile_s),
            **prediction(measured, experiment, node.workers, found.tuned, gpu),
        }
        for point in filter(None, (result["static"], result["tuned"])):
            point["energy"] = listener.energy(point)
        if result["eager"]:
            result["eager"] |= {"engine": REFERENCE, "precision": "fp32", "threads": 1}
        result["tuned"] |= _node_of(experiment, node.workers, found.tuned.policy, gpu)
        return TuneRun.of(record.run(result), result)


def _node_of(
    experiment: Experiment, workers: int, policy: Policy, gpu: Accelerators | None
) -> dict[str, Any]:
    """What the tuned point ran on, as JSON values."""
    node = experiment.node
    found: dict[str, Any] = {
        "engine": node.engine, "precision": node.precision, "threads": node.threads, "workers": workers,
    }  # fmt: skip
    if gpu:
        sizes = experiment.workload.stream(1.0, queries=SHARE_QUERIES)
        found["gpu_share"] = offloaded_share(policy, sizes)
    return found


def climb(
    live: Trial,
    workers: int,
    experiment: Experiment,
    hint_qps: float,
    settings: TuneSettings,
    listener: SearchProgress,
    usual: Beside | None = None,
    policies: Sequence[str] = (),
) -> TuneResult:
    """Tune an experiment by live trials on its node: by the paper's climb, and by climbs over the policies
    named.

    Every candidate runs under live load.
    """
    target, sizes, limits = experiment.target, sizes_of(experiment, workers), thresholds_of(experiment)
    search: Search = HillClimb(sizes, limits)
    if policies:
        kinds = [class_of(text)[0] for text in policies]
        search = model_search(sizes, limits, kinds=kinds, latency_s=target.latency_s)
    return tune_live(
        live,
        target,
        static=experiment.baseline(workers),
        search=search,
        hint_qps=hint_qps,
        settings=settings,
        seed=experiment.node.seed,
        eager=usual,
        progress=listener,
    )


def by_model(
    live: Trial,
    workers: int,
    experiment: Experiment,
    profile: LatencyProfile,
    ranking: Ranking | None,
    hint_qps: float,
    listener: SearchProgress,
    budget_s: float | None,
    kinds: Sequence[type[Policy]],
    usual: Beside | None = None,
    gpu: Accelerators | None = None,
) -> TuneResult:
    """Tune an experiment on its node by simulation on a profile.

    Args:
        ranking: what was ranked on this profile before; None starts anew.
        budget_s: seconds of the live trials in blocks.
        kinds: the policies to search.
    """
    target, workload = experiment.target, experiment.workload
    if ranking is None:
        path = sample_path(profile, workload, workers, target, path_queries(kinds), gpu)
        ranking = Ranking(path, target, hint_qps)
    return tune_by_model(
        live,
        virtual_node(profile, workload, workers, target, gpu),
        ranking,
        target,
        static=experiment.baseline(workers),
        search=model_search(
            sizes_of(experiment, workers),
            thresholds_of(experiment),
            kinds=kinds,
            latency_s=target.latency_s,
        ),
        settings=TuneSettings.by_model(target, budget_s) if budget_s else TuneSettings.by_model(target),
        seed=experiment.node.seed,
        eager=usual,
        progress=listener,
    )


def thresholds_of(experiment: Experiment) -> tuple[int, ...]:
    """The offload thresholds to try; none where there is no accelerator."""
    if not experiment.node.gpu:
        return ()
    return thresholds(experiment.workload.sizes.cap, sample_sizes(experiment))


def accelerators(
    node: Node, experiment: Experiment, emulated: LatencyProfile | None, budget_s: float
) -> Accelerators | None:
    """The node's accelerators in virtual time: an emulated one's profile, or what a real one measures."""
    if experiment.node.gpu is None:
        return None
    return Accelerators(emulated or measure_gpu(node, experiment, budget_s), experiment.node.gpus)


def tune_settings(target: Target, budget_s: float | None) -> TuneSettings:
    """The live settings, or these scaled so that the climb takes about `budget_s`."""
    settings = TuneSettings.live(target)
    if budget_s is None:
        return settings
    factor = positive("--budget", budget_s) / settings.climb_budget_s
    usual = settings.candidate.trial_s
    trial_s = within_budget_s(usual, target, factor)

    def scaled(part: Settings) -> Settings:
        return replace(part, trial_s=trial_s, budget_s=factor * part.budget_s)

    return replace(
        settings,
        climb_budget_s=budget_s,
        candidate=scaled(settings.candidate),
        refine=scaled(settings.refine),
        confirm=replace(settings.confirm, trial_s=trial_s / usual * settings.confirm.trial_s),
    )


@shows_options(NodeOptions)
def quality(
    model: str,
    *,
    engine: str = FASTEST,
    precision: str = "bf16",
    queries: int = QUALITY_QUERIES,
    arrivals: str | None = None,
    sizes: str | None = None,
    trace: str | Path | None = None,
    out: str | Path | None = None,
    progress: ProgressOption = True,
    **options: Unpack[NodeOptions],
) -> QualityRun:
    """Score queries of a model at a lower precision and at fp32 by eager torch, and compare their order.

    Args:
        queries: how many to score.
        out: a run directory to write to.

    Raises:
        InputError: an option's value is not valid.
        NodeError: a node cannot start.
    """
    experiment = Experiment.resolve(
        model, engine=engine, precision=precision, arrivals=arrivals, sizes=sizes, trace=trace,
        needs_target=False, **options,
    )  # fmt: skip
    with Record(experiment.configuration(), out) as record:
        result = {
            "model": experiment.node.model,
            "workload": experiment.workload.describe(),
            "engine": experiment.node.engine,
            "precision": precision,
            "quality": _quality(experiment, queries, progress),
            "machine": machine_record(),
        }
        return QualityRun.of(record.run(result), result)


def _quality(experiment: Experiment, queries: int, progress: ProgressOption) -> dict[str, Any]:
    """An experiment's scores of queries of its workload compared with eager torch's at fp32, as JSON values.

    The two nodes are started one after the other: both sets of tables might not fit at once.
    """
    if queries < 1:
        raise InputError(f"--queries: expected at least 1, got {queries}")
    stream = experiment.workload.stream(1.0, queries=queries)
    reference = replace(experiment.node, engine=REFERENCE, precision="fp32", threads=1, isa=DEFAULT)
    with start(replace(experiment, node=reference), progress) as node:
        exact = node.score(stream)
    with start(experiment, progress) as node:
        scores, arithmetic, table_bytes = node.score(stream), node.arithmetic, node.footprint()["table_bytes"]
    return {
        "reference": f"{REFERENCE} fp32",
        "arithmetic": arithmetic,
        "table_bytes": table_bytes,
        **asdict(compare(exact, scores)),
    }
