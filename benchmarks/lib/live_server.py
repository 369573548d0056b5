"""A server under load: `deeprecsys serve` on its cores, an open-loop client over HTTP on others."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import markdown
from benchmarks.lib.http_load import Answers, Bodies, offer
from deeprecsys.node.runtime.cores import awake, pss_bytes, realtime
from deeprecsys.serve.load.offer import TimedCalls
from deeprecsys.workload.stream import Stream

FLAT = 0.05


@dataclass
class Server:
    """A running server: its ports, its process, and its output."""

    pid: int
    http_port: int
    grpc_port: int
    said: Path
    stated_qps: float

    def workers(self) -> list[int]:
        """Worker processes: those that are ready before those that start, the busiest since their start first."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
                line = (stat.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == self.pid and b"deeprecsys.node.runtime.worker" in line:
                # Once a worker is ready it takes precedence, where that is permitted.
                found.append((-int(fields[16]), int(fields[11]) + int(fields[12]), int(stat.parent.name)))
        return [pid for *_, pid in sorted(found, reverse=True)]

    def footprint(self) -> dict[str, int]:
        """Proportional set size of server and workers, and the server's descriptors."""
        try:
            return {
                "pss_bytes": pss_bytes([self.pid, *self.workers()]),
                "fds": len(os.listdir(f"/proc/{self.pid}/fd")),
            }
        except (OSError, StopIteration):  # a worker died while it was looked at
            return {}

    def changes(self) -> list[str]:
        """The operating points that it logged as taken into service."""
        return [ln for ln in self.said.read_text().splitlines() if "operating point of" in ln]


@contextmanager
def server(*arguments: str, cores: Sequence[int], timeout_s: float = 300.0) -> Iterator[Server]:
    """`deeprecsys serve` with any free ports, until the block ends; then SIGTERM."""
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as out:
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", "deeprecsys", "serve", *arguments,
             "--http-port", "0", "--grpc-port", "0"],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until = time.monotonic() + timeout_s
            ports = r"http://[^:]+:(\d+), gRPC [^:]+:(\d+)"
            while not (bound := re.search(ports, said := Path(out.name).read_text())):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"the server did not start:\n{said}")
                time.sleep(0.1)
            stated = re.search(r"carry: ([0-9.e+]+) queries", said)
            yield Server(
                process.pid, int(bound[1]), int(bound[2]), Path(out.name), float(stated[1]) if stated else nan
            )
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def load(served: Server, bodies: Bodies, stream: Stream, target: dr.Target, at: TimedCalls = ()) -> Answers:
    """Offer a stream, from this process; `at` names what else is to be done, and when."""
    with realtime(), awake():
        return asyncio.run(offer(served.http_port, bodies, stream, target, at))


def capacity(
    served: Server, bodies: Bodies, workload: dr.Workload, target: dr.Target, trial_s: float, steps: int = 7
) -> dict[str, Any]:
    """The highest rate over HTTP at which the target's share of all offered queries is answered in time.

    A query that is refused counts as one that is not. By bisection between half and twice the load that the
    server stated.

    Raises:
        SystemExit: not even a sixteenth of it is carried.
    """
    if not served.stated_qps > 0:
        raise SystemExit("the server stated no load that it can carry")
    low, high = 0.0, 2 * served.stated_qps
    rate = served.stated_qps
    tried = []
    for _ in range(steps):
        answers = load(served, bodies, workload.stream(rate, duration_s=trial_s), target)
        s = answers.summary(target, trial_s)
        met = s["goodput_qps"] * trial_s >= target.quantile * s["offered"]
        tried.append({"rate_qps": rate, "met": met, **s})
        low, high = (rate, high) if met else (low, rate)
        if high < served.stated_qps / 16:
            raise SystemExit(f"no rate is carried: {tried}")
        rate = (low * high) ** 0.5 if low else high / 2
    return {"qps": low or high / 2, "trials": tried}


