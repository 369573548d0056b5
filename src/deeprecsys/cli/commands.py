"""The commands."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from deeprecsys.api.experiment import Experiment
from deeprecsys.api.policies import check_whole, policy_of
from deeprecsys.api.progress import Bar, TickHooks
from deeprecsys.api.trials import (
    LiveTrials,
    accelerated,
    baseline,
    document,
    measure_profile,
    quick_hint_qps,
    run_trial,
    start,
)
from deeprecsys.cli import options as opt
from deeprecsys.cli.output import emit, report_on, run_directory, summary_document, write_json
from deeprecsys.cli.paper import paper
from deeprecsys.cli.quality import quality_command
from deeprecsys.cli.remote import bench_url
from deeprecsys.cli.searching import SearchProgress
from deeprecsys.cli.serve import serve_command
from deeprecsys.cli.simulate import simulate_command
from deeprecsys.cli.tune import tune_command
from deeprecsys.core.errors import InputError, positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.runlog import summarise
from deeprecsys.node.driver import Recording
from deeprecsys.node.node import Node
from deeprecsys.report import text
from deeprecsys.report.documents import BenchReport, CapacityReport, ModelDocument, ProfileDocument
from deeprecsys.report.rundir import read_run
from deeprecsys.report.slices import Slices
from deeprecsys.report.timeline import trace_events
from deeprecsys.search.capacity import Settings, capacity
from deeprecsys.zoo import MODELS, Model
from deeprecsys.zoo.schema import Per


@click.command("models")
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - for standard output.")
def models(json_file: str | None) -> None:
    """List the zoo: sizes, FLOPs and bytes per item, the paper's medium target."""
    rows = [_model_row(m) for m in MODELS.values()]
    emit(text.models([ModelDocument.from_json(row) for row in rows]), rows, json_file)


def _model_row(m: Model) -> dict[str, Any]:
    schema = m.schema
    return {
        "name": m.name,
        "bottleneck": m.bottleneck,
        "target_ms": m.medium_target_ms,
        "tables": len(schema.tables),
        "table_bytes": schema.table_bytes,
        "dense_parameters": m.dense_parameters,
        "flops_per_item": m.flops(Per.ITEM),
        "flops_per_query": m.flops(Per.QUERY),
        "bytes_per_item": schema.gathered_bytes(Per.ITEM),
        "bytes_per_query": schema.gathered_bytes(Per.QUERY),
        "feature_bytes_per_item": schema.feature_bytes(Per.ITEM),
        "feature_bytes_per_query": schema.feature_bytes(Per.QUERY),
        "outputs": schema.outputs,
    }


@click.command("profile")
@opt.model
@opt.node
@opt.sizes
@click.option(
    "--budget", type=float, default=20.0, show_default=True, metavar="S", help="Seconds to measure for."
)
@click.option("--profile", "profile_file", type=click.Path(path_type=Path), metavar="FILE",
              help="Where to write the profile, for `tune` and `simulate` to read.")  # fmt: skip
@opt.output
def profile_command(
    budget: float, profile_file: Path | None, json_file: str | None, out_dir: Path | None, **options: Any
) -> None:
    """Measure batch times s(b) of MODEL on this machine, with 1 to all workers busy."""
    job = Experiment.resolve(**options)
    positive("--budget", budget)
    with run_directory(out_dir, job.configuration()) as out, start(job) as node:
        found = measure_profile(node, job, budget).to_json()
        if profile_file:
            write_json("--profile", profile_file, found)
        if out:
            out.result(found)
    emit(text.profile(ProfileDocument.from_json(found)), found, json_file)


