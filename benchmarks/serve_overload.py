"""Three times the load that a server can carry: answers keep their target, goodput its level, memory its size.

    python benchmarks/serve_overload.py [--quick]

The server has all cores but the last, the client the last. Keep the machine idle.
"""

from __future__ import annotations

import sys
import time
from threading import Event, Thread
from typing import Any

import numpy as np

from common import ROOT, put_in, save
from deeprecsys.core.target import Target
from deeprecsys.workload.stream import Workload
from serving import Bodies, Server, capacity, cores_of_layout, load, on_cores, server

MODEL, TIMES = "wnd", 3.0
WINDOW_S = 0.5


def main() -> None:
    quick = "--quick" in sys.argv
    scale, over_s, trial_s, after_s = (0.01, 3.0, 2.0, 3.0) if quick else (1.0, 30.0, 10.0, 10.0)
    target = Target(0.025)
    ours, clients = cores_of_layout()
    with server(MODEL, "--rows-scale", str(scale), "--sla-ms", "25", "--no-retune", cores=ours) as s:
        on_cores(clients)
        workload = Workload.parse()
        bodies = Bodies(MODEL, scale, workload.sizes.cap)
        carries = capacity(s, bodies, workload, target, trial_s)
        sizes: list[dict[str, int]] = []
        stop = Event()
        watch = Thread(target=watched, args=(s, sizes, stop))
        watch.start()
        over = load(s, bodies, Workload.parse(seed=1).stream(TIMES * carries["qps"], duration_s=over_s))
        began = time.monotonic()
        after = load(s, bodies, Workload.parse(seed=2).stream(0.5 * carries["qps"], duration_s=after_s))
        stop.set()
        watch.join()
    summary = over.summary(target, over_s)
    pss = [x["pss_bytes"] for x in sizes if x]
    result = {
        "model": MODEL, "rows_scale": scale, "target_ms": 25.0, "server_cores": ours, "client_cores": clients,
        "capacity": carries, "overload": {"rate_qps": TIMES * carries["qps"], "seconds": over_s, **summary},
        "goodput_share": summary["goodput_qps"] / carries["qps"] if carries["qps"] else None,
        "memory": {"first": pss[0], "last": pss[-1], "most": max(pss)} if pss else None,
        "recovery_s": recovery(after, target, after_s), "after": after.summary(target, after_s),
        "measured_at_s": began,
    }  # fmt: skip
    if quick:
        print(table(result))
        return
    print(save("serve_overload", result))
    put_in(ROOT / "docs" / "results.md", "serve-overload", table(result))


def watched(s: Server, sizes: list[dict[str, int]], stop: Event) -> None:
    while not stop.wait(0.5):
        sizes.append(s.footprint())


def recovery(after: Any, target: Target, span_s: float) -> float:
    """From the end of the overload to the end of the last window that had a refusal or missed the target."""
    last = 0.0
    for begin in np.arange(0.0, span_s, WINDOW_S):
        w = after.between(begin, begin + WINDOW_S)
        late = w.latency_s[w.served] > target.latency_s
        if len(w.status) and (not w.served.all() or late.mean() > target.miss_rate):
            last = float(begin) + WINDOW_S
    return last


def table(r: dict[str, Any]) -> str:
    o, m = r["overload"], r["memory"]
    flat = (
        f"{m['first'] / 1e6:,.0f} → {m['last'] / 1e6:,.0f} MB, at most {m['most'] / 1e6:,.0f}"
        if m
        else "unavailable"
    )
    rows = [
        ("capacity over HTTP", f"{r['capacity']['qps']:.1f} queries/s"),
        (f"offered for {o['seconds']:g} s", f"{o['rate_qps']:.1f} queries/s"),
        ("answered, refused", f"{o['served']:,}, {o['refused']:,}"),
        ("p95 of the answered", f"{o['p95_ms']:.1f} ms (target {r['target_ms']:g} ms)"),
        ("goodput over capacity", f"{100 * (r['goodput_share'] or 0):.0f} %"),
        ("memory, sum of PSS", flat),
        ("back within the target after", f"{r['recovery_s']:.1f} s"),
    ]
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


if __name__ == "__main__":
    main()
