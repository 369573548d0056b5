"""Items with different numbers of ids, live: RMC1 with look-ups from a heavy tail (mean 16, p99 above 80).

Three figures: the capacity at p95 <= 100 ms next to that of the same load padded to the 99th percentile, 99 ids; the
capacity that the profile predicts; and what a policy in deadline order carries that counts work, over the same that counts
items, where lengths differ from query to query, on trials that take turns. Five minutes; keep the machine idle.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown, measured_on
from deeprecsys.api.profiles import measure_profile, quick_profile
from deeprecsys.api.trials import LiveTrials
from deeprecsys.api.virtual import NodeModel
from deeprecsys.core.policy.deadline import Deadline
from deeprecsys.report import format as f
from deeprecsys.search.capacity import capacity
from deeprecsys.search.rank import saturation_qps
from deeprecsys.search.result import Settings

MODEL = "dlrm-rmc1-jagged"
JAGGED, PADDED = "lognormal", "quantiles:99,99"
BATCH, SEARCH_S, PROFILE_S = 256, 30.0, 8.0
ALIKE, SIZES, TIMES, CUT = "lognormal:1@0,0.8", "normal:2500,800,5000", 4.3, 1000
"""For the comparison: lengths that a query's items have in common; large queries, so that the machine's noise is small
beside them; target over the mean query's time; batch size."""
LOADS, ROUNDS, TRIAL_S = (0.5, 0.6, 0.7, 0.8, 0.9), 5, 4.0
RESAMPLES = 2000
POLICY = dr.DeepRecSched(BATCH)


def searched(job: dr.Experiment, seconds: float, profiled: bool) -> dict[str, Any]:
    """The capacity at the model's target, and what the profile predicts."""
    with dr.Node(job.node) as node:
        found: dict[str, Any] = {"lookup_share": node.lookup_share}
        quick = quick_profile(node, job, BATCH)
        sizes = job.workload.at_share(node.lookup_share).stream(1.0, queries=4000).size
        hint = 0.8 * saturation_qps(quick, BATCH, sizes, node.workers)
        settings = replace(Settings.live(job.target), budget_s=seconds)
        if profiled:
            virtual = NodeModel.of(
                job, measure_profile(node, job, seconds * PROFILE_S / SEARCH_S), node.workers
            )
            found["predicted_qps"] = capacity(
                virtual.trial(), POLICY, job.target, hint_qps=hint, settings=Settings.virtual(job.target)
            ).capacity_qps
        live = capacity(LiveTrials(node, job), POLICY, job.target, hint_qps=hint, settings=settings)
        return found | {"qps": live.capacity_qps, "interval_qps": [live.low_qps, live.high_qps]}


def compared(scale: float, rounds: int, trial_s: float) -> dict[str, Any]:
    """Misses of deadline order by work and by items, at shares of the saturating rate, trial by trial in turn."""
    job = dr.Experiment.resolve(MODEL, rows_scale=scale, lookups=ALIKE, sizes=SIZES)
    with dr.Node(job.node) as node:
        share, quick = node.lookup_share, quick_profile(node, job, CUT)
        sizes = job.workload.at_share(share).stream(1.0, queries=4000).size
        target = dr.Target(latency_s=TIMES * quick.seconds(round(float(sizes.mean())), node.workers))
        full = saturation_qps(quick, CUT, sizes, node.workers)
        late = np.zeros((2, rounds, len(LOADS)))
        for r in range(rounds):
            for k, load in enumerate(LOADS):
                stream = replace(job.workload, seed=r).stream(load * full, duration_s=trial_s)
                for side in (0, 1) if (r + k) % 2 else (1, 0):
                    node.lookup_share = share * side
                    log = node.run(Deadline(CUT, target.latency_s), stream, target, abandon=False)
                    late[side, r, k] = float(np.mean(~(log.latency_s[log.measured] <= target.latency_s)))
            print(f"round {r}: late by items {late[0, r]}, by work {late[1, r]}", flush=True)
    rng = np.random.default_rng(0)
    picks = [np.arange(rounds), *rng.integers(rounds, size=(RESAMPLES, rounds))]
    ratios = [limit(late[1, p].mean(axis=0)) / limit(late[0, p].mean(axis=0)) for p in picks]
    return {
        "lookup_share": share, "target_ms": 1e3 * target.latency_s, "saturation_qps": full,
        "by_items_qps": full * limit(late[0].mean(axis=0)), "by_work_qps": full * limit(late[1].mean(axis=0)),
        "ratio": ratios[0], "interval": np.quantile(ratios[1:], (0.025, 0.975)).tolist(), "late": late.tolist(),
    }  # fmt: skip


def limit(late: np.ndarray) -> float:
    """The load at which 5 % of queries are late: on straight lines between loads, from 0 at load 0."""
    loads, found = np.array([0.0, *LOADS]), np.maximum.accumulate([0.0, *late])
    beyond = int(np.argmax(found > 0.05)) if (found > 0.05).any() else len(found) - 1
    a, b = found[beyond - 1], found[beyond]
    share = (0.05 - a) / (b - a) if b > a else 1.0
    return float(loads[beyond - 1] + min(share, 1.0) * (loads[beyond] - loads[beyond - 1]))


def run(run: Run) -> Result:
    scale, seconds = (0.01, 4.0) if run.quick else (run.options.scale, SEARCH_S)
    jobs = {
        law: dr.Experiment.resolve(MODEL, rows_scale=scale, sla_ms=100.0, lookups=law)
        for law in (JAGGED, PADDED)
    }
    found = {law: searched(job, seconds, law == JAGGED) for law, job in jobs.items()}
    for name, one in found.items():
        print(name, one, flush=True)
    rounds = (2, 0.5) if run.quick else (ROUNDS, TRIAL_S)
    return {"rows_scale": scale, **found, "compared": compared(scale, *rounds)}


def tables(r: Result) -> Tables:
    jagged, padded, c = r[JAGGED], r[PADDED], r["compared"]
    gain, error = jagged["qps"] / padded["qps"], jagged["predicted_qps"] / jagged["qps"] - 1
    low, high = c["interval"]
    rows = [
        ("capacity, look-ups from a heavy tail over padded to 99",
         f"{f.figure(jagged['qps'])} over {f.figure(padded['qps'])} QPS: {gain:.2f}×", "≥ 2.5×"),
        ("predicted over live capacity", f"{f.figure(jagged['predicted_qps'])} QPS: {100 * error:+.1f} %", "≤ 10 %"),
        ("by work over by items", f"{c['ratio']:.2f}× ({low:.2f} to {high:.2f})", "≥ 1.1×"),
    ]  # fmt: skip
    end = (
        f"{measured_on(r['machine'])}, {r['rows_scale']:g} of the tables' rows. Deadline order, sizes `{SIZES}`, "
        f"p95 within {c['target_ms']:.1f} ms, lengths `{ALIKE}`; look-ups are {100 * c['lookup_share']:.0f} % of an "
        "item's time. `python -m benchmarks.node.jagged` makes this table."
    )
    return {"jagged": f"{markdown(('what', 'figure', 'goal'), rows)}\n\n{end}"}


BENCHMARK = Benchmark(
    __file__,
    __doc__,
    run,
    tables,
    options={"--scale": {"type": float, "default": 0.25, "help": "factor on the rows of every table"}},
)

if __name__ == "__main__":
    BENCHMARK.main()
