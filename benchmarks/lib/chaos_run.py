"""What a chaos run consists of: a schedule of disturbances, a server to disturb, clients that count."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.lib.live_server import Server
from benchmarks.lib.versions import VersionScores
from deeprecsys.serve.load.client import ConnectionPool, Response
from deeprecsys.serve.load.offer import address, offer
from deeprecsys.workload.stream import Stream

EVERY_S = {
    "kill": 15.0, "kill all": 60.0, "stop": 45.0, "hang": 120.0, "kill simulation": 60.0, "swap": 20.0, "disk": 90.0,
    "idle": 75.0, "half heads": 45.0, "dripping heads": 60.0, "half bodies": 45.0, "unread answers": 60.0,
    "slow readers": 60.0, "gRPC streams": 60.0,
}  # fmt: skip
"""Mean seconds between two disturbances of a kind."""
LASTING_S = {"stop": 3.0, "disk": 20.0}
WAVE_S = 25.0
"""How long a stop, a full disk and a wave of hostile clients last."""


@dataclass(frozen=True, order=True)
class Disturbance:
    at_s: float
    kind: str
    lasts_s: float


def schedule(seed: int, seconds: float, share: float = 1.0) -> list[Disturbance]:
    """Disturbances of every kind at exponential intervals, at least one of each; none in the last sixth.

    Args:
        share: of how long each lasts, in a short run.
    """
    rng, found, last_s = random.Random(seed), [], seconds * 5 / 6
    for kind, every_s in EVERY_S.items():
        lasts_s = share * LASTING_S.get(
            kind, 0.0 if kind in ("kill", "kill all", "hang", "kill simulation", "swap") else WAVE_S
        )
        at_s = rng.uniform(0.05, 0.8) * min(every_s, last_s)
        while at_s < last_s:
            found.append(Disturbance(at_s, kind, min(lasts_s, last_s - at_s)))
            at_s += rng.expovariate(1 / every_s)
    return sorted(found)


class DisturbedServer(Server):
    """A server in a process that takes commands.

    Attributes:
        points: what it said about its operating points; swaps: what came of each swap.
    """

    process: subprocess.Popen[bytes]
    url: str
    grpc: str

    def say(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def follow(self) -> None:
        """Read what the server says, until it ends."""
        self.points: list[str] = []
        self.swaps: list[dict[str, Any]] = []
        self.listening = Event()

        def read() -> None:
            assert self.process.stdout
            for line in self.process.stdout:
                match json.loads(line):
                    case {"point": point}:
                        self.points.append(point)
                    case {"url": url, "grpc": grpc}:
                        self.url, self.grpc = url, grpc
                        self.listening.set()
                    case swap:
                        self.swaps.append(swap)
            self.listening.set()

        self.reader = Thread(target=read, daemon=True)
        self.reader.start()

    @property
    def tree(self) -> list[int]:
        """The server's process and all below it."""
        return [self.pid, *below(self.pid)]


def below(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, task.read_text().split()):
                found += [child, *below(child)]
        except OSError:  # it has ended
            pass
    return found


