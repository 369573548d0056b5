"""The offload threshold against an emulated GTX 1080 Ti, live: the climb beside the exhaustive sweep.

    python benchmarks/offload.py            all eight models at the medium target; about an hour
    python benchmarks/offload.py --quick    one model, few thresholds, short trials

The accelerator is emulated: batch times of this machine's eager engine over the published speed-ups, replayed
in real time. In virtual time the policies that go beyond the threshold stand beside it, on the same path.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from common import ROOT, save
from deeprecsys.cli.live import LiveTrials, accelerated, baseline, sample_sizes, start
from deeprecsys.cli.predict import two_pools_bound
from deeprecsys.cli.setup import Job
from deeprecsys.cli.virtual import Accelerators, SamplePath
from deeprecsys.core.errors import TargetUnreachableError
from deeprecsys.core.policy import CoalescedOffload, DeepRecSched, EarliestFinish, Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.tune.by_model import Ranking
from deeprecsys.tune.capacity import Settings, capacity
from deeprecsys.tune.hill_climb import HillClimb
from deeprecsys.tune.search import UNREACHABLE, Search, batch_sizes, thresholds
from deeprecsys.tune.sweep import Sweep
from deeprecsys.tune.work import saturation_qps
from models import MODELS


def main() -> None:
    quick = "--quick" in sys.argv
    found = {name: case(name, quick) for name in (MODELS[-1:] if quick else MODELS)}
    for name, c in found.items():
        print(f"{name:10} climb {c['climb']['offload_above']} ({c['climb']['qps']:.4g} QPS) sweep "
              f"{c['sweep']['offload_above']} ({c['sweep']['qps']:.4g} QPS), steps apart {c['steps_apart']}, "
              f"{c['fraction_of_two_pools']:.0%} of the two-pool bound (emulated GTX 1080 Ti)")  # fmt: skip
    if not quick:
        save("offload", {"emulated": True, "device": "GTX 1080 Ti", "models": found})


def case(name: str, quick: bool) -> dict[str, Any]:
    cpu = LatencyProfile.from_json(json.loads((ROOT / "profiles" / f"amd-avx2-2c-{name}.json").read_text()))
    job = Job.resolve(
        model_name=name, rows_scale=0.01 if quick else 0.5, engine="eager", precision="fp32", threads=1, workers=None,
        seed=0, locality="zipf:0.9", gpu="emulated:gtx-1080-ti",
    )  # fmt: skip
    limits = thresholds(job.workload.sizes.cap)
    limits = limits[::4] if quick else limits
    with accelerated(job, cpu) as (ready, gpu), start(ready) as node:
        assert gpu is not None
        static = baseline(node, job)
        sizes = batch_sizes(job.workload.sizes.cap, static.batch_size)
        sizes = sizes[6:8] if quick else sizes
        hint = saturation_qps(cpu, static.batch_size, sample_sizes(job), node.workers)
        settings = Settings.live(job.target)
        settings = replace(settings, resolution=0.03, trial_s=0.5, budget_s=2.0) if quick else settings
        live = LiveTrials(node, job)
        climb = HillClimb(sizes, limits)
        search(climb, live, job, hint, settings)
        assert climb.best is not None
        size = climb.best.policy.describe()["batch_size"]
        sweep = Sweep([DeepRecSched(size, n) for n in (None, *limits)])
        search(sweep, live, job, hint, settings)
        assert sweep.best is not None
        pools = Accelerators(gpu)
        stream = job.workload.stream(hint, queries=20_000)
        bound = two_pools_bound(cpu, node.workers, pools, stream, int(stream.size.max()), False)
        ladder = [*limits, None]
        steps = [ladder.index(s.best.policy.describe()["offload_above"]) for s in (climb, sweep) if s.best]
        return {
            "climb": point(climb),
            "sweep": point(sweep),
            "steps_apart": abs(steps[0] - steps[1]),
            "trials": {"climb": len(climb.told), "sweep": len(sweep.told)},
            "two_pools_qps": bound.rate_qps,
            "fraction_of_two_pools": climb.best.qps / bound.rate_qps,
            "virtual": virtual(
                climb.best.policy, job, cpu, node.workers, pools, hint, 2_000 if quick else 20_000
            ),
        }


def search(search: Search, live: LiveTrials, job: Job, hint: float, settings: Settings) -> None:
    """Run a search on the node to its end."""
    while (policy := search.ask()) is not None:
        about = search.best.qps if search.best else 0.8 * hint
        try:
            found = capacity(
                live, policy, job.target, hint_qps=about, settings=settings, floor_qps=search.floor_qps
            )
        except TargetUnreachableError:
            search.tell(policy, UNREACHABLE)
        else:
            search.tell(policy, found)


def point(search: Search) -> dict[str, Any]:
    assert search.best is not None
    return {**search.best.policy.describe(), "qps": search.best.qps}


def virtual(
    best: Policy, job: Job, cpu: LatencyProfile, workers: int, gpu: Accelerators, hint: float, queries: int
) -> dict[str, float]:
    """Capacity on one path of the climb's point, with merging, and with the device chosen."""
    known = best.describe()
    size, above = known["batch_size"], known["offload_above"]
    above = 2 * size if above is None else above
    largest = job.workload.sizes.cap
    policies: dict[str, Policy] = {
        "all on the CPU": DeepRecSched(size),
        "threshold": DeepRecSched(size, above),
        "threshold, merged": CoalescedOffload(size, above, 2 * largest),
        "earliest finish, merged": EarliestFinish(size, above, 2 * largest),
    }
    ranking = Ranking(SamplePath(cpu, job.workload, workers, job.target, queries, gpu), job.target, hint)
    return {name: ranking.score(policy, None).capacity_qps or 0.0 for name, policy in policies.items()}


if __name__ == "__main__":
    main()