@click.command("bench")
@opt.model
@click.option("--rate", type=float, metavar="QPS", help="Offered rate; a trace goes at its own without one.")
@click.option("--duration", type=float, metavar="S", help="Seconds of arrivals.  [default: 10]")
@click.option("--queries", type=int, metavar="N", help="How many queries instead.")
@click.option(
    "--trace-out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a time line of sampled queries for Perfetto or chrome://tracing.",
)
@click.option(
    "--url",
    metavar="URL",
    help="Load a server that runs there, over HTTP; engine, workers and policy are its own.",
)
@opt.policy
@opt.target
@opt.workload
@opt.node
@opt.accelerator
@opt.output
def bench(
    rate: float | None,
    duration: float | None,
    queries: int | None,
    policy_name: str,
    batch_size: int | None,
    offload_above: int | None,
    trace_out: Path | None,
    url: str | None,
    json_file: str | None,
    out_dir: Path | None,
    **options: Any,
) -> None:
    """Run one live trial of MODEL at a given rate, and say how late its queries were."""
    job = Experiment.resolve(**options)
    if rate is not None:
        positive("--rate", rate)
    if duration is None and queries is None and options["trace_file"] is None:
        duration = 10.0
    stream = job.workload.stream(rate, queries=queries, duration_s=duration)
    if url is not None:
        if trace_out:
            raise InputError("--trace-out: expected none with --url, for only the server knows its slices")
        with run_directory(out_dir, job.configuration()) as out:
            log, found = bench_url(url, job, stream)
            if out:
                out.trial("bench", log, None, about={})
                out.result(found)
        emit(text.bench(BenchReport.from_json(found)), found, json_file)
        report_on(out_dir)
        return
    with ExitStack() as stack:
        out = stack.enter_context(run_directory(out_dir, job.configuration()))
        ready, gpu = stack.enter_context(accelerated(job))
        node = stack.enter_context(start(ready))
        policy = given_policy(node, job, policy_name, batch_size, offload_above)
        recording = Recording() if out or trace_out else None
        with Bar(f"{job.node.model}: {stream.rate_qps:g} queries/s") as bar:
            log = run_trial(node, job, policy, stream, TickHooks(bar.set), recording)
        summary = summarise(log, job.target)
        about = {**document(node, job, gpu), **policy.describe()}
        found = {**about, **summary_document(summary), "extra": log.observed()}
        found["touched"] = node.touched(stream)
        if out:
            batches = recording.batches if recording else None
            out.trial("bench", log, batches, about=policy.describe())
            out.result(found)
        if trace_out:
            slices = Slices.of(recording.batches) if recording else None
            write_json("--trace-out", trace_out, trace_events(log, slices, seed=job.node.seed))
    emit(text.bench(BenchReport.from_json(found)), found, json_file)
    report_on(out_dir)
    if log.interrupted:
        raise KeyboardInterrupt


@click.command("capacity")
@opt.model
@opt.policy
@opt.target
@opt.workload
@opt.node
@opt.accelerator
@opt.search
@opt.output
def capacity_command(
    policy_name: str,
    batch_size: int | None,
    offload_above: int | None,
    budget: float | None,
    json_file: str | None,
    out_dir: Path | None,
    **options: Any,
) -> None:
    """Find the highest rate at which MODEL meets the target under one given policy."""
    job = Experiment.resolve(**options)
    settings = Settings.live(job.target)
    if budget is not None:
        settings = Settings(trial_s=settings.trial_s, budget_s=positive("--budget", budget))
    with ExitStack() as stack:
        out = stack.enter_context(run_directory(out_dir, job.configuration()))
        ready, gpu = stack.enter_context(accelerated(job))
        node = stack.enter_context(start(ready))
        policy = given_policy(node, job, policy_name, batch_size, offload_above)
        size = policy.batch_size or job.node.max_query
        hint = 0.8 * quick_hint_qps(node, job, size)
        listener = stack.enter_context(SearchProgress(job.node.model, out))
        trials = LiveTrials(node, job, listener)
        found = capacity(
            trials,
            policy,
            job.target,
            hint_qps=hint,
            settings=settings,
            seed=job.node.seed,
            progress=listener,
        )
        point = summary_document(found.summary) if found.summary else {}
        result = {**document(node, job, gpu), **policy.describe(), **point, **found.to_json()}
        result |= {"qps": found.capacity_qps, "search": listener.cost()}
        if out:
            out.result(result)
    emit(text.capacity(CapacityReport.from_json(result)), result, json_file)
    report_on(out_dir)


@click.command("report")
@click.argument("directories", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
@click.option("--out", "out_dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Where to write.  [default: into the one DIR; ./comparison for several]")  # fmt: skip
def report(directories: tuple[Path, ...], out_dir: Path | None) -> None:
    """Render run directories again: report.html, report.txt and plots; several are compared."""
    runs = [read_run(d) for d in directories]
    for run in runs:
        for problem in run.problems:
            click.echo(f"deeprecsys: {run.name}: {problem}", err=True)
    from deeprecsys.report.render import render  # matplotlib takes a second to load

    written = render(runs, out_dir or (directories[0] if len(runs) == 1 else Path("comparison")))
    click.echo(next(p for p in written if p.suffix == ".txt").read_text(), nl=False)
    click.echo(f"page: {written[0]}")


def given_policy(
    node: Node, job: Experiment, name: str, batch_size: int | None, offload_above: int | None
) -> Policy:
    """The policy that the options name, on this node."""
    whole = job.workload.sizes.cap
    if not job.splits:
        check_whole(name, batch_size, whole)
    return policy_of(
        name,
        batch_size,
        offload_above,
        baseline=baseline(node, job),
        largest=job.workload.sizes.cap,
        target=job.target,
    )


ALL = (
    models,
    profile_command,
    bench,
    capacity_command,
    tune_command,
    quality_command,
    simulate_command,
    serve_command,
    paper,
    report,
)
