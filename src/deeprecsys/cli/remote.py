"""`bench --url`: the load of one trial, on a server that runs elsewhere."""

from __future__ import annotations

from typing import Any

from deeprecsys.api.experiment import Experiment
from deeprecsys.api.progress import Bar
from deeprecsys.cli.output import summary_document
from deeprecsys.core.runlog import RunLog, summarise
from deeprecsys.machine.record import machine_record
from deeprecsys.serve.extra import require_extra
from deeprecsys.workload.stream import Stream
from deeprecsys.zoo import model
from deeprecsys.zoo.custom.spec import short_name


def bench_url(url: str, job: Experiment, stream: Stream) -> tuple[RunLog, dict[str, Any]]:
    """Offer a stream to a server; the run log, and the result under the names of `bench`.

    Raises:
        InputError: the extra is not installed, it is no URL, or no such model is served there.
        NodeError: nothing answers there.
    """
    require_extra()
    from deeprecsys.serve.load.offer import load  # it needs the extra

    schema = model(job.node.model).scaled(job.node.rows_scale).schema
    with Bar(f"{job.node.model} at {url}: {stream.rate_qps:g} queries/s") as bar:
        log = load(
            url, short_name(job.node.model), schema, stream, job.target, job.node.seed, progress=bar.set
        )
    return log, {
        "model": job.node.model,
        "target": job.target_document(),
        "workload": job.workload.describe(),
        "url": url,
        "engine": f"that of {url}",
        "machine": machine_record(),
        **summary_document(summarise(log, job.target)),
        "utilisation": None,
        "extra": log.observed(),
    }
