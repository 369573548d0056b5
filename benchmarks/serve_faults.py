"""Workers killed one after the other under load: no wrong answer, no lost query, the target soon met again.

    python benchmarks/serve_faults.py [--quick]

`kill -9` of the busiest worker every few seconds, at 40 % of the capacity. Keep the machine idle.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import numpy as np

from common import ROOT, put_in, save
from deeprecsys.core.target import Target
from deeprecsys.workload.stream import Workload
from serving import Bodies, Server, capacity, cores_of_layout, load, on_cores, server

MODEL, SHARE = "wnd", 0.4
WITHIN_S, WINDOW_S = 2.0, 1.0


def main() -> None:
    quick = "--quick" in sys.argv
    scale, kills, gap_s, trial_s = (0.01, 2, 5.0, 2.0) if quick else (1.0, 20, 8.0, 10.0)
    target = Target(0.025)
    ours, clients = cores_of_layout()
    with server(MODEL, "--rows-scale", str(scale), "--sla-ms", "25", "--no-retune", cores=ours) as s:
        on_cores(clients)
        workload = Workload.parse()
        bodies = Bodies(MODEL, scale, workload.sizes.cap)
        carries = capacity(s, bodies, workload, target, trial_s)
        killed: list[int] = []
        times = [gap_s * (k + 1) for k in range(kills)]
        span_s = gap_s * (kills + 1)
        stream = Workload.parse(seed=3).stream(SHARE * carries["qps"], duration_s=span_s)
        answers = load(s, bodies, stream, [(t, lambda: kill(s, killed)) for t in times])
    back = [settled_s(answers, t, gap_s, target) for t in times]
    result = {
        "model": MODEL, "rows_scale": scale, "target_ms": 25.0, "capacity_qps": carries["qps"],
        "rate_qps": SHARE * carries["qps"], "kills": len(killed), "all": answers.summary(target, span_s),
        "lost": int((~answers.served).sum()), "settled_s": back, "settled_most_s": max(back),
    }  # fmt: skip
    if quick:
        print(table(result))
        return
    print(save("serve_faults", result))
    put_in(ROOT / "docs" / "results.md", "serve-faults", table(result))


def kill(s: Server, killed: list[int]) -> None:
    victim = s.workers()[0]
    os.kill(victim, signal.SIGKILL)
    killed.append(victim)


def settled_s(answers: Any, at_s: float, span_s: float, target: Target) -> float:
    """After a kill, how long until every window of a second had its share within the target."""
    last = 0.0
    for begin in np.arange(at_s, at_s + span_s - WINDOW_S, 0.25):
        w = answers.between(begin, begin + WINDOW_S)
        if len(w.status) and np.nanmean(w.latency_s <= target.latency_s) < target.quantile:
            last = float(begin - at_s) + WINDOW_S
    return last


def table(r: dict[str, Any]) -> str:
    a = r["all"]
    rows = [
        ("workers killed", f"{r['kills']}, at {r['rate_qps']:.1f} queries/s"),
        ("queries, lost, wrong", f"{a['offered']:,}, {r['lost']}, {a['wrong']}"),
        ("p95, p99 of all", f"{a['p95_ms']:.1f}, {a['p99_ms']:.1f} ms (target {r['target_ms']:g} ms)"),
        ("longest until the p95 was within the target again", f"{r['settled_most_s']:.2f} s"),
    ]
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {x} | {y} |" for x, y in rows)])


if __name__ == "__main__":
    main()