@contextmanager
def disturbed_server(
    options: Mapping[str, Any], log: Path, cores: Sequence[int]
) -> Iterator[DisturbedServer]:
    """A running server; on leaving it must end by SIGTERM: its exit status is `process.returncode` then."""
    command = [sys.executable, "-m", "benchmarks.lib.chaos_server", json.dumps(dict(options))]
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
        )  # fmt: skip
    server = DisturbedServer(process.pid, 0, 0, log, 0.0)
    server.process = process
    try:
        server.follow()
        if not server.listening.wait(300) or process.poll() is not None:
            raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        server.reader.join()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def memory_bytes(pids: Sequence[int]) -> int:
    """Proportional set size of processes together, less embedding tables."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
        except OSError:  # it has ended
            continue
        tables = False
        for line in lines:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                tables = "memfd:deeprecsys-tables" in line
            elif line.startswith("Pss:") and not tables:
                total += 1024 * int(line.split()[1])
    return total


@dataclass
class Disturber:
    """Carries a schedule out, on a thread of its own.

    Attributes:
        done: how often each kind was done; ends: how hostile clients' connections ended, by kind.
    """

    server: DisturbedServer
    models: Sequence[str]
    share: float
    done: Counter[str] = field(default_factory=Counter)
    ends: dict[str, Counter[str]] = field(default_factory=dict)
    _undo: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _waves: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)

    def run(self, plan: Sequence[Disturbance], zero_s: float) -> None:
        for one in plan:
            self._until(zero_s + one.at_s)
            self._do(one)
            self.done[one.kind] += 1
        self._until(max([time.monotonic(), *(at for at, _ in self._undo)]))
        for kind, wave in self._waves:
            try:
                out, _ = wave.communicate(timeout=60)
                self.ends.setdefault(kind, Counter()).update(json.loads(out))
            except (subprocess.TimeoutExpired, ValueError):
                wave.kill()
                wave.wait()
                self.ends.setdefault(kind, Counter())["client failed"] += 1

    def _until(self, at_s: float) -> None:
        """Wait, and undo meanwhile what has lasted long enough."""
        while True:
            due = [u for u in self._undo if u[0] <= time.monotonic()]
            self._undo = [u for u in self._undo if u not in due]
            for _, undo in due:
                undo()
            if time.monotonic() >= at_s:
                return
            time.sleep(max(0.0, min([at_s, *(u[0] for u in self._undo)]) - time.monotonic()))

    def _do(self, one: Disturbance) -> None:
        workers, end_s = self.server.workers(), time.monotonic() + one.lasts_s
        match one.kind:
            case "kill":
                signalled(workers[:1], signal.SIGKILL)
            case "kill all":
                signalled(workers, signal.SIGKILL)
            case "hang":
                signalled(workers[:1], signal.SIGSTOP)
            case "stop":
                signalled(workers[:1], signal.SIGSTOP)
                self._undo.append((end_s, lambda: signalled(workers[:1], signal.SIGCONT)))
            case "kill simulation":
                others = set(below(self.server.pid)) - set(workers)
                signalled(sorted(others), signal.SIGKILL)
            case "swap":
                model, version = (
                    self.models[self.done["swap"] % len(self.models)],
                    1 + self.done["swap"] // len(self.models),
                )
                self.server.say(f"swap {model} {1 + version} {version}")
            case "disk":
                self.server.say("disk full")
                self._undo.append((end_s, lambda: self.server.say("disk free")))
            case wave:
                model = self.models[self.done[wave] % len(self.models)]
                command = [sys.executable, "-m", "benchmarks.lib.hostile_clients", wave, self.server.url,
                           self.server.grpc, model, f"{one.lasts_s:g}", f"{self.share:g}"]  # fmt: skip
                self._waves.append(
                    (wave, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
                )


def signalled(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@dataclass
class Client:
    """A well-behaved client of one model: open loop, kept-alive connections, nothing sent again.

    Attributes:
        status: HTTP status of each query; 0 where no answer came. ended: by status or kind of error.
        versions: answers by version; wrong: of a version's name, with other scores than eager's;
        silent: refusals without a reason, or without when to come again.
    """

    name: str
    scores: VersionScores
    stream: Stream
    target: dr.Target

    def __post_init__(self) -> None:
        self.status = np.zeros(len(self.stream), np.int32)
        self.finish_s = np.full(len(self.stream), np.nan)
        self.versions: Counter[str] = Counter()
        self.ended: dict[str, int] = {}
        self.wrong = self.silent = 0
        self.lateness_s = np.nan
        self.messages: Counter[str] = Counter()
        self._kind = (self.stream.features % np.uint64(self.scores.kinds)).tolist()

    def answered(self, i: int, answer: Response) -> None:
        self.status[i] = answer.status
        if answer.status == 200:
            cut = int(answer.headers[b"inference-header-content-length"])
            version = json.loads(answer.body[:cut])["model_version"]
            self.versions[version] += 1
            self.wrong += not self.scores.right(
                version, self._kind[i], int(self.stream.size[i]), answer.body[cut:]
            )
        else:
            message = json.loads(answer.body).get("error", "") if answer.body else ""
            self.messages[f"{answer.status} " + re.sub(r"\d+", "N", message)[:120]] += 1
            self.silent += answer.status in (429, 503) and not (
                message and answer.headers.get(b"retry-after")
            )

    async def run(self, url: str) -> None:
        log = await offer(
            url, self.name, self.scores.requests, self.stream, self.target, answered=self.answered
        )
        self.ended, self.finish_s = dict(log.extra["answers"]), log.finish_s
        self.lateness_s = float(np.percentile(log.issued_s - log.arrival_s, 99))

    def document(self) -> dict[str, Any]:
        refused = int(np.isin(self.status, (429, 503)).sum())
        served, lost = int((self.status == 200).sum()), ~np.isin(self.status, (200, 429, 503))
        latency = self.finish_s - self.stream.arrival_s
        return {
            "offered": len(self.status), "served": served, "refused": refused, "silent": self.silent,
            "in_time": int((latency <= self.target.latency_s).sum()), "wrong": self.wrong,
            "lost": int(lost.sum()), "lost_at_s": [round(t, 2) for t in self.stream.arrival_s[lost][:200].tolist()],
            "ended": self.ended, "messages": dict(self.messages.most_common(12)), "versions": dict(self.versions),
            "lateness_p99_ms": 1e3 * self.lateness_s,
        }  # fmt: skip


@dataclass
class ReadyProbe:
    """Asks whether the server is ready; where it says so, sends a query at once, which must be in time.

    Attributes:
        said: answers to the question, and what became of the queries after a yes.
        longest_s: the longest time without a yes.
    """

    clients: Sequence[Client]
    items: int = 20
    every_s: float = 0.25
    said: Counter[str] = field(default_factory=Counter)
    exceptions: list[tuple[float, str]] = field(default_factory=list)
    longest_s: float = 0.0

    async def run(self, url: str, over: asyncio.Event) -> None:
        began_s = yes_s = time.monotonic()
        number = 0
        while not over.is_set():
            pool = ConnectionPool(*address(url))
            try:
                async with asyncio.timeout(10):
                    ready = (await pool.request("GET", "/v2/health/ready")).status == 200
                if ready:
                    self.longest_s, yes_s = max(self.longest_s, time.monotonic() - yes_s), time.monotonic()
                    number += 1
                    what = await self._query(pool, self.clients[number % len(self.clients)], number)
                    self.said[what] += 1
                    if what != "in time":
                        self.exceptions.append((round(yes_s - began_s, 2), what))
                else:
                    self.said["not ready"] += 1
            except (OSError, TimeoutError) as e:
                self.said[f"no answer ({type(e).__name__})"] += 1
            finally:
                pool.close()
            await asyncio.sleep(self.every_s)

    async def _query(self, pool: ConnectionPool, client: Client, number: int) -> str:
        """What became of a query: the target is counted from its sending."""
        body, head = client.scores.requests.body(self.items, number)
        headers, began_s = ("Inference-Header-Content-Length", str(head)), time.monotonic()
        try:
            async with asyncio.timeout(30):
                answer = await pool.request("POST", f"/v2/models/{client.name}/infer", body, headers)
        except (OSError, TimeoutError) as e:
            return f"lost ({type(e).__name__})"
        if answer.status != 200:
            return f"refused ({answer.status})"
        return "in time" if time.monotonic() - began_s <= client.target.latency_s else "late"
