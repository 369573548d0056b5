"""What the network face costs: latency over HTTP against in process, small requests/s, share of CPU time.

The server, its worker included, has the first core, and the client, a process of its own, the last. Per model:

- p50 of a 100-item query, one at a time: over HTTP with binary tensors, seen by the client, and in process;
- CPU time of the event loop's thread per query of the sizes `production`, over HTTP less in process, against
  the worker's time on its batches: the face's cost beside the scoring's;
- where it goes: bytes of a query's body, and the loop's time to write them where a worker reads them;
- 1-item queries/s from 16 connections: of NCF, whose request is small (4 inputs), and of WND, whose is not (29).

With --stand-in nothing is scored: what the face takes by itself. Keep the machine idle.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.harness import ROOT, Benchmark, Result, Run, Tables, figures
from benchmarks.lib.live_server import Row, verdicts
from deeprecsys.core.policy import Coalescing
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.target import Target
from deeprecsys.node.runtime.cores import awake, realtime
from deeprecsys.node.service.backend import Backend, BatchRecord, OperatingPoint, QueryRecord
from deeprecsys.node.service.hosted_model import ModelConfig
from deeprecsys.node.service.service import Service, ServiceConfig
from deeprecsys.paper.published import MODELS
from deeprecsys.serve.addresses import without_fork_handlers
from deeprecsys.serve.load.client import ConnectionPool
from deeprecsys.serve.load.offer import Requests
from deeprecsys.workload.stream import Workload
from deeprecsys.zoo import model
from deeprecsys.zoo.schema import DenseInput, Per, Schema

ALL_CORES = sorted(os.sched_getaffinity(0))
MAX_ITEMS, BATCH_SIZE, FINEST = 1000, 256, 64
ABOVE_MS, SMALL_PER_S, SHARE, HELD = 1.0, 2500, 0.15, ("wnd", "dlrm-rmc3")
USUAL = ("wnd", "dlrm-rmc3", "dlrm-rmc1", "ncf")
SMALL, OF_ONE_ITEM = "ncf", ("ncf", "wnd")
WARM_UP = 20
ROUNDS = 3


@asynccontextmanager
async def stand_in(name: str, rows_scale: float) -> AsyncIterator[Backend]:
    """Scores nothing, at once, in memory that is there already."""
    from tests.serve import stand_in as s

    schema = model(name).scaled(rows_scale).schema
    scores = np.zeros((MAX_ITEMS, schema.outputs), np.float32)
    arena = [(b, np.zeros((len(b.names), MAX_ITEMS, b.width), b.dtype)) for b in schema.blocks]

    class AtOnce(s.StandIn):
        def reserve(self, model: str, items: int, **how: Any) -> Any:
            self.ids, self.open = self.ids + 1, self.open + 1
            together = [a[:, : 1 if b.per is Per.QUERY else items] for b, a in arena]
            inputs = {
                n: x
                for (b, _), a in zip(arena, together, strict=True)
                for n, x in zip(b.names, a, strict=True)
            }
            return s.Place(self.ids, model, items, how["arrival_s"], None, 0, inputs, together)

        async def score(self, seat: Any) -> Any:
            await asyncio.sleep(0)
            return scores[: seat.items]

    s.MAX_ITEMS = MAX_ITEMS
    yield AtOnce.of(**{name: schema})  # type: ignore[misc]


@asynccontextmanager
async def real(name: str, rows_scale: float) -> AsyncIterator[Backend]:
    """A service of one worker, on the server's core. Its target is so far off that nothing is refused."""
    profile = LatencyProfile(name, (Point(1, 1, (1e-3,)), Point(1, MAX_ITEMS, (2e-2,))))
    config = ModelConfig(
        name,
        Target(latency_s=60.0),
        Coalescing(BATCH_SIZE, FINEST),
        profile,
        rows_scale=rows_scale,
        max_items=MAX_ITEMS,
    )
    service = await Service.start(ServiceConfig((config,), (server_cores(),), spares=0))
    try:
        yield service
    finally:
        service.close()


def server_cores() -> list[int]:
    return ALL_CORES[:1]


def arrays(schema: Schema) -> dict[str, NDArray[Any]]:
    """Features in the types that a seat has, so that writing them is a copy and no conversion."""
    rng = np.random.default_rng(0)
    found: dict[str, NDArray[Any]] = {}
    for i in schema.inputs:
        if isinstance(i, DenseInput):
            found[i.name] = rng.standard_normal((MAX_ITEMS, i.width), dtype=np.float32)
        else:
            found[i.name] = rng.integers(0, 2, (MAX_ITEMS, i.lookups), dtype=np.int32)
    return found


