"""Twenty loads of weights in a row under load, each by the verb, with kills of a worker in between: no query lost or mixed.

Four clients ask queries whose scores are known for each of three sets of weights. An answer must be, as a whole, that of the
version which it names. The busiest worker is killed within every second load. Keep the machine idle.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables
from benchmarks.lib.live_server import Row, Server, guessed, server, verdicts
from deeprecsys.core.target import percentile
from deeprecsys.serve.load.client import ConnectionPool, Response
from deeprecsys.serve.load.offer import Requests
from deeprecsys.zoo import model
from tests.serve.weight_files import tensors, write

MODEL, TARGET = "wnd", dr.Target(latency_s=0.25)
SETS, CLIENTS, PAUSE_S, SIZES = 3, 4, 0.02, (1, 40, 300)
CLOSE = 1e-4
SAME = 1.05


def run(run: Run) -> Result:
    scale, loads = (0.005, 3) if run.quick else (run.options.rows_scale, 20)
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile("w+", suffix=".json") as guess:
        for k in range(SETS):
            write(Path(folder) / f"{k}.safetensors", tensors(k, MODEL, scale))
        with server(
            MODEL, "--rows-scale", str(scale), "--sla-ms", f"{1e3 * TARGET.latency_s:g}", "--admin", folder,
            "--no-retune", "--batch-size", "64", "--face-test", "0", *guessed(MODEL, guess), cores=sorted(os.sched_getaffinity(0)),
        ) as s:  # fmt: skip
            found = asyncio.run(Clients(s, scale).run(loads))
    return {
        "model": MODEL,
        "rows_scale": scale,
        "target_ms": 1e3 * TARGET.latency_s,
        "wanted": loads,
        **found,
    }


class Clients:
    """Queries in a row by several connections, and what became of them."""

    def __init__(self, s: Server, scale: float) -> None:
        self._server, self._pool = s, ConnectionPool("127.0.0.1", s.http_port)
        requests = Requests(model(MODEL).scaled(scale).schema, max(SIZES), 0, 1)
        self._bodies = [requests.body(size, 0) for size in SIZES]
        self._expected: dict[int, list[Any]] = {}  # by set of weights, the scores of each body
        self.latencies_s: list[float] = []
        self.lost: list[str] = []
        self.mixed = self.answered = 0
        self._over = False

    async def run(self, loads: int) -> dict[str, Any]:
        for k in range(SETS):
            await self._load(f"e{k}", k)
            self._expected[k] = [self._scores(await self._ask(*b))[1] for b in self._bodies]
        await asyncio.sleep(5.0)
        before, kills, took = self._server.footprint(), 0, []
        clients = [asyncio.create_task(self._client(k)) for k in range(CLIENTS)]
        refused = []
        for n in range(loads):
            began = time.monotonic()
            task = asyncio.create_task(self._load(f"{100 + n}", n % SETS))
            if n % 2:
                await asyncio.sleep(0.5)
                os.kill(self._server.workers()[0], signal.SIGKILL)
                kills += 1
            if why := await task:
                refused.append(why)
            took.append(time.monotonic() - began)
        self._over = True
        await asyncio.gather(*clients)
        self._pool.close()
        await asyncio.sleep(5.0)
        after = self._server.footprint()
        p95 = percentile(np.array(self.latencies_s), 0.95)
        return {
            "answered": self.answered, "lost": self.lost[:5], "lost_count": len(self.lost), "mixed": self.mixed,
            "p95_ms": 1e3 * p95, "kills": kills, "refused": refused, "load_s": took, "before": before, "after": after,
        }  # fmt: skip

    async def _load(self, version: str, k: int) -> str:
        """Load a set of weights; why it was refused."""
        body = json.dumps({"parameters": {"version": version, "weights": f"{k}.safetensors"}}).encode()
        answer = await self._pool.request("POST", f"/v2/repository/models/{MODEL}/load", body)
        return "" if answer.status == 200 else json.loads(answer.body)["error"]

    async def _ask(self, body: bytes, head: int) -> Response:
        named = ("Inference-Header-Content-Length", str(head))
        return await self._pool.request("POST", f"/v2/models/{MODEL}/infer", body, named)

    @staticmethod
    def _scores(answer: Response) -> tuple[str, Any]:
        head = int(answer.headers[b"inference-header-content-length"])
        return json.loads(answer.body[:head])["model_version"], np.frombuffer(answer.body[head:], "<f4")

    async def _client(self, k: int) -> None:
        while not self._over:
            began = time.monotonic()
            which = k = (k + 1) % len(SIZES)
            try:
                answer = await self._ask(*self._bodies[which])
            except OSError as e:
                self.lost.append(str(e))
                continue
            self.answered += 1
            self.latencies_s.append(time.monotonic() - began)
            if answer.status != 200:
                self.lost.append(answer.body.decode())
            else:
                version, scores = self._scores(answer)
                n = int(version[1:]) if version.startswith("e") else (int(version) - 100) % SETS
                self.mixed += not np.allclose(scores, self._expected[n][which], atol=CLOSE)
            await asyncio.sleep(PAUSE_S)


def rows(r: dict[str, Any]) -> list[Row]:
    done, b, a = r["wanted"] - len(r["refused"]), r["before"], r["after"]
    same = bool(a and b) and a["pss_bytes"] <= SAME * b["pss_bytes"] and a["fds"] <= b["fds"] + 2
    return [
        Row("loads in a row", f"{done}, {np.mean(r['load_s']):.1f} s each" + "".join(f"; refused: {w}" for w in r["refused"]),
            f"{r['wanted']}", done == r["wanted"]),
        Row("workers killed meanwhile", f"{r['kills']}"),
        Row("queries", f"{r['answered']:,}"),
        Row("lost or refused", f"{r['lost_count']}" + "".join(f"; {w}" for w in r["lost"][:1]), "0", r["lost_count"] == 0),
        Row("answers that are not those of the version that they name", f"{r['mixed']}", "0", r["mixed"] == 0),
        Row("p95", f"{r['p95_ms']:.1f} ms", f"≤ {r['target_ms']:g} ms", r["p95_ms"] <= r["target_ms"]),
        Row("memory (sum of PSS in MB) and descriptors, before and after",
            f"{b.get('pss_bytes', 0) / 1e6:,.0f} → {a.get('pss_bytes', 0) / 1e6:,.0f}, {b.get('fds')} → {a.get('fds')}",
            f"memory within {100 * (SAME - 1):.0f} %", same),
    ]  # fmt: skip


def tables(result: Result) -> Tables:
    return {"serve-fresh-loads": verdicts(rows(result))}


BENCHMARK = Benchmark(
    __file__,
    __doc__,
    run,
    tables,
    options={"--rows-scale": {"type": float, "default": 0.1, "help": "factor on the tables' rows"}},
)

if __name__ == "__main__":
    BENCHMARK.main()
