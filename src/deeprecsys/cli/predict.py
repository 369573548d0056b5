"""What a profile predicts of a tuned point: the bound above it, and what the simulator would have said."""

from __future__ import annotations

from typing import Any

from deeprecsys.bounds import Kind, batch_times, bounds_of
from deeprecsys.cli.setup import Job
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import summarise, warmup_s
from deeprecsys.simulate.fast import run
from deeprecsys.tune.confirm import Confirmed

SECONDS = 60.0  # of virtual time, and of the sample path of the bounds
MOST_QUERIES = 60_000


def prediction(profile: LatencyProfile, job: Job, workers: int, point: Confirmed) -> dict[str, Any]:
    """The parts of the JSON of `tune` that come from the profile.

    Bounds take the batch times of all workers busy. The simulator's error is that of the p95 at the
    very rate that was run live: simulated over live, less 1.
    """
    qps, policy = point.qps, point.policy
    stream = job.workload.stream(qps, queries=int(min(SECONDS * qps, MOST_QUERIES)))
    times = batch_times(profile, job.node.max_query, workers)
    found = bounds_of(times, workers, job.target, stream.arrival_s, stream.size, rate_qps=qps)
    o_fcfs = found[Kind.O_FCFS]
    span_s = float(stream.arrival_s[-1])
    log = run(
        policy,
        stream.arrival_s,
        stream.size,
        profile,
        workers,
        seed=job.node.seed,
        warmup_s=warmup_s(span_s, job.target),
        rate_qps=qps,
    )
    s = summarise(log, job.target)
    simulated_ms = {"p50_ms": s.p50_ms, "p95_ms": s.p95_ms, "p99_ms": s.p99_ms}
    return {
        "bounds": {
            "capacity_qps": found[Kind.CAPACITY].rate_qps,
            "o_fcfs_qps": o_fcfs.rate_qps,
            "o_drop_qps": found[Kind.O_DROP].rate_qps,
        },
        "fraction_of_bound": o_fcfs.fraction(qps).to_json(),
        "simulated": simulated_ms,
        "simulator_error": s.p95_ms / point.probe.summary.p95_ms - 1,
    }
