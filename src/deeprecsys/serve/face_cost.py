"""What a query costs the server's own process: a short load through the loopback socket, before it serves.

The process's CPU time holds reading, decoding, admission, dispatching, encoding and writing, and the kernel's
work for it. The client is a process of its own, and is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np

from deeprecsys.node.service.backend import Backend
from deeprecsys.serve.addresses import listen
from deeprecsys.serve.app import plain_asgi
from deeprecsys.serve.frontend import Frontend
from deeprecsys.serve.http.app import HttpApp
from deeprecsys.serve.http.connection import http_server
from deeprecsys.serve.load.closed_loop import Job
from deeprecsys.serve.metrics.counters import Counters

_log = logging.getLogger(__name__)

WARM_UP_S = 0.5
TIMEOUT_S = 30.0
"""That the queries state, so that none is a miss of the target; and how long the client may overrun."""


async def face_seconds(
    backend: Backend, model: str, sizes: Sequence[int], connections: int, seconds: float
) -> float | None:
    """CPU seconds of this process per query that is answered over HTTP; None if that cannot be measured.

    Args:
        sizes: a sample of the queries' sizes, in items.
        connections: with one open query each.
        seconds: how long is measured.
    """
    served = backend.models[model]
    drawn = np.random.default_rng(0).permutation(np.minimum(sizes, served.max_items))
    counters = Counters()
    async with _listening(backend, counters) as port:
        job = Job(port, model, served.schema, drawn.tolist(), TIMEOUT_S, connections, WARM_UP_S, seconds)
        try:
            async with asyncio.timeout(WARM_UP_S + seconds + TIMEOUT_S):
                return await _cpu_s(job, lambda: counters.of(model).encode.count)
        except (OSError, TimeoutError, ValueError, ZeroDivisionError) as e:
            _log.warning("%s: what the network face takes could not be measured: %r", model, e)
            return None


@contextlib.asynccontextmanager
async def _listening(backend: Backend, counters: Counters) -> AsyncIterator[int]:
    """HTTP alone, on a port that only this machine reaches."""
    with listen("127.0.0.1", 0) as socket:
        http = http_server(HttpApp(Frontend(backend, counters), True), plain_asgi())
        serving = asyncio.ensure_future(http.serve(sockets=[socket]))
        try:
            while not http.started and not serving.done():
                await asyncio.sleep(0.005)
            yield socket.getsockname()[1]
        finally:
            http.should_exit = True
            await serving


async def _cpu_s(job: Job, answered: Callable[[], int]) -> float:
    """Run the client: this process's CPU time per `answered` query, between the client's two lines."""
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deeprecsys.serve.load.closed_loop", str(os.getpid()),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert client.stdin is not None
    assert client.stdout is not None
    try:
        client.stdin.write(pickle.dumps(job))
        await client.stdin.drain()
        client.stdin.close()
        json.loads(await client.stdout.readline())
        count, began_s = answered(), time.process_time()
        seen: dict[str, int] = json.loads(await client.stdout.readline())
        spent_s, count = time.process_time() - began_s, answered() - count
    finally:
        with contextlib.suppress(ProcessLookupError):
            client.kill()
        await client.wait()
    if seen["other"]:
        raise ValueError(f"{seen['other']} of {sum(seen.values())} queries were not answered")
    return spent_s / count
