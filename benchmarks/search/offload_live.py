"""The offload threshold against an emulated GTX 1080 Ti, live: the climb beside the exhaustive sweep.

The accelerator is emulated: batch times of this machine's eager engine over the published speed-ups, replayed
in real time. Each model is measured on one node in one go: both climbs (batch size, then threshold), every
threshold at the climb's batch size, with load that the climb never saw, and where the two choices differ, both
once more side by side: the best of fifteen noisy figures is a lucky one. `search.offload_simulated` makes the
statement without noise. Four models take less than a quarter of an hour; keep the machine idle.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.experiments import experiment, tune_settings
from benchmarks.lib.searches import SWEEP_SEED, Sweep, duel, searched
from deeprecsys.api.predict import offloaded_share, two_pools_bound
from deeprecsys.api.profiles import measure_profile, sample_sizes, start
from deeprecsys.api.trials import LiveTrials, accelerated, document
from deeprecsys.api.virtual import Accelerators
from deeprecsys.report import format as f
from deeprecsys.search.capacity import capacity
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.history import Search, batch_sizes, thresholds
from deeprecsys.search.rank import saturation_qps
from deeprecsys.search.result import Settings

MODELS = ("dlrm-rmc1", "wnd", "din", "dien")
"""The device is a little faster than a core, much faster, slower for small and faster for large batches."""
TITLE = "GTX 1080 Ti"
CLIMB_S, PROFILE_S, DUEL_S = 50.0, 12.0, 16.0
BOUND_QUERIES = 20_000
LEVEL = 0.9
"""A choice more than a step away is level with the sweep's best if its interval lies above this share of it, up to
1 and more."""


def run(run: Run) -> None:
    def one(name: str) -> dict[str, Any] | None:
        try:
            return measure(name, run.quick)
        except (dr.TargetUnreachableError, dr.TrialsVoidError, dr.NodeError) as error:
            print(f"{name}: {error}", flush=True)  # the others can still be measured, and this one by --more
            return None

    run.each([(m,) for m in MODELS], one, emulated=True, device=TITLE)


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Everything about one model."""
    began = time.monotonic()
    job = experiment(name, rows_scale=0.01 if quick else 0.5, gpu="emulated:gtx-1080-ti")
    cap = job.workload.sizes.cap
    settings = tune_settings(job.target, 6.0 if quick else CLIMB_S).candidate
    with start(job.on_cpu()) as node:
        cpu = measure_profile(node, job, 2.0 if quick else PROFILE_S)
    with accelerated(job, cpu) as (ready, gpu), start(ready) as node:
        assert gpu is not None
        static = job.baseline(node.workers)
        hint = saturation_qps(cpu, static.batch_size, sample_sizes(job), node.workers)
        sizes, limits = batch_sizes(cap, static.batch_size), thresholds(cap, sample_sizes(job))
        if quick:
            sizes, limits = sizes[-4:-1], limits[3::3]
        live = LiveTrials(node, job)
        climb = HillClimb(sizes, limits)
        # Known first, as in `tune`: candidates below its rate are given up early.
        climb.tell(static, capacity(live, static, job.target, hint_qps=0.8 * hint, settings=settings))
        climbed = searched(climb, live, job.target, 0.8 * hint, settings, seed=0)
        assert climb.best is not None
        chosen = climb.best.policy
        size = chosen.batch_size
        sweep = Sweep([dr.DeepRecSched(size, n) for n in (*limits, None)])
        swept = searched(sweep, live, job.target, climb.best.qps, settings, SWEEP_SEED)
        assert sweep.best is not None
        best = sweep.best.policy
        found = None
        if chosen != best:
            fine = replace(Settings.live(job.target), resolution=0.02, budget_s=4.0 if quick else DUEL_S)
            found = duel(live, chosen, best, job.target, sweep.best.qps, fine)
        about = document(node, job, gpu)
        workers = node.workers
    stream = job.workload.stream(hint, queries=BOUND_QUERIES)
    bound = two_pools_bound(cpu, workers, Accelerators(gpu), stream, int(stream.size.max()), False)
    return {
        **about,
        "profile": cpu.to_json(),
        "climb": {**points(climb), "seconds": sum(c.seconds for c in climbed)},
        "sweep": {**points(sweep), "seconds": sum(c.seconds for c in swept)},
        "ladder": [*limits, None],
        "duel": found,
        "gpu_share": offloaded_share(chosen, stream),
        "two_pools_qps": bound.rate_qps,
        "wall_s": time.monotonic() - began,
    }


def points(search: Search) -> dict[str, Any]:
    """A search's best and all that it evaluated."""
    assert search.best is not None
    told = [{**t.policy.describe(), "qps": t.qps, **t.score.to_json()} for t in search.told]
    for point in told:
        point.pop("probes", None)  # the trials of thirty searches are too many to keep
    return {**search.best.policy.describe(), "qps": search.best.qps, "points": told}


def judged(r: dict[str, Any]) -> dict[str, Any]:
    """How near the climb came: steps on the ladder of thresholds, and the duel's share with its interval."""
    ladder = r["ladder"]
    steps = abs(ladder.index(r["climb"]["offload_above"]) - ladder.index(r["sweep"]["offload_above"]))
    share, interval = (r["duel"]["share"], r["duel"]["interval"]) if r["duel"] else (1.0, [1.0, 1.0])
    interval = [float("inf") if x is None else float(x) for x in interval]  # JSON has no infinity
    level = "level" if interval[0] >= LEVEL else "undecided"  # an open interval reaches everything
    verdict = "within one step" if steps <= 1 else level if interval[1] >= 1 else "no"
    return {"steps": steps, "share": share, "interval": interval, "verdict": verdict}


def row(name: str, r: dict[str, Any]) -> tuple[str, ...]:
    """A model's row of the table."""
    j, c, s = judged(r), r["climb"], r["sweep"]
    alone = next(p["qps"] for p in s["points"] if p["offload_above"] is None)
    low, high = j["interval"]
    between = f"{100 * low:.0f}–{100 * high:.0f} %" if high < float("inf") else "interval open"
    share = "the same" if not r["duel"] else f"{100 * j['share']:.0f} % ({between})"
    return (name, f"{c['batch_size']}, {above(c)}, {f.figure(c['qps'])}", f"{above(s)}, {f.figure(s['qps'])}",
            str(j["steps"]), share, j["verdict"], f.figure(alone), f.share(r["gpu_share"]),
            f.share(c["qps"] / r["two_pools_qps"]), f"{c['seconds']:.0f}, {s['seconds']:.0f}")  # fmt: skip


def above(point: dict[str, Any]) -> str:
    return "none away" if point["offload_above"] is None else f"> {point['offload_above']}"


def tables(result: Result) -> Tables:
    models = result["models"]
    about = next(iter(models.values()))
    header = (
        "model", "climb: batch, away, QPS", "sweep's best: away, QPS", "steps apart", "capacity reached, side by side",
        "within one step, or level", "all on the CPU, QPS", "items away", "of the two-pool bound", "climb, sweep: s",
    )  # fmt: skip
    m = about["machine"]
    where = (
        f"The {TITLE} is emulated; the {about['workers']['cpu']} workers "
        f"on the CPU are not: {m['cpu']}, {m['cores']} cores, engine eager fp32, sizes `production`, medium "
        "target. `python -m benchmarks.search.offload_live` makes this table."
    )
    return {"offload": f"{markdown(header, (row(n, models[n]) for n in models))}\n\n{where}"}


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
