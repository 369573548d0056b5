"""`tune`: the main job, by model or by a live climb."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from deeprecsys.cli import options as opt
from deeprecsys.cli.live import (
    LiveTrials,
    baseline,
    document,
    measure_profile,
    offline_qps,
    sample_sizes,
    start,
)
from deeprecsys.cli.output import emit, report_on, run_directory
from deeprecsys.cli.predict import prediction
from deeprecsys.cli.searching import Listener, tune_settings
from deeprecsys.cli.setup import Job, read_profile
from deeprecsys.cli.virtual import SamplePath, virtual_node
from deeprecsys.core.errors import positive
from deeprecsys.core.policy import Adaptive, Coalescing
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.node.node import Node
from deeprecsys.report import text
from deeprecsys.report.machine import machine_record, same_machine
from deeprecsys.tune.by_model import ModelSettings, tune_by_model
from deeprecsys.tune.hill_climb import HillClimb
from deeprecsys.tune.neighbours import Chain, beyond_fixed
from deeprecsys.tune.search import Search, batch_sizes
from deeprecsys.tune.tuner import TuneResult, tune
from deeprecsys.tune.work import saturation_qps

PROFILE_S = 20.0


@click.command("tune")
@opt.model
@opt.target
@opt.workload
@opt.node
@click.option("--profile", "profile_file", type=click.Path(path_type=Path), metavar="FILE",
              help="A profile measured before; without it one is measured first.")  # fmt: skip
@click.option("--method", type=click.Choice(["model", "live"]), default="model", show_default=True,
              help="Search by simulation on the profile, or the paper's climb under live load.")  # fmt: skip
@opt.search
@opt.output
def tune_command(
    profile_file: Path | None,
    method: str,
    budget: float | None,
    json_file: str | None,
    out_dir: Path | None,
    **options: Any,
) -> None:
    """Find the operating point that carries the most queries per second of MODEL within the target.

    Measures batch times, searches policies and their knobs in virtual time, and runs the winner and the
    static baseline live, side by side, with load that nothing was chosen by. With --method live the search
    itself is live: from batch size 1 up, as long as the rate rises.
    """
    job = Job.resolve(**options)
    if budget is not None:
        positive("--budget", budget)
    known = read_profile(profile_file, job) if profile_file else None
    with ExitStack() as stack:
        out = stack.enter_context(run_directory(out_dir, job.configuration()))
        node = stack.enter_context(start(job))
        warnings = []
        if known and not same_machine(dict(known.machine), machine_record()):
            warnings.append(f"{profile_file} was measured on another machine")
        settings = tune_settings(job.target, budget)
        profile = known or measure_profile(node, job, min(PROFILE_S, settings.climb_budget_s / 4))
        hint = saturation_qps(profile, baseline(node, job).batch_size, sample_sizes(job), node.workers)
        listener = stack.enter_context(Listener(job.node.model, out, settings))
        if method == "live":
            found = tune(
                LiveTrials(node, job, listener),
                job.target,
                static=baseline(node, job),
                search=HillClimb(sizes_of(node, job)),
                hint_qps=hint,
                settings=settings,
                seed=job.node.seed,
                progress=listener,
            )
        else:
            found = by_model(node, job, profile, hint, listener, budget)
        result = {
            **document(node, job),
            "profile": profile.to_json(),
            **found.to_json(),
            "warnings": warnings,
        }
        result["tuned"] |= {"engine": job.node.engine, "precision": job.node.precision}
        result["offline_qps"] = offline_qps(node, job, found.tuned.policy, hint)
        result |= prediction(profile, job, node.workers, found.tuned)
        if out:
            out.result(result)
    emit(text.tune(result), result, json_file)
    report_on(out_dir)


def by_model(
    node: Node,
    job: Job,
    profile: LatencyProfile,
    hint_qps: float,
    listener: Listener,
    budget_s: float | None,
) -> TuneResult:
    """Tune a job on its node by simulation on a profile; `budget_s` is for the live confirmation."""
    settings = ModelSettings.of(job.target, budget_s) if budget_s else ModelSettings.of(job.target)
    return tune_by_model(
        LiveTrials(node, job, listener),
        virtual_node(profile, job.workload, node.workers, job.target),
        SamplePath(profile, job.workload, node.workers, job.target),
        job.target,
        static=baseline(node, job),
        search=model_search(sizes_of(node, job)),
        hint_qps=hint_qps,
        settings=settings,
        seed=job.node.seed,
        progress=listener,
    )


def sizes_of(node: Node, job: Job) -> tuple[int, ...]:
    """The batch sizes to try."""
    return batch_sizes(job.workload.sizes.cap, baseline(node, job).batch_size)


def model_search(sizes: tuple[int, ...]) -> Search:
    """The paper's climb, and from its best the policies that cut late and that share batches."""
    return Chain(HillClimb(sizes), [beyond_fixed(Adaptive, sizes), beyond_fixed(Coalescing, sizes)])
