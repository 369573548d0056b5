"""Ten minutes at 80 % of the capacity: memory, descriptors and p99 flat; then new weights, then a drain, under load.

    python benchmarks/serve_soak.py [--quick]

The swap is made in process, beside clients of its own: it has no place on the network. Keep the machine idle.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from itertools import pairwise
from threading import Event, Thread
from typing import Any

import numpy as np

from common import ROOT, put_in, save
from deeprecsys.core.policy import DeepRecSched
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.target import Target
from deeprecsys.node.node import pinning
from deeprecsys.serve.arena import Weights
from deeprecsys.serve.served import ModelConfig
from deeprecsys.serve.service import Service, ServiceConfig
from deeprecsys.workload.stream import Workload
from serving import Bodies, Server, capacity, cores_of_layout, load, on_cores, server

MODEL, TARGET, SHARE = "wnd", Target(0.025), 0.8


def main() -> None:
    quick = "--quick" in sys.argv
    scale, seconds, trial_s, parts = (0.01, 6.0, 2.0, 3) if quick else (1.0, 600.0, 10.0, 10)
    ours, clients = cores_of_layout()
    everywhere = os.sched_getaffinity(0)
    with server(MODEL, "--rows-scale", str(scale), "--sla-ms", "25", cores=ours) as s:
        on_cores(clients)
        workload = Workload.parse()
        bodies = Bodies(MODEL, scale, workload.sizes.cap)
        carries = capacity(s, bodies, workload, TARGET, trial_s)
        rate = SHARE * carries["qps"]
        sizes: list[dict[str, int]] = []
        stop = Event()
        watch = Thread(target=watched, args=(s, sizes, stop, seconds / 120))
        watch.start()
        answers = load(s, bodies, Workload.parse(seed=5).stream(rate, duration_s=seconds))
        stop.set()
        watch.join()
        drained = drain(s, bodies, rate)
    os.sched_setaffinity(0, everywhere)
    edges = np.linspace(0, seconds, parts + 1)
    p99 = [answers.between(a, b).summary(TARGET, 1.0)["p99_ms"] for a, b in pairwise(edges)]
    result = {
        "model": MODEL, "rows_scale": scale, "capacity_qps": carries["qps"], "rate_qps": rate,
        "seconds": seconds, "all": answers.summary(TARGET, seconds), "p99_ms": p99,
        "footprint": [x for x in sizes if x], "drain": drained, "swap": asyncio.run(swap(scale, 20 if quick else 200)),
    }  # fmt: skip
    if quick:
        print(table(result))
        return
    print(save("serve_soak", result))
    put_in(ROOT / "docs" / "results.md", "serve-soak", table(result))


def watched(s: Server, sizes: list[dict[str, int]], stop: Event, every_s: float) -> None:
    while not stop.wait(every_s):
        sizes.append(s.footprint())


def drain(s: Server, bodies: Bodies, rate: float) -> dict[str, int]:
    """SIGTERM under load: what was taken is answered, what comes later is refused or finds nobody."""
    stream = Workload.parse(seed=6).stream(rate, duration_s=2.0)
    answers = load(s, bodies, stream, [(1.0, lambda: os.kill(s.pid, signal.SIGTERM))])
    before = answers.between(0.0, 0.9)
    after = answers.between(1.1, 3.0)
    return {
        "before": len(before.status), "before_served": int(before.served.sum()), "after": len(after.status),
        "after_served": int(after.served.sum()),
    }  # fmt: skip


async def swap(scale: float, queries: int) -> dict[str, Any]:
    """New weights while clients ask."""
    profile = LatencyProfile(MODEL, (Point(1, 1, (1e-3,)), Point(1, 1000, (2e-2,))))
    config = ModelConfig(MODEL, Target(5.0), DeepRecSched(128), profile, rows_scale=scale)
    service = await Service.start(ServiceConfig((config,), tuple(pinning(1, 1)), spares=0))
    lost = asked = 0
    over = False

    async def client() -> None:
        nonlocal lost, asked
        while not over or asked < queries:
            seat = service.reserve(MODEL, 100, arrival_s=time.monotonic())
            try:
                for rows in seat.inputs.values():
                    rows[...] = 1
                asked += 1
                lost += not np.isfinite(await service.score(seat)).all()
            except Exception:
                lost += 1
            finally:
                service.release(seat)

    clients = [asyncio.create_task(client()) for _ in range(4)]
    began = time.monotonic()
    await service.swap(MODEL, "2", Weights(seed=1))
    took_s = time.monotonic() - began
    over = True
    await asyncio.gather(*clients)
    service.close()
    return {"asked": asked, "lost": lost, "seconds": took_s}


def table(r: dict[str, Any]) -> str:
    foot, d, w = r["footprint"], r["drain"], r["swap"]
    rows = [
        (f"offered for {r['seconds']:g} s", f"{r['rate_qps']:.1f} queries/s, {r['all']['offered']:,} in all"),
        (
            "answered, refused, other",
            f"{r['all']['served']:,}, {r['all']['refused']:,}, {r['all']['other']:,}",
        ),
        ("p99 over time", ", ".join(f"{x:.1f}" for x in r["p99_ms"]) + " ms"),
        (
            "memory, first and last",
            f"{foot[0]['pss_bytes'] / 1e6:,.0f}, {foot[-1]['pss_bytes'] / 1e6:,.0f} MB"
            if foot
            else "unavailable",
        ),
        ("descriptors, first and last", f"{foot[0]['fds']}, {foot[-1]['fds']}" if foot else "unavailable"),
        ("drain: answered of those that came before it", f"{d['before_served']} of {d['before']}"),
        ("new weights under load: queries, lost", f"{w['asked']:,}, {w['lost']} in {w['seconds']:.1f} s"),
    ]
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


if __name__ == "__main__":
    main()
