"""`simulate`: what a node would do, from a latency profile alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprecsys.api.accelerator import check_gpu, emulated_profile, gpu_document
from deeprecsys.api.experiment import checked_quantile, load_profile, target_of
from deeprecsys.api.policies import policy_of
from deeprecsys.api.predict import bounds_document, offloaded_share
from deeprecsys.api.virtual import Accelerators, pools, virtual_node
from deeprecsys.cli import options as opt
from deeprecsys.cli.output import emit, report_on, run_directory, summary_document
from deeprecsys.core.errors import InputError, positive
from deeprecsys.core.policy import Policy, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog, summarise
from deeprecsys.core.target import Target
from deeprecsys.report import text
from deeprecsys.report.documents import SimulateReport
from deeprecsys.search.capacity import Settings, capacity
from deeprecsys.search.saturation import saturation_qps
from deeprecsys.simulate.trial import stability_of, trial
from deeprecsys.workload.stream import Stream, Workload
from deeprecsys.zoo import MODELS

QUERIES = 100_000
BOUND_QUERIES = 60_000


@click.command("simulate")
@click.option("--profile", "profile_file", type=click.Path(path_type=Path), required=True, metavar="FILE",
              help="Batch times s(b), as `deeprecsys profile` writes them, or by hand.")  # fmt: skip
@click.option("--workers", type=int, metavar="K",
              help="Workers of the node.  [default: the most that were busy in the profile]")  # fmt: skip
@click.option("--rate", type=float, metavar="QPS",
              help="Offered rate; without one, the highest that meets the target is searched.")  # fmt: skip
@click.option("--queries", type=int, metavar="N", help="How many queries.  [default: 100000]")
@click.option("--duration", type=float, metavar="S", help="Seconds of arrivals instead.")
@opt.accelerator
@opt.policy
@opt.target
@opt.workload
@click.option("--seed", type=int, default=0, show_default=True, metavar="N",
              help="Seed of sizes, arrivals and service times.")  # fmt: skip
@opt.output
def simulate_command(
    profile_file: Path,
    workers: int | None,
    gpu: str | None,
    gpus: int,
    rate: float | None,
    queries: int | None,
    duration: float | None,
    policy_name: str,
    batch_size: int | None,
    offload_above: int | None,
    sla_ms: float | None,
    level: str | None,
    quantile: float,
    arrivals: str | None,
    sizes: str | None,
    trace_file: Path | None,
    seed: int,
    json_file: str | None,
    out_dir: Path | None,
) -> None:
    """Run the scheduler in virtual time on a latency profile, and set its bounds beside it.

    With --rate one trial is run at that rate; without, the capacity is searched. Batch times are those of
    the profile, with their spread and with what they cost while other workers are busy.
    """
    profile = load_profile(profile_file)
    count = max(profile.busy_levels) if workers is None else workers
    if count < 1:
        raise InputError(f"--workers: expected at least 1, got {count}")
    second = _accelerators(gpu, gpus, profile)
    workload = Workload.parse(arrivals, sizes, trace=trace_file, seed=seed)
    target = _target(profile, sla_ms, level, quantile, needed=rate is None)
    policy = policy_of(
        policy_name,
        batch_size,
        offload_above,
        baseline=Static.baseline(workload.sizes.cap, count),
        largest=workload.sizes.cap,
        target=target,
    )
    stream = None if rate is None else _stream(workload, rate, queries, duration)
    if stream is None and (queries is not None or duration is not None):
        raise InputError("--queries, --duration: expected with --rate alone; a search takes what it needs")
    case = {
        "target": {"quantile": target.quantile, "latency_ms": 1e3 * target.latency_s} if target else None,
        "workload": workload.describe(),
        "workers": dict(pools(profile, count, second)[1]),
        "profile": {"file": str(profile_file), "machine": dict(profile.machine)},
        "simulated": True,
        **policy.describe(),
        **gpu_document(gpu, gpus, second.profile if second else None),
    }
    found: dict[str, Any] = {
        **case,
        "model": profile.model,
        "engine": profile.engine,
        "precision": profile.precision,
        "threads": profile.threads,
    }
    with run_directory(out_dir, {**case, "node": {"model": profile.model}, "seed": seed}) as out:
        if stream is None:
            assert target is not None
            found |= _search(profile, workload, count, policy, target, seed, second)
        else:
            log = trial(
                policy, stream.arrival_s, stream.size, *pools(profile, count, second),
                rate_qps=stream.rate_qps, target=target, seed=seed,
            )  # fmt: skip
            found |= _outcome(log, target)
            if out:
                out.trial("simulated", log, about={**policy.describe(), "simulated": True})
        if target and found.get("stable") is not False:
            path_queries = min(BOUND_QUERIES, BOUND_QUERIES if stream is None else len(stream))
            path = workload.stream(found["qps"] or 1.0, queries=path_queries)
            met_qps = found["qps"] if stream is None or _met(found, target) else None
            found |= bounds_document(profile, count, target, path, policy, met_qps, second)
            if second:
                found["gpu_share"] = offloaded_share(policy, path)
        if out:
            out.result(found)
    emit(text.simulate(SimulateReport.from_json(found)), found, json_file)
    report_on(out_dir)


def _target(
    profile: LatencyProfile, sla_ms: float | None, level: str | None, quantile: float, needed: bool
) -> Target | None:
    """The target that the options name, or the paper's for the model; None where neither is known."""
    known = MODELS.get(profile.model)
    if sla_ms is not None or known is not None:
        return target_of(sla_ms, level, quantile, known.medium_target_ms if known else 0.0)
    checked_quantile(quantile)
    if needed or level is not None:
        raise InputError(
            f"--sla-ms: expected a target in milliseconds, as {profile.model!r} is no model of the zoo "
            "and has none of its own"
        )
    return None


