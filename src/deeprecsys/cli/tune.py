"""`tune`: the main job, by model or by a live climb."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from deeprecsys.api.engines import setups_of, sizes_of, tried_out
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.policies import class_of, searched
from deeprecsys.api.predict import offloaded_share, prediction
from deeprecsys.api.trials import (
    LiveTrials,
    accelerated,
    baseline,
    document,
    in_open_loop,
    measure_gpu,
    measure_profile,
    offline_qps,
    sample_sizes,
    start,
)
from deeprecsys.api.virtual import Accelerators, path_queries, sample_path, virtual_node
from deeprecsys.cli import options as opt
from deeprecsys.cli.output import emit, report_on, run_directory
from deeprecsys.cli.quality import quality_of
from deeprecsys.cli.searching import SearchProgress, tune_settings
from deeprecsys.core.errors import positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import FAR, LatencyProfile
from deeprecsys.node.node import Node
from deeprecsys.report import text
from deeprecsys.report.documents import TuneReport
from deeprecsys.search.by_model import ModelSettings, tune_by_model
from deeprecsys.search.climbs import HillClimb, model_search
from deeprecsys.search.history import Search, thresholds
from deeprecsys.search.rank import Ranking
from deeprecsys.search.saturation import saturation_qps
from deeprecsys.search.tuner import TuneResult, tune

PROFILE_S = 20.0
SHARE_QUERIES = 100_000


@click.command("tune")
@opt.model
@opt.target
@opt.workload
@opt.nodes
@opt.accelerator
@click.option("--profile", "profile_files", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
              help="A profile measured before, with its engine and threads; several may be given. "
                   "Without one they are measured first.")  # fmt: skip
@click.option("--method", type=click.Choice(["model", "live"]), default="model", show_default=True,
              help="Search by simulation on the profile, or the paper's climb under live load.")  # fmt: skip
@click.option("--policy", "policy_names", multiple=True, metavar="NAME",
              help="Search this policy too: a name, FILE.py:Class or module:Class; several may be given."
              )  # fmt: skip
@opt.search
@opt.output
def tune_command(
    profile_files: tuple[Path, ...],
    method: str,
    policy_names: tuple[str, ...],
    budget: float | None,
    json_file: str | None,
    out_dir: Path | None,
    **options: Any,
) -> None:
    """Find the operating point that carries the most queries per second of MODEL within the target.

    Measures batch times, searches engines, policies and their knobs in virtual time, and runs the winner and
    the static baseline live, side by side, with load that nothing was chosen by. With --method live the
    search itself is live, on the first engine named: from batch size 1 up, as long as the rate rises.
    """
    kinds = searched(policy_names)
    setups = setups_of(options, profile_files)
    job = setups[0].job
    if budget is not None:
        positive("--budget", budget)
    settings = tune_settings(job.target, budget)
    profile_s = min(PROFILE_S, settings.climb_budget_s / 4)
    with ExitStack() as stack:
        out = stack.enter_context(run_directory(out_dir, job.configuration()))
        several = method == "model" and len(setups) > 1
        tried = [tried_out(setup, profile_s, kinds) for setup in setups] if several else []
        best = max(tried, key=lambda t: t.qps, default=None)
        job = best.setup.job if best else job
        exact = job.node.precision == "fp32"
        quality = None if exact else quality_of(replace(job, node=replace(job.node, threads=1)))
        known = best.profile if best else setups[0].profile
        ready, emulated = stack.enter_context(accelerated(job, known, profile_s))
        node = stack.enter_context(start(ready))
        profile, warnings = today(node, job, known, bool(profile_files), profile_s)
        gpu = accelerators(node, job, emulated, profile_s)
        hint = saturation_qps(profile, baseline(node, job).batch_size, sample_sizes(job), node.workers)
        listener = stack.enter_context(SearchProgress(job.node.model, out, settings))
        if method == "live":
            found = tune(
                LiveTrials(node, job, listener),
                job.target,
                static=baseline(node, job),
                search=live_search(job, node.workers, policy_names),
                hint_qps=hint,
                settings=settings,
                seed=job.node.seed,
                progress=listener,
            )
        else:
            queries = path_queries(kinds)
            path = sample_path(profile, job.workload, node.workers, job.target, queries, gpu)
            same = best is not None and gpu is None and profile is best.profile
            ranking = best.ranking if best and same else Ranking(path, job.target, hint)
            found = by_model(node, job, profile, ranking, listener, budget, kinds, gpu)
        result = {
            **document(node, job, gpu.profile if gpu else None),
            "profile": profile.to_json(),
            **found.to_json(),
            "precision_allowed": options["precision"],
            "quality": quality,
            "setups": [t.to_json() for t in tried],
            "warnings": [w for setup in setups for w in setup.warnings] + warnings,
        }
        result["tuned"] |= {
            "engine": job.node.engine,
            "precision": job.node.precision,
            "threads": job.node.threads,
            "workers": node.workers,
        }
        for point in filter(None, (result["static"], result["tuned"])):
            point["energy"] = listener.energy(point)
        result["offline_qps"] = offline_qps(node, job, found.tuned.policy, hint)
        result |= prediction(profile, job, node.workers, found.tuned, gpu)
        if gpu:
            sizes = job.workload.stream(1.0, queries=SHARE_QUERIES)
            result["tuned"]["gpu_share"] = offloaded_share(found.tuned.policy, sizes)
        if out:
            out.result(result)
    emit(text.tune(TuneReport.from_json(result)), result, json_file)
    report_on(out_dir)


def today(
    node: Node, job: Experiment, known: LatencyProfile | None, before: bool, profile_s: float
) -> tuple[LatencyProfile, list[str]]:
    """The batch times of a node as it runs now, and what is to be said of them.

    A trial tells whether the machine still has the speed of a profile. One of another run is set right by
    that. One of this run, measured before other setups were, is kept if it still holds, else measured again.

    Args:
        known: the profile of its setup; None to measure it.
        before: whether that was measured in another run.
    """
    if known is None:
        return measure_profile(node, job, profile_s), []
    profile = in_open_loop(node, job, known)
    ratio = profile.points[0].mean_s / known.points[0].mean_s
    if 1 / FAR < ratio < FAR:
        return profile if before else known, []
    now = f"batches now take {ratio:.2f} times what the profile"
    if before:
        return profile, [f"{now} says; all times were set right by that"]
    return measure_profile(node, job, profile_s), [f"{now} of minutes before says; it was measured again"]


def by_model(
    node: Node,
    job: Experiment,
    profile: LatencyProfile,
    ranking: Ranking,
    listener: SearchProgress,
    budget_s: float | None,
    kinds: Sequence[type[Policy]],
    gpu: Accelerators | None = None,
) -> TuneResult:
    """Tune a job on its node by simulation on a profile.

    Args:
        budget_s: seconds of the live confirmation.
        kinds: the policies to search.
    """
    settings = ModelSettings.of(job.target, budget_s) if budget_s else ModelSettings.of(job.target)
    return tune_by_model(
        LiveTrials(node, job, listener),
        virtual_node(profile, job.workload, node.workers, job.target, gpu),
        ranking,
        job.target,
        static=baseline(node, job),
        search=model_search(
            sizes_of(job, node.workers), thresholds_of(job), kinds=kinds, latency_s=job.target.latency_s
        ),
        settings=settings,
        seed=job.node.seed,
        progress=listener,
    )


def live_search(job: Experiment, workers: int, policy_names: Sequence[str]) -> Search:
    """The paper's climb, and after it climbs over the policies named."""
    sizes, limits = sizes_of(job, workers), thresholds_of(job)
    if not policy_names:
        return HillClimb(sizes, limits)
    named = [class_of(text)[0] for text in policy_names]
    return model_search(sizes, limits, kinds=named, latency_s=job.target.latency_s)


def thresholds_of(job: Experiment) -> tuple[int, ...]:
    """The offload thresholds to try; none where there is no accelerator."""
    return thresholds(job.workload.sizes.cap, sample_sizes(job)) if job.node.gpu else ()


def accelerators(
    node: Node, job: Experiment, emulated: LatencyProfile | None, budget_s: float
) -> Accelerators | None:
    """The node's accelerators in virtual time: an emulated one's profile, or what a real one measures."""
    if job.node.gpu is None:
        return None
    return Accelerators(emulated or measure_gpu(node, job, budget_s), job.node.gpus)
