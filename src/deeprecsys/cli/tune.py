"""`profile`, `tune` and `quality`: batch times, the operating point, and what a lower precision costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprecsys.api.profiles import profile as measure
from deeprecsys.api.quality import QUERIES, quality
from deeprecsys.api.tune import METHODS, tune
from deeprecsys.cli import options as opt
from deeprecsys.cli.help import command
from deeprecsys.cli.output import emit, emit_result, report_on, write_json
from deeprecsys.report.text import tune as tune_text
from deeprecsys.report.text import tune_whole


@command("profile")
@opt.model
@opt.node
@opt.sizes
@opt.option("--budget", "S", "Seconds to measure for.", type=float, default=20.0)
@opt.written_file("--save", "Write the profile here, for --profile of `tune`, `simulate` and `serve`.")
@opt.written_file("--profile", "Former name of --save.", hidden=True)
@opt.output
def profile_command(save: str | None, profile: str | None, json: str | None, **options: Any) -> None:
    """Measure batch times s(b) of MODEL on this machine, with 1 to all workers busy."""
    found = measure(**options)
    for name, file in (("--save", save), ("--profile", profile)):
        if file:
            write_json(name, file, found.to_json())
    emit_result(found, json)


@command("tune")
@opt.model
@opt.target
@opt.workload
@opt.nodes
@opt.accelerator
@opt.option(
    "--profile",
    "FILE",
    "A profile measured before, with its engine and threads; several may be "
    "given. Without one they are measured first.",
    type=opt.FILE,
    multiple=True,
)
@opt.option(
    "--method",
    None,
    "Search by simulation on the profile, or the paper's climb under live load.",
    type=click.Choice(METHODS),
    default="model",
)
@opt.option(
    "--policy",
    "NAME",
    "Search this policy too: a name, FILE.py:Class or module:Class; several may be given.",
    multiple=True,
)
@opt.budget
@opt.sustain
@opt.option("--verbose", None, "Print the tables behind the result too.", is_flag=True)
@opt.output
def tune_command(json: str | None, out: Path | None, verbose: bool, **options: Any) -> None:
    """Find the operating point that carries the most queries per second of MODEL within the target.

    Measures batch times, searches engines, policies and their knobs in virtual time, and finds the limits of
    the winner, of the static baseline and of eager torch's live, side by side, with load that nothing was
    chosen by. The winner then runs uninterrupted at its limit less the margin. With --method live the search
    itself is live, on the first engine named: from batch size 1 up, as long as the rate rises.
    """
    found = tune(**options, out=out)
    emit((tune_whole if verbose else tune_text)(found, str(out or "")), found.to_json(), json)
    report_on(out)


@command("quality")
@opt.model
@opt.engine
@opt.precision("bf16")
@opt.workers
@opt.data
@opt.workload
@opt.option("--queries", "N", "How many queries to score.", type=int, default=QUERIES)
@opt.output
def quality_command(json: str | None, **options: Any) -> None:
    """Score queries of MODEL at a lower precision and at fp32 by eager torch, and compare their order."""
    emit_result(quality(**options), json)
