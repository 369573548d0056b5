"""Ten minutes at 80 % of the capacity: memory, descriptors and p99 flat; then new weights, then a drain, under load.

The swap is made in process, beside clients of its own: it has no place on the network. Keep the machine idle.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from itertools import pairwise
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables
from benchmarks.lib.live_server import Bench, Extent, Row, bench, flat, footprints, from_to, verdicts
from deeprecsys.core.profile import Point
from deeprecsys.node.node import pinning
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.service.hosted_model import ModelConfig
from deeprecsys.node.service.service import Service, ServiceConfig

MODEL, TARGET, SHARE = "wnd", dr.Target(latency_s=0.025), 0.8
STABLE = 1.5


def run(run: Run) -> Result:
    extent = Extent.of(run.quick)
    seconds, parts, asks = (6.0, 3, 20) if extent.quick else (600.0, 10, 200)
    with bench(MODEL, TARGET, extent) as b:
        rate = SHARE * b.qps
        with footprints(b.server, seconds / 120) as sizes:
            answers = b.load(rate, seconds, seed=5)
        drained = drain(b, rate)
    edges = np.linspace(0, seconds, parts + 1)
    p99 = [answers.between(at, end).summary(TARGET, 1.0)["p99_ms"] for at, end in pairwise(edges)]
    return {
        "model": MODEL, "rows_scale": extent.rows_scale, "target_ms": 1e3 * TARGET.latency_s,
        "capacity_qps": b.qps, "rate_qps": rate, "seconds": seconds, "all": answers.summary(TARGET, seconds),
        "p99_ms": p99, "footprint": sizes, "drain": drained, "swap": asyncio.run(swap(extent.rows_scale, asks)),
    }  # fmt: skip


def drain(b: Bench, rate: float) -> dict[str, int]:
    """SIGTERM under load: what was taken is answered, what comes later is refused or finds no server."""
    answers = b.load(rate, 2.0, 6, [(1.0, lambda: os.kill(b.server.pid, signal.SIGTERM))])
    before, after = answers.between(0.0, 0.9), answers.between(1.1, 3.0)
    # Without an answer though the server had taken it: a status other than 200 and 503 before it went.
    return {
        "before": len(before.status), "before_served": int(before.served.sum()),
        "before_refused": int((before.status == 503).sum()), "after": len(after.status),
        "after_served": int(after.served.sum()),
    }  # fmt: skip


async def swap(scale: float, queries: int) -> dict[str, Any]:
    """New weights while clients ask."""
    profile = dr.LatencyProfile(MODEL, (Point(1, 1, (1e-3,)), Point(1, 1000, (2e-2,))))
    config = ModelConfig(MODEL, dr.Target(latency_s=5.0), dr.DeepRecSched(128), profile, rows_scale=scale)
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


def rows(r: dict[str, Any]) -> list[Row]:
    d, w, p99 = r["drain"], r["swap"], r["p99_ms"]
    memory, fds = ([x[key] for x in r["footprint"]] for key in ("pss_bytes", "fds"))
    lost, worst = d["before"] - d["before_served"] - d["before_refused"], max(p99) / float(np.median(p99))
    return [
        Row(f"offered for {r['seconds']:g} s", f"{r['rate_qps']:.1f} queries/s, {r['all']['offered']:,} in all"),
        Row("answered, refused", f"{r['all']['served']:,}, {r['all']['refused']:,}"),
        Row("neither", f"{r['all']['other']:,}", "0", r["all"]["other"] == 0),
        Row("p99 over time", ", ".join(f"{x:.1f}" for x in p99) + " ms"),
        Row("worst p99 over the median one", f"{worst:.2f}", f"stable: ≤ {STABLE:g}", worst <= STABLE),
        Row("memory, sum of PSS in MB", from_to(memory, 1e6), "flat", flat(memory) if memory else None),
        Row("descriptors", from_to(fds), "flat", flat(fds) if fds else None),
        Row("drain under load: of those taken before it, lost", f"{lost} of {d['before']}", "0", lost == 0),
        Row("new weights under load: queries lost", f"{w['lost']} of {w['asked']:,} in {w['seconds']:.1f} s", "0",
            w["lost"] == 0),
    ]  # fmt: skip


def tables(result: Result) -> Tables:
    return {"serve-soak": verdicts(rows(result))}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()
