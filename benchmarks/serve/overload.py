"""Three times the load that a server can carry: answers keep their target, goodput its level, memory its size.

The same queries at half the capacity, before the overload and after it, show when it is over. A server that
sheds by predicted completion answers more small queries and fewer large ones the more it is offered: goodput is
counted in queries, as the capacity is, and in items beside it. The server has all cores but the last, the
client the last. Keep the machine idle.
"""

from __future__ import annotations

from typing import Any

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables
from benchmarks.lib.http_load import After
from benchmarks.lib.live_server import Extent, Row, bench, flat, footprints, from_to, verdicts

MODEL, TARGET = "wnd", dr.Target(latency_s=0.025)
TIMES, SHARE = 3.0, 0.5
GOODPUT, RECOVERY_S = 0.9, 2.0


def run(run: Run) -> Result:
    extent = Extent.of(run.quick)
    over_s, after_s = (3.0, 3.0) if extent.quick else (30.0, 10.0)
    with bench(MODEL, TARGET, extent, "--no-retune") as b:
        calm = b.load(SHARE * b.qps, after_s, seed=2)
        at_capacity = b.load(b.qps, over_s, seed=1)
        with footprints(b.server, over_s / 30) as sizes:
            over = b.load(TIMES * b.qps, over_s, seed=1)
        after = b.load(SHARE * b.qps, after_s, seed=2)
    summary, known = over.summary(TARGET, over_s), at_capacity.summary(TARGET, over_s)
    return {
        "model": MODEL, "rows_scale": extent.rows_scale, "target_ms": 1e3 * TARGET.latency_s,
        "capacity": b.carries, "overload": {"rate_qps": TIMES * b.qps, "seconds": over_s, **summary},
        "at_capacity": known, "goodput_share": summary["goodput_qps"] / known["goodput_qps"],
        "items_share": summary["goodput_items_per_s"] / known["goodput_items_per_s"],
        "pss_bytes": [x["pss_bytes"] for x in sizes], "in_time_after": After.each(after, calm, TARGET, [0.0])[0].share(RECOVERY_S),
        "calm": calm.summary(TARGET, after_s), "after": after.summary(TARGET, after_s),
    }  # fmt: skip


def rows(r: dict[str, Any]) -> list[Row]:
    o, share, memory = r["overload"], r["goodput_share"], r["pss_bytes"]
    return [
        Row("capacity over HTTP", f"{r['capacity']['qps']:.1f} queries/s"),
        Row(f"offered for {o['seconds']:g} s", f"{o['rate_qps']:.1f} queries/s, {TIMES:g} times as much"),
        Row("answered, refused", f"{o['served']:,}, {o['refused']:,}"),
        Row("neither", f"{o['other']:,}", "0", o["other"] == 0),
        Row("p95 of the answered", f"{o['p95_ms']:.1f} ms", f"≤ {r['target_ms']:g} ms", o["p95_ms"] <= r["target_ms"]),
        Row("queries in time per second, over those at capacity", f"{100 * share:.0f} %", f"≥ {100 * GOODPUT:.0f} %",
            share >= GOODPUT),
        Row("items in time per second, over those at capacity", f"{100 * r['items_share']:.0f} %"),
        Row("memory, sum of PSS in MB", from_to(memory, 1e6), "flat", flat(memory) if memory else None),
        Row(f"at {SHARE:g} of capacity, from {RECOVERY_S:g} s after its end on: in time as before it",
            f"{100 * r['in_time_after']:.1f} %", f"≥ {100 * TARGET.quantile:g} %", r["in_time_after"] >= TARGET.quantile),
    ]  # fmt: skip


def tables(result: Result) -> Tables:
    return {"serve-overload": verdicts(rows(result))}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()