def _accelerators(gpu: str | None, gpus: int, cpu: LatencyProfile) -> Accelerators | None:
    """The accelerators that `--gpu` names."""
    check_gpu(gpu)
    if gpu is None:
        return None
    found = emulated_profile(gpu, cpu)
    if found is None:
        raise InputError(f"--gpu: expected emulated:FILE or a published device to simulate, got {gpu}")
    if found.model != cpu.model:
        raise InputError(f"--gpu {gpu}: expected a profile of {cpu.model}, got one of {found.model}")
    if gpus < 1:
        raise InputError(f"--gpus: expected at least 1, got {gpus}")
    return Accelerators(found, gpus)


def _stream(workload: Workload, rate: float, queries: int | None, duration: float | None) -> Stream:
    """The load of one trial."""
    positive("--rate", rate)
    if queries is None and duration is None and workload.trace is None:
        queries = QUERIES
    stream = workload.stream(rate, queries=queries, duration_s=duration)
    if not len(stream):
        raise InputError("--duration: expected a time in which at least one query arrives")
    return stream


def _outcome(log: RunLog, target: Target | None) -> dict[str, Any]:
    """What a trial shows, under the names of the JSON of `bench`."""
    state = stability_of(log)
    found = {**summary_document(summarise(log, target)), "load": state.load, "stable": state.stable}
    if state.stable is False:
        # What queries waited only says how long the trial was.
        found |= dict.fromkeys(("mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms", "misses", "miss_rate"))
    return found


def _met(found: dict[str, Any], target: Target) -> bool:
    return bool(found["served"] == 1 and target.allows(found["miss_rate"]))


def _search(
    profile: LatencyProfile,
    workload: Workload,
    workers: int,
    policy: Policy,
    target: Target,
    seed: int,
    gpu: Accelerators | None,
) -> dict[str, Any]:
    sample = workload.stream(1.0, queries=4000).size
    size = policy.batch_size or workload.sizes.cap
    found = capacity(
        virtual_node(profile, workload, workers, target, gpu),
        policy,
        target,
        hint_qps=0.8 * saturation_qps(profile, size, sample, workers),
        settings=Settings.virtual(target),
        seed=seed,
    )
    point = summary_document(found.summary) if found.summary else {}
    return {**point, **found.to_json(), "qps": found.capacity_qps}
