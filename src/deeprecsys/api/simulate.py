"""`simulate`: what a node would do under a policy, from a latency profile alone, and its bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast

from deeprecsys.api.accelerator import check_gpu, emulated_profile, gpu_document
from deeprecsys.api.experiment import (
    LoadOptions,
    SimulateOptions,
    checked_quantile,
    checked_rate,
    offered,
    shows_options,
    target_of,
)
from deeprecsys.api.from_run import GivenRun, TunedRun
from deeprecsys.api.policies import policy_of
from deeprecsys.api.predict import bounds_document, offloaded_share
from deeprecsys.api.profiles import GivenProfile, given_profile
from deeprecsys.api.runs import Record, SimulateRun
from deeprecsys.api.trials import summary_document, trial_document
from deeprecsys.api.virtual import Accelerators, NodeModel, Ranked, pools
from deeprecsys.core.errors import InputError, at_most
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import MOST_BUSY, LatencyProfile
from deeprecsys.core.runlog import RunLog, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.node.node import NodeConfig
from deeprecsys.report.documents import PointDocument
from deeprecsys.search.capacity import capacity
from deeprecsys.search.result import Settings
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.trial import stable
from deeprecsys.workload.lengths import HEAVY
from deeprecsys.workload.stream import Stream, Workload
from deeprecsys.zoo import MODELS
from deeprecsys.zoo import model as named_model
from deeprecsys.zoo.custom import same_model

QUERIES = 100_000
BOUND_QUERIES = 60_000


@shows_options(SimulateOptions)
def simulate(
    profile: GivenProfile | None = None,
    policy: str | Policy | None = None,
    rate: float | None = None,
    *,
    from_run: GivenRun | None = None,
    workers: int | None = None,
    queries: int | None = None,
    duration: float | None = None,
    batch_size: int | None = None,
    offload_above: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    **options: Unpack[SimulateOptions],
) -> SimulateRun:
    """Run the scheduler in virtual time on a latency profile.

    Batch times are those of the profile, with their spread and with what they cost while other workers are
    busy.

    Without a rate the capacity is searched; without a policy or one of its knobs, that of the best policy,
    with the static baseline's beside it.

    Args:
        profile: batch times s(b), or a file of them.
        from_run: a run of `tune`: its profile, workers, load, target and policy, where none is given.
        policy: `NAME[:ARG]` or a policy; batch_size, offload_above: its knobs. A trial at a rate is by
            default under `deeprecsched`.
        rate: offered queries per second; without one, the highest that meets the target is searched.
        workers: of the node; by default the most that were busy in the profile.
        queries: how many, or duration: seconds of arrivals; 100,000 queries by default.
        out: a run directory to write to.

    Raises:
        InputError: an option's value is not valid.
        TargetUnreachableError: no rate meets the target.
    """
    if from_run is not None:
        tuned = TunedRun(from_run)
        known = (*SimulateOptions.__annotations__, "workers")
        merged = tuned.options({**options, "workers": workers}, known)
        workers, options = merged.pop("workers", None), cast(SimulateOptions, merged)
        policy, batch_size, offload_above = tuned.knobs(policy, batch_size, offload_above)
        profile = tuned.profile if profile is None else profile
    if profile is None:
        raise InputError("--profile: expected a profile, or --from RUN, got neither")
    gpu, gpus = options.get("gpu"), options.get("gpus", 1)
    measured = given_profile(profile)
    count = max(measured.busy_levels) if workers is None else workers
    if count < 1:
        raise InputError(f"--workers: expected at least 1, got {count}")
    at_most(MOST_BUSY, "--workers", count, "as a profile's")
    at_most(MOST_BUSY, "--gpus", gpus, "as a profile's workers")
    second = _accelerators(gpu, gpus, measured)
    workload = Workload.parse(
        options.get("arrivals"), options.get("sizes"), trace=options.get("trace"), seed=seed
    )
    workload = _weighed(workload, measured)
    target = _target(measured, options, needed=rate is None)
    node = NodeModel(measured, workload, count, target, second) if target else None
    pinned = (policy, batch_size, offload_above) != (None, None, None)
    ranked = None if pinned or rate is not None or node is None else node.ranked()
    chosen = ranked.best if ranked else policy_of(
        policy or "deeprecsched", batch_size, offload_above, largest=workload.sizes.cap, workers=count,
        target=target,
    )  # fmt: skip
    stream = None if rate is None else _stream(workload, rate, queries, duration)
    if stream is None and (queries is not None or duration is not None):
        raise InputError("--queries, --duration: expected with --rate alone; a search takes what it needs")
    case = {
        "target": {"quantile": target.quantile, "latency_ms": 1e3 * target.latency_s} if target else None,
        "workload": workload.describe(),
        "workers": dict(pools(measured, count, second)[1]),
        "profile": {
            "file": str(profile) if isinstance(profile, str | Path) else None,
            "machine": dict(measured.machine),
        },
        "simulated": True,
        **chosen.describe(),
        **gpu_document(gpu, gpus, second.profile if second else None),
    }
    found: dict[str, Any] = {
        **case,
        "model": measured.model,
        "engine": measured.engine,
        "precision": measured.precision,
        "threads": measured.threads,
    }
    with Record({**case, "node": {"model": measured.model}, "seed": seed}, out) as record:
        if stream is None:
            assert node is not None
            found |= _search(node, chosen, seed)
            if ranked:
                found |= _beside(ranked, found, node, seed)
        else:
            log = run(
                chosen, stream.arrival_s, stream.size, *pools(measured, count, second),
                rate_qps=stream.rate_qps, seed=seed, warmup_s=warmup_s(float(stream.arrival_s[-1]), target),
            )  # fmt: skip
            found |= _outcome(log, target)
            record.trial("simulated", log, None, {**chosen.describe(), "simulated": True})
        if target and found.get("stable") is not False:
            path_queries = min(BOUND_QUERIES, BOUND_QUERIES if stream is None else len(stream))
            path = workload.stream(found["qps"] or 1.0, queries=path_queries)
            met_qps = found["qps"] if stream is None or _met(found, target) else None
            found |= bounds_document(measured, count, target, path, chosen, met_qps, second)
            if second:
                found["gpu_share"] = offloaded_share(chosen, path)
        return SimulateRun.of(record.run(found), found)


def _target(profile: LatencyProfile, options: LoadOptions, needed: bool) -> Target | None:
    """The target that the options name, or the paper's for the model; None where neither is known."""
    sla_ms, level, quantile = options.get("sla_ms"), options.get("target"), options.get("quantile", 95.0)
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
    if not same_model(found.model, cpu.model):
        raise InputError(f"--gpu {gpu}: expected a profile of {cpu.model}, got one of {found.model}")
    if gpus < 1:
        raise InputError(f"--gpus: expected at least 1, got {gpus}")
    return Accelerators(found, gpus)


