"""A server disturbed in every way at once, at 60 % of the load that it carries: nothing lost, nothing wrong.

From one seeded schedule, while two models are asked in open loop: workers get kill -9, one by one and all with the
spare; they are stopped and continued, or not; the simulation's process is killed; weights are swapped; the disk under
the log is full; idle connections over HTTP and gRPC take all descriptors that the server may have; others send half a
head, a byte every two seconds, or half a body, pipeline queries and read no answer, read a byte a second, or leave
gRPC streams open. Every answer is compared with eager's scores for the version that it names. In the last sixth of the
time nothing is disturbed. Keep the machine idle.

A query is lost that gets neither scores nor a refusal (503, 429) with its reason. One whose connection ends while
idle connections take all that the server's descriptors allow is counted apart: the server then closes the longest idle
connection for each new one, which may be the one on which a query is just being sent.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables
from benchmarks.lib.chaos_run import (
    Client,
    Disturbance,
    DisturbedServer,
    Disturber,
    ReadyProbe,
    disturbed_server,
    memory_bytes,
    schedule,
)
from benchmarks.lib.live_server import Row, cores_of_layout, guessed, verdicts
from benchmarks.lib.versions import VersionScores
from deeprecsys.node.runtime.cores import awake, realtime

MODELS, TARGET, SHARE = ("wnd", "dlrm-rmc1"), dr.Target(latency_s=0.1), 0.6
WORKERS, SPARES, SCALE, KINDS = 2, 1, 0.01, 8
QUICK_QPS, TRIAL_S, STEPS = 20.0, 5.0, 5
DESCRIPTORS = 1024
QUEUE_MB = 128
SIMULATION = 4
"""Descriptors of the simulation's process, which starts some seconds after the server."""
CLAIMS_MB = 1100
"""What clients can claim, by docs/design/0012-network-face.md, beside seats."""
LATER_S = 10.0
"""How long after a wave of idle connections descriptors may still be short."""


