"""Workers killed one after the other under load: no wrong answer, no lost query, the target soon met again.

`kill -9` of the busiest worker every 12 seconds, at 40 % of the capacity: by then its successor, which starts
on what the others leave of their cores, is ready as the next spare. Before it and after it the same queries without
a kill: the first run shows what is in time undisturbed, the second how often that changes for
reasons of the machine's own. Keep the machine idle.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables
from benchmarks.lib.http_load import After
from benchmarks.lib.live_server import Extent, Row, Server, bench, verdicts

MODEL, TARGET, SHARE = "wnd", dr.Target(latency_s=0.025), 0.4
WITHIN_S = 2.0


def run(run: Run) -> Result:
    extent = Extent.of(run.quick)
    kills, gap_s = (2, 8.0) if extent.quick else (20, 12.0)
    times, span_s = [gap_s * (k + 1) for k in range(kills)], gap_s * (kills + 1)
    killed: list[int] = []
    with bench(MODEL, TARGET, extent, "--no-retune") as b:
        calm = b.load(SHARE * b.qps, span_s, seed=3)
        answers = b.load(SHARE * b.qps, span_s, 3, [(t, lambda: kill(b.server, killed)) for t in times])
        again = b.load(SHARE * b.qps, span_s, seed=3)
    each, control = (After.each(a, calm, TARGET, times) for a in (answers, again))
    pooled = After.pooled(each)
    return {
        "model": MODEL, "rows_scale": extent.rows_scale, "target_ms": 1e3 * TARGET.latency_s,
        "capacity_qps": b.qps, "rate_qps": SHARE * b.qps, "kills": len(killed), "wanted_kills": kills,
        "all": answers.summary(TARGET, span_s), "calm": calm.summary(TARGET, span_s),
        "shares": [a.share(WITHIN_S) for a in each], "undisturbed": [a.share(WITHIN_S) for a in control], "share": pooled.share(WITHIN_S),
        "settled_s": pooled.settled_s(TARGET), "quantile": TARGET.quantile,
    }  # fmt: skip


def kill(s: Server, killed: list[int]) -> None:
    victim = s.workers()[0]
    os.kill(victim, signal.SIGKILL)
    killed.append(victim)


def rows(r: dict[str, Any]) -> list[Row]:
    a, kills, calm, shares = r["all"], r["wanted_kills"], r["calm"], r["shares"]
    back, spared = (sum(x >= r["quantile"] for x in found) for found in (shares, r["undisturbed"]))
    settled = r["settled_s"]
    return [
        Row("workers killed", f"{r['kills']}, at {r['rate_qps']:.1f} queries/s", f"{kills}", r["kills"] == kills),
        Row("queries", f"{a['offered']:,}"),
        Row("lost: neither scores nor a refusal", f"{a['other']}", "0", a["other"] == 0),
        Row("refused, with when to come again", f"{a['refused']} (undisturbed {calm['refused']})"),
        Row("wrong", f"{a['wrong']}", "0", a["wrong"] == 0),
        Row("p95, p99 of the answered", f"{a['p95_ms']:.1f}, {a['p99_ms']:.1f} ms (undisturbed {calm['p95_ms']:.1f}, "
            f"{calm['p99_ms']:.1f}; target {r['target_ms']:g} ms)"),
        Row(f"kills from whose {WITHIN_S:g}. second on the p95 was within the target",
            f"{back} (undisturbed again: {spared}); in time were {100 * min(shares):.1f} % at the least "
            f"({100 * min(r['undisturbed']):.1f} %), {100 * r['share']:.1f} % of all", f"{kills}", back == kills),
        Row("all kills together: the p95 within the target again after", f"{settled:.2f} s", f"≤ {WITHIN_S:g} s",
            settled <= WITHIN_S),
    ]  # fmt: skip


def tables(result: Result) -> Tables:
    return {"serve-faults": verdicts(rows(result))}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()
