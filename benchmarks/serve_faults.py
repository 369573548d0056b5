"""Workers killed one after the other under load: no wrong answer, no lost query, the target soon met again.

    python benchmarks/serve_faults.py [--quick]

`kill -9` of the busiest worker every few seconds, at 40 % of the capacity. Keep the machine idle.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from deeprecsys.core.target import Target
from serving import Answers, Extent, Row, Server, bench, publish, table

MODEL, TARGET, SHARE = "wnd", Target(0.025), 0.4
WITHIN_S, WINDOW_S = 2.0, 1.0


def main() -> None:
    extent = Extent.asked()
    kills, gap_s = (2, 4.0) if extent.quick else (20, 8.0)
    times, span_s = [gap_s * (k + 1) for k in range(kills)], gap_s * (kills + 1)
    killed: list[int] = []
    with bench(MODEL, TARGET, extent, "--no-retune") as b:
        answers = b.load(SHARE * b.qps, span_s, 3, [(t, lambda: kill(b.server, killed)) for t in times])
    back = [settled_s(answers, t, gap_s, TARGET) for t in times]
    result = {
        "model": MODEL, "rows_scale": extent.rows_scale, "target_ms": 1e3 * TARGET.latency_s,
        "capacity_qps": b.qps, "rate_qps": SHARE * b.qps, "kills": len(killed), "wanted_kills": kills,
        "all": answers.summary(TARGET, span_s), "lost": answers.summary(TARGET, span_s)["other"],
        "settled_s": back, "settled_most_s": max(back),
    }  # fmt: skip
    publish("serve_faults", result, table(rows(result)), extent.quick)


def kill(s: Server, killed: list[int]) -> None:
    victim = s.workers()[0]
    os.kill(victim, signal.SIGKILL)
    killed.append(victim)


def settled_s(answers: Answers, at_s: float, span_s: float, target: Target) -> float:
    """After a kill, how long until every window of a second had its share within the target."""
    last = 0.0
    for begin in np.arange(at_s, at_s + span_s - WINDOW_S, 0.25):
        w = answers.between(begin, begin + WINDOW_S)
        if len(w.status) and np.mean(w.latency_s <= target.latency_s) < target.quantile:
            last = float(begin - at_s) + WINDOW_S
    return last


def rows(r: dict[str, Any]) -> list[Row]:
    a, most, kills = r["all"], r["settled_most_s"], r["wanted_kills"]
    return [
        Row("workers killed", f"{r['kills']}, at {r['rate_qps']:.1f} queries/s", f"{kills}", r["kills"] == kills),
        Row("queries", f"{a['offered']:,}"),
        Row("lost: neither scores nor a refusal", f"{r['lost']}", "0", r["lost"] == 0),
        Row("refused, with when to come again", f"{a['refused']}"),
        Row("wrong", f"{a['wrong']}", "0", a["wrong"] == 0),
        Row("p95, p99 of all", f"{a['p95_ms']:.1f}, {a['p99_ms']:.1f} ms (target {r['target_ms']:g} ms)"),
        Row("longest until the p95 was within the target again", f"{most:.2f} s", f"≤ {WITHIN_S:g} s", most <= WITHIN_S),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
