"""`bench` and `capacity`: one policy under live load, at one rate or at the highest that meets the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprecsys.api.progress import Interrupted
from deeprecsys.api.runs import BenchRun
from deeprecsys.api.trials import bench, capacity
from deeprecsys.cli import options as opt
from deeprecsys.cli.help import command
from deeprecsys.cli.output import emit_result, report_on, write_json
from deeprecsys.core.errors import InputError
from deeprecsys.report.timeline import trace_events


@command("bench")
@click.argument("model", metavar="[MODEL]", required=False)
@opt.from_run
@opt.weights
@opt.example
@opt.rows_scale
@opt.rate
@opt.length
@opt.written_file("--trace-out", "Write a time line of sampled queries for Perfetto or chrome://tracing.")
@click.option(
    "--url",
    metavar="URL",
    help="Load a server that runs there, over HTTP; engine, workers and policy are its own.",
)
@opt.option("--name", "NAME", "The model's name at --url.  [default: as `serve` names it by itself]")
@opt.option(
    "--abandon/--no-abandon",
    None,
    "Give up once a query has been open for 20 targets: the load is more than the node can carry.",
    default=True,
)
@opt.run_policy
@opt.target
@opt.workload
@opt.node
@opt.accelerator
@opt.output
def bench_command(trace_out: str | None, json: str | None, out: Path | None, **options: Any) -> None:
    """Run one live trial of MODEL at a given rate, and say how late its queries were.

    It lasts 10 seconds unless --duration or --queries says otherwise; a trace goes at its own rate without
    --rate, and beside --from RUN the rate is the tuned point's.
    """
    if trace_out and options["url"]:
        raise InputError("--trace-out: expected none with --url, for only the server knows its slices")
    try:
        result = bench(**opt.given(options), out=out, slices=trace_out is not None)
    except Interrupted as e:
        _show(e.result, trace_out, json, out, options["seed"])
        raise
    _show(result, trace_out, json, out, options["seed"])


def _show(result: BenchRun, trace_out: str | None, json: str | None, out: Path | None, seed: int) -> None:
    if trace_out:
        trial = result.records["bench"]
        write_json("--trace-out", trace_out, trace_events(trial.log, trial.slices, seed=seed))
    emit_result(result, json)
    report_on(out)


@command("capacity")
@opt.model
@opt.policy
@opt.target
@opt.workload
@opt.node
@opt.accelerator
@opt.budget
@opt.sustain
@opt.output
def capacity_command(json: str | None, out: Path | None, **options: Any) -> None:
    """Find the highest rate at which MODEL meets the target under one given policy."""
    emit_result(capacity(**options, out=out), json)
    report_on(out)
