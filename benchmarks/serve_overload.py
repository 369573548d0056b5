"""Three times the load that a server can carry: answers keep their target, goodput its level, memory its size.

    python benchmarks/serve_overload.py [--quick]

The server has all cores but the last, the client the last. Keep the machine idle.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deeprecsys.core.target import Target
from serving import Answers, Extent, Row, bench, flat, footprints, from_to, publish, table

MODEL, TARGET, TIMES = "wnd", Target(0.025), 3.0
WINDOW_S = 0.5
GOODPUT, RECOVERY_S = 0.9, 2.0


def main() -> None:
    extent = Extent.asked()
    over_s, after_s = (3.0, 3.0) if extent.quick else (30.0, 10.0)
    with bench(MODEL, TARGET, extent, "--no-retune") as b:
        with footprints(b.server, over_s / 30) as sizes:
            over = b.load(TIMES * b.qps, over_s, seed=1)
        after = b.load(0.5 * b.qps, after_s, seed=2)
    summary = over.summary(TARGET, over_s)
    result = {
        "model": MODEL, "rows_scale": extent.rows_scale, "target_ms": 1e3 * TARGET.latency_s,
        "capacity": b.carries, "overload": {"rate_qps": TIMES * b.qps, "seconds": over_s, **summary},
        "goodput_share": summary["goodput_qps"] / b.qps, "pss_bytes": [x["pss_bytes"] for x in sizes],
        "recovery_s": recovery(after, TARGET, after_s), "after": after.summary(TARGET, after_s),
    }  # fmt: skip
    publish("serve_overload", result, table(rows(result)), extent.quick)


def recovery(after: Answers, target: Target, span_s: float) -> float:
    """From the end of the overload to the end of the last window that had a refusal or missed the target."""
    last = 0.0
    for begin in np.arange(0.0, span_s, WINDOW_S):
        w = after.between(begin, begin + WINDOW_S)
        late = w.latency_s[w.served] > target.latency_s
        if len(w.status) and (not w.served.all() or late.mean() > target.miss_rate):
            last = float(begin) + WINDOW_S
    return last


def rows(r: dict[str, Any]) -> list[Row]:
    o, share, memory = r["overload"], r["goodput_share"], r["pss_bytes"]
    return [
        Row("capacity over HTTP", f"{r['capacity']['qps']:.1f} queries/s"),
        Row(f"offered for {o['seconds']:g} s", f"{o['rate_qps']:.1f} queries/s, {TIMES:g} times as much"),
        Row("answered, refused", f"{o['served']:,}, {o['refused']:,}"),
        Row("neither", f"{o['other']:,}", "0", o["other"] == 0),
        Row("p95 of the answered", f"{o['p95_ms']:.1f} ms", f"≤ {r['target_ms']:g} ms", o["p95_ms"] <= r["target_ms"]),
        Row("goodput over capacity", f"{100 * share:.0f} %", f"≥ {100 * GOODPUT:.0f} %", share >= GOODPUT),
        Row("memory, sum of PSS in MB", from_to(memory, 1e6), "flat", flat(memory) if memory else None),
        Row("back within the target after", f"{r['recovery_s']:.1f} s", f"≤ {RECOVERY_S:g} s", r["recovery_s"] <= RECOVERY_S),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
