"""`quality`: what a lower precision costs, by the scores of the same queries."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

from deeprecsys.api.experiment import Experiment, NodeOptions, shows_options
from deeprecsys.api.profiles import start
from deeprecsys.api.progress import ProgressOption
from deeprecsys.api.runs import QualityRun, Record
from deeprecsys.api.usual import REFERENCE, usual_experiment
from deeprecsys.core.errors import InputError
from deeprecsys.engine import FASTEST
from deeprecsys.engine.isa import DEFAULT
from deeprecsys.machine.record import machine_record
from deeprecsys.search.quality import compare

QUERIES = 200


@shows_options(NodeOptions)
def quality(
    model: str,
    *,
    engine: str = FASTEST,
    precision: str = "bf16",
    queries: int = QUERIES,
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
            "quality": compared(experiment, queries, progress),
            "machine": machine_record(),
        }
        return QualityRun.of(record.run(result), result)


def compared(experiment: Experiment, queries: int, progress: ProgressOption) -> dict[str, Any]:
    """An experiment's scores of queries of its workload compared with eager torch's at fp32, as JSON values.

    The two nodes are started one after the other: both sets of tables might not fit at once.
    """
    if queries < 1:
        raise InputError(f"--queries: expected at least 1, got {queries}")
    stream = experiment.workload.stream(1.0, queries=queries)
    usual = usual_experiment(experiment)
    with start(replace(usual, node=replace(usual.node, isa=DEFAULT)), progress) as node:
        exact = node.score(stream)
    with start(experiment, progress) as node:
        scores, arithmetic, table_bytes = node.score(stream), node.arithmetic, node.footprint()["table_bytes"]
    return {
        "reference": f"{REFERENCE} fp32",
        "arithmetic": arithmetic,
        "table_bytes": table_bytes,
        **asdict(compare(exact, scores)),
    }
