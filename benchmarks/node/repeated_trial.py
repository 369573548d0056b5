"""How steady the machine is: one trial, the very same queries, again and again.

    python -m benchmarks.node.repeated_trial [MODEL]      by default dlrm-rmc1; 2 minutes

Nothing changes from trial to trial but the machine. What an item costs its worker then is the machine's speed, and
the p95 at one rate shows what that does to tail latency. Keep the machine idle.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, put_in, save
from benchmarks.search.live_capacity import BATCH, job_of
from deeprecsys.api.trials import quick_hint_qps
from deeprecsys.core.policy import DeepRecSched
from deeprecsys.core.runlog import summarise
from deeprecsys.node.node import Node
from deeprecsys.report import format as f

TRIALS = 36
TRIAL_S = 3.0
LOAD = 0.75
"""Of the rate that saturates the node."""


def measure(name: str) -> dict[str, Any]:
    """Pace and tail latency of each trial."""
    job = job_of(model_name=name)
    trials = []
    with Node(job.node) as node:
        rate = LOAD * quick_hint_qps(node, job, BATCH)
        stream = replace(job.workload, seed=3).stream(rate, duration_s=TRIAL_S)
        for _ in range(TRIALS):
            log = node.run(DeepRecSched(BATCH), stream, job.target)
            s = summarise(log, job.target)
            trials.append(
                {
                    "us_per_item": 1e6 * log.seconds_per_item,
                    "p95_ms": s.p95_ms,
                    "miss_rate": s.miss_rate,
                    "stalled_share": s.stalled_share,
                }
            )
    return {"model": name, "batch_size": BATCH, "rate_qps": rate, "trials": trials}


def table(r: dict[str, Any]) -> str:
    pace, p95 = (np.array([t[k] for t in r["trials"]]) for k in ("us_per_item", "p95_ms"))
    finite = np.isfinite(p95)
    late = [t["miss_rate"] for t in r["trials"]]
    together = float(np.corrcoef(pace[finite], np.log(p95[finite]))[0, 1])
    return "\n".join(
        [
            f"| {len(pace)} trials of the same {TRIAL_S:g} s, {r['model']} at {f.figure(r['rate_qps'])} QPS "
            "| least | median | greatest |",
            "|---|---|---|---|",
            f"| µs that an item took its worker | {pace.min():.1f} | {np.median(pace):.1f} | {pace.max():.1f} |",
            f"| p95, ms | {f.ms(float(p95.min()))} | {f.ms(float(np.median(p95)))} | {f.ms(float(p95.max()))} |",
            f"| queries later than 100 ms | {100 * min(late):.0f} % | {100 * float(np.median(late)):.0f} % | {100 * max(late):.0f} % |",
            "",
            f"Correlation of an item's time with the logarithm of the p95: {together:.2f}.",
        ]
    )


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or ["dlrm-rmc1"]
    result = measure(names[0])
    save("node_repeated_trial", result)
    text = table(result)
    put_in(ROOT / "docs" / "results.md", "drift", text)
    print(text)


if __name__ == "__main__":
    main()
