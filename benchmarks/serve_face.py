"""What the network face costs: latency over HTTP against in process, small requests/s, share of CPU time.

    python benchmarks/serve_face.py --backend MODULE:NAME [--models wnd dlrm-rmc3 dlrm-rmc1] [--queries N]

NAME is called with a model's name and gives an async context manager of a running `Backend` that serves it.
The server has core 0 and the client, a process of its own, core 1. Per model:

- p50 of a 100-item query, one at a time: over HTTP with binary tensors, seen by the client, and in process;
- CPU time of the event loop's thread per query of the sizes `production`, over HTTP less in process, against
  the workers' time on its batches: the face's cost beside the scoring's;
- 1-item queries/s from 16 connections (the first model only).

Without --backend a stand-in answers at once, which says what the face takes by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import uvloop

from common import save
from deeprecsys.serve.backend import Backend, BatchRecord, OperatingPoint, QueryRecord
from deeprecsys.serve.client import Pool
from deeprecsys.serve.extra import without_fork_handlers
from deeprecsys.serve.load import Requests
from deeprecsys.workload.stream import Workload
from deeprecsys.zoo import model

SERVER_CORE, CLIENT_CORE = 0, 1
MAX_ITEMS = 1000
WARM_UP = 20
ROUNDS = 3


@asynccontextmanager
async def stand_in(name: str) -> AsyncIterator[Backend]:
    """Scores nothing, at once."""
    from tests.serve import stand_in as s

    class AtOnce(s.StandIn):
        async def score(self, seat: Any) -> Any:
            await asyncio.sleep(0)
            return scores[: seat.items]

    schema = model(name).schema
    scores = np.zeros((MAX_ITEMS, schema.outputs), np.float32)
    s.MAX_ITEMS = MAX_ITEMS
    yield AtOnce.of(**{name: schema})  # type: ignore[misc]


class Busy:
    """Adds up the workers' time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def query_ended(self, record: QueryRecord) -> None: ...

    def batch_ended(self, record: BatchRecord) -> None:
        self.seconds += record.ended_s - record.started_s

    def point_changed(self, model: str, point: OperatingPoint) -> None: ...


async def in_process(backend: Backend, name: str, sizes: Sequence[int]) -> list[float]:
    """Latencies of queries that are filled from arrays and scored, one after the other."""
    rng, taken = np.random.default_rng(0), []
    arrays = {i.name: rng.integers(0, 2, (MAX_ITEMS, getattr(i, "width", 0) or i.lookups)) for i in
              model(name).schema.inputs}  # fmt: skip
    for size in sizes:
        begin = time.monotonic()
        seat = backend.reserve(name, size, arrival_s=begin, deadline_s=begin + 60)
        for n, into in seat.inputs.items():
            into[...] = arrays[n][: len(into)]
        (await backend.score(seat)).tobytes()
        backend.release(seat)
        taken.append(time.monotonic() - begin)
    return taken


async def client(port: int, name: str, sizes: Sequence[int], connections: int) -> dict[str, Any]:
    """Send queries from so many connections, each one after the other."""
    requests, pool = Requests(model(name).schema, MAX_ITEMS, 0), Pool("127.0.0.1", port)
    path, waiting, taken = f"/v2/models/{name}/infer", iter(sizes), []

    async def send() -> None:
        for size in waiting:
            body, head = requests.body(size, 0)
            begin = time.monotonic()
            answer = await pool.request("POST", path, body, ("Inference-Header-Content-Length", str(head)))
            taken.append(time.monotonic() - begin)
            assert answer.status == 200, answer.body

    begin = time.monotonic()
    await asyncio.gather(*(send() for _ in range(connections)))
    wall = time.monotonic() - begin
    pool.close()
    return {"p50_s": median(taken or [0.0]), "per_s": len(sizes) / wall}


async def over_http(port: int, name: str, sizes: Sequence[int], connections: int = 1) -> dict[str, Any]:
    """`client` in a process on the other core."""
    job = json.dumps({"port": port, "name": name, "sizes": list(sizes), "connections": connections})
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--client", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(job.encode())
    found: dict[str, Any] = json.loads(out)
    return found


async def measure(factory: Any, name: str, queries: int, small: bool) -> dict[str, Any]:
    """One model's figures."""
    from deeprecsys.serve.app import serve_forever  # once it is set what gRPC reads as it is imported

    async with factory(name) as backend:
        stop, ports, busy = asyncio.Event(), asyncio.Queue[int](), Busy()
        serving = asyncio.ensure_future(
            serve_forever(
                backend, host="127.0.0.1", http_port=0, grpc_port=0, stop=stop,
                ready=lambda http, grpc: ports.put_nowait(http),
            )
        )  # fmt: skip
        port = await ports.get()
        fixed = [100] * queries
        await in_process(backend, name, fixed[:WARM_UP])
        await over_http(port, name, fixed[:WARM_UP])
        found: dict[str, Any] = {}
        near, far = [], []
        for _ in range(ROUNDS):  # in turns, so that a slow minute of the machine meets both
            near.append(median(await in_process(backend, name, fixed)))
            far.append((await over_http(port, name, fixed))["p50_s"])
        found["p50_in_process_ms"], found["p50_http_ms"] = 1e3 * median(near), 1e3 * median(far)
        sizes = [int(n) for n in Workload.parse(None, "production").stream(1.0, queries=queries).size]
        near_cpu, far_cpu = [], []
        for _ in range(ROUNDS):
            at = time.thread_time()
            await in_process(backend, name, sizes)
            near_cpu.append(time.thread_time() - at)
            unlisten, busy.seconds, at = backend.listen(busy), 0.0, time.thread_time()
            await over_http(port, name, sizes)
            middle = time.thread_time()
            await over_http(port, name, [])  # what it takes to start a client
            far_cpu.append(middle - at - (time.thread_time() - middle))
            unlisten()
        found["loop_cpu_in_process_us"] = 1e6 * median(near_cpu) / queries
        found["loop_cpu_http_us"] = 1e6 * median(far_cpu) / queries
        found["scoring_us"] = 1e6 * busy.seconds / queries
        extra = found["loop_cpu_http_us"] - found["loop_cpu_in_process_us"]
        found["face_share_of_scoring"] = extra / found["scoring_us"] if busy.seconds else None
        if small:
            found["small_requests_per_s"] = (await over_http(port, name, [1] * (10 * queries), 16))["per_s"]
        stop.set()
        await serving
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", metavar="MODULE:NAME")
    parser.add_argument("--models", nargs="+", default=["wnd", "dlrm-rmc3", "dlrm-rmc1"])
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if options.client:
        os.sched_setaffinity(0, {cores[CLIENT_CORE % len(cores)]})
        print(json.dumps(uvloop.run(client(**json.load(sys.stdin)))))
        return
    without_fork_handlers()
    factory: Any = stand_in
    if options.backend:
        module, _, attribute = options.backend.partition(":")
        factory = getattr(import_module(module), attribute)
    found = {}
    for number, name in enumerate(options.models):
        found[name] = uvloop.run(measure(factory, name, options.queries, number == 0))
        print(name, ", ".join(f"{k} {v:.4g}" for k, v in found[name].items() if v is not None), flush=True)
    if options.backend:
        save("serve_face", {"backend": options.backend, "queries": options.queries, "models": found})


if __name__ == "__main__":
    main()
