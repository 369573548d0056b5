"""`quality`: what a lower precision does to the order of items, on the user's own queries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from deeprecsys.api.experiment import Experiment
from deeprecsys.api.trials import start
from deeprecsys.cli import options as opt
from deeprecsys.cli.output import emit, run_directory
from deeprecsys.core.errors import InputError
from deeprecsys.engine.isa import DEFAULT
from deeprecsys.machine.record import machine_record
from deeprecsys.report import text
from deeprecsys.report.documents import QualityReport
from deeprecsys.search.quality import compare

QUERIES = 200
REFERENCE = "eager"


@click.command("quality")
@opt.model
@opt.lower
@opt.workload
@click.option("--queries", type=int, default=QUERIES, show_default=True, metavar="N",
              help="How many queries to score.")  # fmt: skip
@opt.output
def quality_command(queries: int, json_file: str | None, out_dir: Path | None, **options: Any) -> None:
    """Score queries of MODEL at a lower precision and at fp32 by eager torch, and compare their order."""
    job = Experiment.resolve(**options, threads=1)
    with run_directory(out_dir, job.configuration()) as out:
        found = quality_of(job, queries)
        result = {
            "model": job.node.model,
            "workload": job.workload.describe(),
            "engine": job.node.engine,
            "precision": job.node.precision,
            "quality": found,
            "machine": machine_record(),
        }
        if out:
            out.result(result)
    emit(text.quality(QualityReport.from_json(result)), result, json_file)


def quality_of(job: Experiment, queries: int = QUERIES) -> dict[str, Any]:
    """A job's scores of queries of its workload beside eager torch's at fp32, as JSON values.

    The two nodes are started one after the other: both sets of tables might not fit at once.

    Raises:
        InputError: no query.
    """
    if queries < 1:
        raise InputError(f"--queries: expected at least 1, got {queries}")
    stream = job.workload.stream(1.0, queries=queries)
    exact = replace(job, node=replace(job.node, engine=REFERENCE, precision="fp32", threads=1, isa=DEFAULT))
    with start(exact) as node:
        reference = node.score(stream)
    with start(job) as node:
        scores, arithmetic, table_bytes = node.score(stream), node.arithmetic, node.footprint()["table_bytes"]
    return {
        "reference": f"{REFERENCE} fp32",
        "arithmetic": arithmetic,
        "table_bytes": table_bytes,
        **compare(reference, scores).to_json(),
    }