class Busy:
    """Adds up the workers' time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def query_ended(self, record: QueryRecord) -> None: ...

    def batch_ended(self, record: BatchRecord) -> None:
        self.seconds += record.ended_s - record.started_s

    def point_changed(self, model: str, point: OperatingPoint) -> None: ...


Given = dict[str, NDArray[Any]]


def cpu_s() -> NDArray[np.float64]:
    """CPU time of this thread so far, and what of it the kernel took by its own, coarser account."""
    return np.array([time.thread_time(), resource.getrusage(resource.RUSAGE_THREAD).ru_stime])


async def in_process(backend: Backend, name: str, given: Given, sizes: Sequence[int]) -> list[float]:
    """Latencies of queries that are filled from arrays and scored, one after the other."""
    taken = []
    for size in sizes:
        begin = time.monotonic()
        seat = backend.reserve(name, size, arrival_s=begin, deadline_s=begin + 60)
        for n, into in seat.inputs.items():
            into[...] = given[n][: len(into)]
        (await backend.score(seat)).tobytes()
        backend.release(seat)
        taken.append(time.monotonic() - begin)
    return taken


def fill_us(backend: Backend, name: str, given: Given, sizes: Sequence[int]) -> float:
    """The loop's time to write a query's features, and nothing else."""
    spent = 0.0
    for size in sizes:
        seat = backend.reserve(name, size, arrival_s=time.monotonic(), deadline_s=time.monotonic() + 60)
        at = time.thread_time()
        for n, into in seat.inputs.items():
            into[...] = given[n][: len(into)]
        spent += time.thread_time() - at
        backend.release(seat)
    return 1e6 * spent / len(sizes)


async def client(
    port: int, name: str, rows_scale: float, sizes: Sequence[int], connections: int
) -> dict[str, Any]:
    """Send queries from some connections, one after the other on each."""
    requests, pool = (
        Requests(model(name).scaled(rows_scale).schema, MAX_ITEMS, 0),
        ConnectionPool("127.0.0.1", port),
    )
    path, waiting, taken = f"/v2/models/{name}/infer", iter(sizes), []
    bodies = {size: requests.body(size, 0) for size in set(sizes)}

    async def send() -> None:
        for size in waiting:
            body, head = bodies[size]
            begin = time.monotonic()
            answer = await pool.request("POST", path, body, ("Inference-Header-Content-Length", str(head)))
            taken.append(time.monotonic() - begin)
            assert answer.status == 200, answer.body

    begin = time.monotonic()
    await asyncio.gather(*(send() for _ in range(connections)))
    wall = time.monotonic() - begin
    pool.close()
    mean_bytes = sum(len(bodies[size][0]) for size in sizes) / max(1, len(sizes))
    return {"p50_s": median(taken or [0.0]), "per_s": len(sizes) / wall, "body_bytes": mean_bytes}


@dataclass(frozen=True)
class Face:
    """A server under test."""

    backend: Backend
    port: int
    name: str
    rows_scale: float
    rounds: int
    given: Given

    async def over_http(self, sizes: Sequence[int], connections: int = 1) -> dict[str, Any]:
        """`client` in a process on the other core."""
        job = {"port": self.port, "name": self.name, "rows_scale": self.rows_scale, "sizes": list(sizes),
               "connections": connections}  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.serve.face_cost", "--client", str(ALL_CORES[-1]),
            cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate(json.dumps(job).encode())
        found: dict[str, Any] = json.loads(out)
        return found

    async def in_process(self, sizes: Sequence[int]) -> list[float]:
        return await in_process(self.backend, self.name, self.given, sizes)

    async def latencies(self, queries: int) -> dict[str, Any]:
        """The p50 of a 100-item query, in turns, so that a slow minute of the machine meets both."""
        fixed, near, far = [100] * queries, [], []
        for _ in range(self.rounds):
            near.append(median(await self.in_process(fixed)))
            far.append((await self.over_http(fixed))["p50_s"])
        return {"p50_in_process_ms": 1e3 * median(near), "p50_http_ms": 1e3 * median(far)}

    async def cpu(self, queries: int) -> dict[str, Any]:
        """CPU time of the loop per query, over HTTP and in process, and the worker's."""
        sizes = [int(n) for n in Workload.parse(None, "production").stream(1.0, queries=queries).size]
        busy, near, far, kernel, scoring = Busy(), [], [], [], []
        for _ in range(self.rounds):
            begin = time.thread_time()
            await self.in_process(sizes)
            near.append(time.thread_time() - begin)
            unlisten, busy.seconds, at = self.backend.listen(busy), 0.0, cpu_s()
            seen = await self.over_http(sizes)
            middle = cpu_s()
            await self.over_http([])  # what it takes to start a client
            spent = (middle - at) - (cpu_s() - middle)
            far.append(spent[0])
            kernel.append(spent[1])
            scoring.append(busy.seconds)
            unlisten()
        in_process_us, http_us, kernel_us, scoring_us = (
            1e6 * median(x) / queries for x in (near, far, kernel, scoring)
        )
        return {
            "loop_cpu_in_process_us": in_process_us,
            "loop_cpu_http_us": http_us,
            "kernel_http_us": kernel_us,
            "scoring_us": scoring_us,
            "body_bytes": seen["body_bytes"],
            "fill_us": fill_us(self.backend, self.name, self.given, sizes),
            "face_share_of_scoring": (http_us - in_process_us) / scoring_us if scoring_us else None,
        }


