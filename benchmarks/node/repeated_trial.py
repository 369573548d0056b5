"""How steady the machine is: one trial, the very same queries, again and again.

Nothing changes from trial to trial but the machine. What an item costs its worker then is the machine's speed, and
the p95 at one rate shows what that does to tail latency. Two minutes (dlrm-rmc1 unless another model is named); keep
the machine idle.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.experiments import MODELS, experiment
from deeprecsys.api.profiles import quick_hint_qps
from deeprecsys.core.runlog import summarise
from deeprecsys.report import format as f

BATCH, TRIALS, TRIAL_S = 256, 36, 3.0
LOAD = 0.75
"""Share of the rate that saturates the node."""


def run(run: Run) -> dict[str, Any]:
    """Pace and tail latency of each trial."""
    name = (*run.options.models, "dlrm-rmc1")[0]
    job, trials = experiment(name, rows_scale=0.01 if run.quick else 1.0), []
    with dr.Node(job.node) as node:
        rate = LOAD * quick_hint_qps(node, job, BATCH)
        stream = replace(job.workload, seed=3).stream(rate, duration_s=1.0 if run.quick else TRIAL_S)
        for _ in range(3 if run.quick else TRIALS):
            log = node.run(dr.DeepRecSched(BATCH), stream, job.target)
            s = summarise([log], job.target)
            trials.append({"us_per_item": 1e6 * log.seconds_per_item, "p95_ms": s.p95_ms,
                           "miss_rate": s.miss_rate, "stalled_share": s.stalled_share})  # fmt: skip
    return {"model": name, "batch_size": BATCH, "rate_qps": rate, "trials": trials}


def tables(r: Result) -> Tables:
    pace, p95, late = (np.array([t[k] for t in r["trials"]]) for k in ("us_per_item", "p95_ms", "miss_rate"))
    finite = np.isfinite(p95)
    together = float(np.corrcoef(pace[finite], np.log(p95[finite]))[0, 1])
    rows = [
        (what, *(words(float(x)) for x in (values.min(), np.median(values), values.max())))
        for what, values, words in (
            ("µs that an item took its worker", pace, lambda x: f"{x:.1f}"),
            ("p95, ms", p95, f.figure),
            ("queries later than 100 ms", late, lambda x: f"{100 * x:.0f} %"),
        )
    ]
    head = f"{len(pace)} trials of the same {TRIAL_S:g} s, {r['model']} at {f.figure(r['rate_qps'])} QPS"
    end = f"Correlation of an item's time with the logarithm of the p95: {together:.2f}."
    return {"drift": f"{markdown((head, 'least', 'median', 'greatest'), rows)}\n\n{end}"}


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