def run(run: Run) -> Result:
    seconds, share = (18.0, 0.2) if run.quick else (60.0 * run.options.minutes, 1.0)
    plan = schedule(run.options.seed, seconds, share)
    swaps = sum(d.kind == "swap" for d in plan)
    scores = {m: VersionScores(m, SCALE, 1000, KINDS, 2 + swaps // len(MODELS)) for m in MODELS}
    ours, theirs = cores_of_layout()
    everywhere = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "model": MODELS, "rows_scale": SCALE, "sla_ms": 1e3 * TARGET.latency_s, "workers": WORKERS, "spares": SPARES,
            "http_port": 0, "grpc_port": 0, "max_queue_mb": QUEUE_MB, "descriptors": DESCRIPTORS,
        }  # fmt: skip
        if run.quick:
            options["profile"] = profiles(Path(folder))
        log = Path(run.options.log or f"{folder}/log")
        with disturbed_server(options, log, ours) as server:
            os.sched_setaffinity(0, theirs)
            try:
                with realtime(), awake():
                    whole = dict.fromkeys(MODELS, QUICK_QPS) if run.quick else carried(server, scores)
                    found = disturbed(server, scores, whole, seconds, plan, share)
            finally:
                os.sched_setaffinity(0, everywhere)
            tree = server.tree
        status = server.process.returncode
    time.sleep(1.0)
    return {
        "models": MODELS, "rows_scale": SCALE, "target_ms": 1e3 * TARGET.latency_s, "quantile": TARGET.quantile,
        "seconds": seconds, "seed": run.options.seed, "workers": WORKERS, "spares": SPARES, "descriptors": DESCRIPTORS,
        "carries_qps": whole, "least_difference": {m: s.least_difference for m, s in scores.items()},
        "swaps": server.swaps, **found, "exit_status": status,
        "processes_left": sum(Path(f"/proc/{pid}").exists() for pid in tree),
    }  # fmt: skip


def profiles(folder: Path) -> list[str]:
    """Profiles that spare a quick run the measuring."""
    found = []
    for name in MODELS:
        with (folder / f"{name}.json").open("w+") as file:
            found.append(guessed(name, file)[1])
    return found


def clients(scores: Mapping[str, VersionScores], rates: Mapping[str, float], seconds: float) -> list[Client]:
    found = []
    for seed, (name, rate) in enumerate(rates.items()):
        stream = dr.Workload.parse(seed=seed).stream(rate, duration_s=seconds)
        found.append(Client(name, scores[name], stream, TARGET))
    return found


def carried(server: DisturbedServer, scores: Mapping[str, VersionScores]) -> dict[str, float]:
    """The rates of all models together that the server carries: the target met, refusals counted as misses."""
    stated = {m: stated_qps(server, m) / len(MODELS) for m in MODELS}
    low, high, at = 0.0, 2.0, 1.0
    for _ in range(STEPS):
        tried = clients(scores, {m: at * q for m, q in stated.items()}, TRIAL_S)
        asyncio.run(together(server.url, tried))
        met = all(d["in_time"] >= TARGET.quantile * d["offered"] for d in (c.document() for c in tried))
        low, high = (at, high) if met else (low, at)
        at = (low + high) / 2
    return {m: (low or high / 2) * q for m, q in stated.items()}


def stated_qps(server: DisturbedServer, name: str) -> float:
    """What the server says that it carries of one model."""
    point = next(p for p in server.points if p.startswith(f"{name}:"))
    return float(point.rsplit("carry: ", 1)[1].split()[0])


async def together(url: str, asking: Sequence[Client]) -> None:
    await asyncio.gather(*(client.run(url) for client in asking))


def disturbed(
    server: DisturbedServer, scores: Mapping[str, VersionScores], whole: Mapping[str, float], seconds: float,
    plan: Sequence[Disturbance], share: float,
) -> Result:  # fmt: skip
    """What clients and a look from outside found while a schedule was carried out."""
    asking = clients(scores, {m: SHARE * q for m, q in whole.items()}, seconds)
    probe, disturber = ReadyProbe(asking), Disturber(server, MODELS, share)
    rest = look(server)
    seen = [rest]

    async def all_of_it() -> None:
        over = asyncio.Event()
        probing = asyncio.create_task(probe.run(server.url, over))
        await together(server.url, asking)
        over.set()
        await probing

    thread = Thread(target=disturber.run, args=(plan, time.monotonic()))
    watching = Thread(target=watch, args=(server, seen, time.monotonic() + seconds, min(5.0, seconds / 12)))
    thread.start()
    watching.start()
    asyncio.run(all_of_it())
    thread.join()
    watching.join()
    time.sleep(2.0)
    floods = [(d.at_s, d.at_s + d.lasts_s + LATER_S) for d in plan if d.kind in ("idle", "gRPC streams")]
    found = [c.document() for c in asking]
    apart = sum(any(a <= t <= b for a, b in floods) for d in found for t in d["lost_at_s"])
    seen.append(look(server))
    return {
        "rates_qps": {c.name: SHARE * whole[c.name] for c in asking}, "done": disturber.done, "ends": disturber.ends,
        "clients": {c.name: d for c, d in zip(asking, found, strict=True)}, "lost_in_floods": apart,
        "ready": probe.said, "ready_exceptions": probe.exceptions[:100], "longest_not_ready_s": probe.longest_s,
        "rest": rest, "end": seen[-1], "most_mb": max(s["mb"] for s in seen),
        "most_descriptors": max(s["descriptors"] for s in seen), "memory_mb": [s["mb"] for s in seen],
        "bound_mb": bound_mb(rest["mb"]),
    }  # fmt: skip


def bound_mb(rest_mb: float) -> float:
    """What server and workers may take: what they have at rest, half as much for workers that replace others while
    those still run, what clients can claim, and the seats of every model."""
    return 1.5 * rest_mb + CLAIMS_MB + len(MODELS) * QUEUE_MB


def look(server: DisturbedServer) -> dict[str, Any]:
    tree = server.tree
    return {
        "mb": memory_bytes(tree) / 2**20,
        "processes": len(tree),
        "descriptors": len(os.listdir(f"/proc/{server.pid}/fd")),
    }


def watch(server: DisturbedServer, seen: list[dict[str, Any]], until_s: float, every_s: float) -> None:
    while time.monotonic() < until_s:
        time.sleep(every_s)
        seen.append(look(server))


def rows(r: dict[str, Any]) -> list[Row]:
    found, done, ready = list(r["clients"].values()), Counter(r["done"]), Counter(r["ready"])
    total = {
        k: sum(d[k] for d in found)
        for k in ("offered", "served", "refused", "in_time", "wrong", "silent", "lost")
    }
    lost, failed = total["lost"] - r["lost_in_floods"], [s for s in r["swaps"] if s["error"]]
    yes = sum(n for what, n in ready.items() if what != "not ready" and not what.startswith("no answer"))
    odd = ", ".join(
        f"{what}: {n}" for what, n in sorted(ready.items()) if what not in ("in time", "not ready")
    )
    rates = ", ".join(f"{name} {qps:.1f}" for name, qps in r["rates_qps"].items())
    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(done.items()))
    rest, end = r["rest"], r["end"]
    versions = ", ".join(f"{name} {len(d['versions'])}" for name, d in r["clients"].items())
    return [
        Row(f"offered for {r['seconds']:g} s", f"{rates} queries/s, {total['offered']:,} in all"),
        Row("disturbances", kinds),
        Row("answered by scores; within the target", f"{total['served']:,}; {total['in_time']:,}"),
        Row("refused with a reason", f"{total['refused'] - total['silent']:,}"),
        Row("lost: neither", f"{lost}", "0", lost == 0 and total["silent"] == 0),
        Row("no answer while idle connections held the descriptors", f"{r['lost_in_floods']}"),
        Row("wrong scores for the version named", f"{total['wrong']}; versions seen: {versions}", "0", total["wrong"] == 0),
        Row("swaps done, given up", f"{len(r['swaps']) - len(failed)}, {len(failed)}"),
        Row("ready, and a query sent at once in time", f"{ready['in time']:,} of {yes:,} ({odd or 'no exception'})",
            f"≥ {100 * r['quantile']:g} %", ready["in time"] >= r["quantile"] * yes),
        Row("longest time not ready", f"{r['longest_not_ready_s']:.1f} s"),
        Row("memory less tables, MB", f"{rest['mb']:,.0f} at rest, {r['most_mb']:,.0f} at most, {end['mb']:,.0f} in the end",
            f"≤ {r['bound_mb']:,.0f}", r["most_mb"] <= r["bound_mb"]),
        Row("descriptors of the server", f"{rest['descriptors']} → {end['descriptors']}, at most {r['most_descriptors']} of {r['descriptors']}",
            "none left", end["descriptors"] <= rest["descriptors"] + SIMULATION),
        Row("processes", f"{rest['processes']} → {end['processes']}, {r['processes_left']} after SIGTERM, exit status {r['exit_status']}",
            "none left", r["processes_left"] == 0 and r["exit_status"] == 0),
    ]  # fmt: skip


def tables(result: Result) -> Tables:
    return {"serve-chaos": verdicts(rows(result))}


BENCHMARK = Benchmark(
    __file__,
    __doc__,
    run,
    tables,
    options={
        "--minutes": {"type": float, "default": 10.0, "help": "how long"},
        "--seed": {"type": int, "default": 19, "help": "of the schedule"},
        "--log": {"help": "where to keep the server's log"},
    },
)

if __name__ == "__main__":
    BENCHMARK.main()