async def measure(
    factory: Any, name: str, rows_scale: float, queries: int, rounds: int, small: bool
) -> dict[str, Any]:
    """One model's figures."""
    from deeprecsys.serve.app import serve_forever  # once it is set what gRPC reads as it is imported

    async with factory(name, rows_scale) as backend:
        stop, ports = asyncio.Event(), asyncio.Queue[int]()
        serving = asyncio.ensure_future(
            serve_forever(
                backend, host="127.0.0.1", http_port=0, grpc_port=0, stop=stop,
                ready=lambda http, grpc: ports.put_nowait(http),
            )
        )  # fmt: skip
        given = arrays(backend.models[name].schema)
        face = Face(backend, await ports.get(), name, rows_scale, rounds, given)
        await face.in_process([100] * WARM_UP)
        await face.over_http([100] * WARM_UP)
        gc.collect()
        gc.freeze()  # as `deeprecsys serve` does
        found = {**await face.latencies(queries), **await face.cpu(queries)}
        if small:
            found["inputs"] = len(given)
            found["small_requests_per_s"] = (await face.over_http([1] * (10 * queries), 16))["per_s"]
        stop.set()
        await serving
        return found


def rows(found: dict[str, Any]) -> list[Row]:
    lines = []
    for name, f in found.items():
        if name == "wnd":
            above = f["p50_http_ms"] - f["p50_in_process_ms"]
            lines.append(Row("wnd, 100 items: p50 over HTTP above in process",
                             f"{above:.2f} ms ({f['p50_http_ms']:.2f} against {f['p50_in_process_ms']:.2f})",
                             f"≤ {ABOVE_MS:g} ms", above <= ABOVE_MS))  # fmt: skip
        if "small_requests_per_s" in f:
            per_s, held = f["small_requests_per_s"], name == SMALL
            lines.append(Row(f"{name}, 1 item of {f['inputs']} inputs, 16 connections", f"{per_s:,.0f} requests/s",
                             f"≥ {SMALL_PER_S:,}" if held else "stated", per_s >= SMALL_PER_S if held else None))  # fmt: skip
        share, extra = f["face_share_of_scoring"], f["loop_cpu_http_us"] - f["loop_cpu_in_process_us"]
        said = (
            f"{extra:,.0f} µs beside {f['scoring_us']:,.0f} µs of scoring, {f['body_bytes'] / 1e3:,.0f} kB; "
            f"the kernel has {f['kernel_http_us']:,.0f} of the loop's {f['loop_cpu_http_us']:,.0f} µs"
        )
        goal, met = (f"≤ {100 * SHARE:.0f} %", share <= SHARE) if share and name in HELD else ("stated", None)
        if share and name not in HELD:
            said += f"; to write them where a worker reads them takes {f['fill_us']:,.0f} µs in process too"
        what = f"{name}, `production`: the face's CPU per query"
        lines.append(Row(what, f"{100 * share:.1f} %: {said}", goal, met) if share else Row(what, said))
    return lines


def run(run: Run) -> Result | None:
    o = run.options
    if o.client is not None:
        os.sched_setaffinity(0, {o.client})
        print(json.dumps(uvloop.run(client(**json.load(sys.stdin)))))
        return None
    os.sched_setaffinity(0, server_cores())
    without_fork_handlers()
    factory: Any = stand_in if o.stand_in else real
    rows_scale, queries, rounds = (0.01, 20, 1) if run.quick else (1.0, 500, ROUNDS)
    queries, found = o.queries or queries, {}
    for name in o.models or USUAL:
        with realtime(), awake():  # as `deeprecsys serve` runs its loop
            found[name] = uvloop.run(measure(factory, name, rows_scale, queries, rounds, name in OF_ONE_ITEM))
        print(name, figures(found[name]), flush=True)
    if o.stand_in:
        return None
    return {"rows_scale": rows_scale, "policy": f"coalescing, batch size {BATCH_SIZE}", "queries": queries,
            "models": found}  # fmt: skip


def tables(result: Result) -> Tables:
    return {"serve-face": verdicts(rows(result["models"]))}


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables, MODELS,
    {
        "--queries": {"type": int, "help": "of each figure"},
        "--stand-in": {"action": "store_true", "help": "score nothing: the face by itself; writes nothing"},
        "--client": {"type": int, "metavar": "CORE", "help": argparse.SUPPRESS},
    },
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