def cores_of_layout() -> tuple[list[int], list[int]]:
    """The server's cores and the client's: all but the last, and the last."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[:-1] or cores, cores[-1:]


@dataclass(frozen=True)
class Extent:
    """How much a benchmark does: in full, or just enough to see that it works."""

    quick: bool
    rows_scale: float
    trial_s: float
    steps: int

    @classmethod
    def of(cls, quick: bool) -> Extent:
        return cls(True, 0.01, 1.0, 2) if quick else cls(False, 1.0, 10.0, 7)


@dataclass
class Bench:
    """A server on its cores, this process on the others, and what the server carries over HTTP."""

    server: Server
    bodies: Bodies
    target: dr.Target
    carries: dict[str, Any]

    @property
    def qps(self) -> float:
        found: float = self.carries["qps"]
        return found

    def load(self, rate: float, seconds: float, seed: int, at: TimedCalls = ()) -> Answers:
        """Offer Poisson arrivals of the sizes `production`."""
        stream = dr.Workload.parse(seed=seed).stream(rate, duration_s=seconds)
        return load(self.server, self.bodies, stream, self.target, at)


@contextmanager
def bench(
    name: str, target: dr.Target, extent: Extent, *options: str, carries: dict[str, Any] | None = None
) -> Iterator[Bench]:
    """A model in service; this process runs on the client's cores meanwhile.

    Args:
        carries: its `capacity`; by default it is measured.
    """
    ours, clients = cores_of_layout()
    everywhere = os.sched_getaffinity(0)
    common = ("--rows-scale", str(extent.rows_scale), "--sla-ms", f"{1e3 * target.latency_s:g}")
    with (
        tempfile.NamedTemporaryFile("w+", suffix=".json") as guess,
        server(name, *common, *options, *(guessed(name, guess) if extent.quick else ()), cores=ours) as s,
    ):
        os.sched_setaffinity(0, clients)
        try:
            workload = dr.Workload.parse()
            bodies = Bodies(name, extent.rows_scale, workload.sizes.cap)
            known = carries
            if known is None:
                known = capacity(s, bodies, workload, target, extent.trial_s, extent.steps)
            yield Bench(s, bodies, target, known)
        finally:
            os.sched_setaffinity(0, everywhere)


def guessed(name: str, into: Any) -> tuple[str, str]:
    """Options that spare a quick run the measuring of a profile."""
    points = [{"batch": 1, "seconds": [5e-4]}, {"batch": 1000, "seconds": [1e-2]}]
    json.dump({"model": name, "points": points}, into)
    into.flush()
    return "--profile", into.name


@contextmanager
def footprints(s: Server, every_s: float) -> Iterator[list[dict[str, int]]]:
    """A server's footprint, sampled until the block ends."""
    sizes: list[dict[str, int]] = []
    stop = Event()

    def watch() -> None:
        while not stop.wait(every_s):
            if found := s.footprint():
                sizes.append(found)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        stop.set()
        thread.join()


def flat(values: Sequence[float]) -> bool:
    """Whether the last fifth is, by its median, at most 5 % above the fifth after the first."""
    fifth = len(values) // 5
    if not fifth:
        return bool(values) and values[-1] <= (1 + FLAT) * values[0]
    early, late = values[fifth : 2 * fifth], values[-fifth:]
    return bool(np.median(late) <= (1 + FLAT) * np.median(early))


def from_to(values: Sequence[float], per: float = 1.0) -> str:
    """The first and the last of some values, and the most."""
    if not values:
        return "unavailable"
    first, last, most = (f"{x / per:,.0f}" for x in (values[0], values[-1], max(values)))
    return f"{first} → {last}, at most {most}"


@dataclass(frozen=True)
class Row:
    """A line of a result: what was measured; where it has a goal, that, and whether it was met."""

    what: str
    found: str
    goal: str = ""
    met: bool | None = None


def verdicts(rows: Sequence[Row]) -> str:
    """Figures with goals and whether they are met."""
    words = {True: "met", False: "**not met**", None: ""}
    return markdown(("what", "found", "goal", ""), [(r.what, r.found, r.goal, words[r.met]) for r in rows])