def _weighed(workload: Workload, profile: LatencyProfile) -> Workload:
    """The workload with what its queries count for, where the profile's model has jagged inputs."""
    if not profile.lookup_share:
        return workload
    lookups = str(profile.detail.get("lookups", HEAVY))
    node = NodeConfig(profile.model, max_query=workload.sizes.cap, seed=workload.seed, lookups=lookups)
    weighed = replace(workload, lookups=lookups, work=node.work(named_model(profile.model).schema))
    return weighed.at_share(profile.lookup_share)


def _stream(workload: Workload, rate: float, queries: int | None, duration: float | None) -> Stream:
    """The load of one trial."""
    checked_rate(rate)
    if queries is None and duration is None and workload.trace is None:
        queries = QUERIES
    return offered(workload.stream(rate, queries=queries, duration_s=duration), workload, duration)


def _outcome(log: RunLog, target: Target | None) -> dict[str, Any]:
    """What a trial shows, under the names of the JSON of `bench`."""
    found = {**trial_document(log, target), "load": log.load, "stable": stable(log)}
    if found["stable"] is False:
        # What queries waited only says how long the trial was.
        found |= dict.fromkeys(("mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms", "misses", "miss_rate"))
    return found


def _met(found: dict[str, Any], target: Target) -> bool:
    return bool(found["served"] == 1 and target.allows(found["miss_rate"]))


def _beside(ranked: Ranked, found: dict[str, Any], node: NodeModel, seed: int) -> dict[str, Any]:
    """What is shown beside the best policy: the static baseline, all that was tried, every batch size."""
    static: dict[str, Any] = ranked.first.policy.describe()
    if ranked.first.qps:
        same = ranked.best == ranked.first.policy
        static |= found if same else _search(node, ranked.first.policy, seed)
    point = {k: v for k, v in static.items() if k in PointDocument.types()}
    return {
        "static": point,
        "ratio": found["qps"] / static["qps"] if static.get("qps") else None,
        "candidates": [{**t.policy.describe(), **t.score.to_json()} for t in ranked.search.told],
        "batch_curve": node.curve(),
    }


def _search(node: NodeModel, policy: Policy, seed: int) -> dict[str, Any]:
    """The capacity in virtual time."""
    found = capacity(
        node.trial(),
        policy,
        node.target,
        hint_qps=0.8 * node.saturation_qps(policy.batch_size or node.policies.largest),
        settings=Settings.virtual(node.target),
        seed=seed,
    )
    point = summary_document(found.summary) if found.summary else {}
    return {**point, **found.to_json(), "qps": found.capacity_qps}
