"""`tune`, the main job: find the operating point by model or by a live climb, and hold it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from deeprecsys.api.engines import choices, ranked
from deeprecsys.api.experiment import Experiment, TuneOptions, shows_options
from deeprecsys.api.methods import Searching, tune_settings
from deeprecsys.api.policies import policies_to_search
from deeprecsys.api.predict import bound_qps, offloaded_share, prediction
from deeprecsys.api.profiles import GivenProfile, measure_gpu, refreshed, start
from deeprecsys.api.progress import ProgressOption, SearchProgress, stage
from deeprecsys.api.quality import QUERIES, compared
from deeprecsys.api.runs import Record, TuneRun
from deeprecsys.api.sustaining import Budget, Reference, Sustaining, about
from deeprecsys.api.trials import LiveTrials, accelerated, document, interruptible, offline_qps
from deeprecsys.api.usual import REFERENCE, eager_asked, is_usual, usual_point
from deeprecsys.api.virtual import Accelerators, NodeModel, path_queries
from deeprecsys.core.errors import positive, unknown
from deeprecsys.core.policy import Policy
from deeprecsys.search.margin import Margin, checked_margin

METHODS = ("model", "live")
PROFILE_S = 20.0
SHARE_QUERIES = 100_000


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
        best = max(tried, key=lambda t: t.found.qps, default=None)
        experiment = best.setup.experiment if best else setups[0].experiment
        one_thread = replace(experiment, node=replace(experiment.node, threads=1))
        exact = experiment.node.precision == "fp32"
        scores = None if exact else compared(one_thread, QUERIES, progress)
        known = best.node.profile if best else setups[0].profile
        ready, emulated = stack.enter_context(accelerated(experiment, known, profile_s, progress))
        node = stack.enter_context(start(ready, progress))
        measured, warnings = refreshed(node, experiment, known, bool(profiles), profile_s, progress)
        gpu = None
        if experiment.node.gpu:
            times = emulated or measure_gpu(node, experiment, profile_s)
            gpu = Accelerators(times, experiment.node.gpus)
        virtual = NodeModel.of(experiment, measured, node.workers, gpu)
        report = stack.enter_context(stage(f"{experiment.node.model}: searching", progress))
        listener = SearchProgress(report, record, settings.climb_budget_s)
        static = virtual.policies.static
        reference = Reference(node, static.batch_size, measured.seconds(static.batch_size, node.workers))
        live = LiveTrials(node, experiment, listener, reference)
        usual, notes = stack.enter_context(
            usual_point(node, experiment, static, tried, engines, (listener, reference), profile_s, progress)
        )
        warnings += notes
        with interruptible(listener):
            searching = Searching(virtual, live, usual, listener)
            if method == "live":
                found = searching.climb(settings, policies)
            else:
                ran_before = best is not None and gpu is None and measured is best.node.profile
                found = searching.by_model(kinds, best.found.ranking if best and ran_before else None, budget)
            if is_usual(experiment) and eager_asked(engines):
                found = replace(found, eager=found.static)
            found = found.within(partial(bound_qps, virtual))
            holding = Sustaining(
                virtual, Margin.of(reference.drift, runs.margin_percent), runs, listener, path_queries(kinds)
            )
            hint = virtual.saturation_qps()
            near = holding.near(found.tuned.policy, found.tuned.capacity.capacity_qps or hint)
            found = holding.result(found, near, live, usual and usual[0])
            reference.look()
        # The run that was held may have had another pace than the blocks before it.
        found = found.within(partial(bound_qps, virtual))
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
            **prediction(virtual, found.tuned),
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
