"""Open-loop load on a running server: a stream's queries over HTTP, each at its intended time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.runlog import RunLog, Status, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.serve.load.client import ConnectionPool, Response
from deeprecsys.workload.lengths import HEAVY, parse
from deeprecsys.workload.stream import RandomStream, Stream, generator
from deeprecsys.zoo.jagged import LENGTHS, PAD, VALUES
from deeprecsys.zoo.schema import DenseInput, Per, Schema, TensorSpec

LEAD_S = 0.05
"""From the start to the first arrival at time 0."""
OPEN_AT_FIRST = 8
"""Connections that are made before the first query."""
DRAIN_S = 10.0
"""How long answers are waited for beyond the target, after the last query."""

Answered = Callable[[int, Response], None]
"""Called with the index of a query and its response, as that comes."""
TimedCalls = Sequence[tuple[float, Callable[[], None]]]
"""What else is to be done, each with its time in seconds."""


class Requests:
    """Bodies of queries: rows of features made once, of which each query takes some.

    Args:
        largest: items of the largest query.
        kinds: number of different queries of each size; by default there is no limit but the rows.
        timeout_s: that the queries state; None states none.
    """

    def __init__(
        self,
        schema: Schema,
        largest: int,
        seed: int,
        kinds: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        rng = generator(seed, RandomStream.FEATURES)
        self._schema, self._rows = schema, largest + (kinds or largest)
        self._kinds = kinds or 1 << 64
        self._parameters: dict[str, Any] = {"binary_data_output": True}
        if timeout_s:
            self._parameters["timeout"] = int(1e6 * timeout_s)
        self._jagged = {t.name: i for i in schema.jagged for t in (schema.source(i.name)[0],)}
        self._tensors = [(t, self._drawn(t, rng)) for t in schema.signature.inputs]

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The rows of each of the schema's inputs, by name: [rows, width]; of a jagged one -1 where there is
        no id."""
        given = {
            feed.input: drawn.reshape(self._rows, -1)[:, feed.columns or slice(None)]
            for t, drawn in self._tensors
            for feed in t.feeds
        }
        firsts = {i.name: [first for first, _ in i.fields] for i in self._schema.sparse if i.fields}
        return {
            i.name: (given[i.name] + np.array(firsts.get(i.name, 0))).astype(i.dtype)
            for i in self._schema.inputs
        }

    def body(self, size: int, handle: int) -> tuple[bytes, int]:
        """A query's body with binary data, and the length of its JSON part."""
        inputs, data = [], []
        for t, drawn in self._tensors:
            rows = 1 if t.per is Per.QUERY else size
            first = handle % self._kinds % (self._rows - rows + 1)
            part = drawn[first : first + rows]
            sent = {t.name: part}
            if t.name in self._jagged:
                kept = part != PAD
                sent = {t.name + VALUES: part[kept], t.name + LENGTHS: kept.sum(axis=1, dtype=part.dtype)}
            for name, array in sent.items():
                parameters = {"binary_data_size": array.nbytes}
                inputs.append(
                    {"name": name, "shape": array.shape, "datatype": t.datatype, "parameters": parameters}
                )
                data.append(array.tobytes())
        head = json.dumps({"inputs": inputs, "parameters": self._parameters}).encode()
        return b"".join((head, *data)), len(head)

    def _drawn(self, t: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
        """Rows of a tensor; its ids are within every table that it indexes."""
        inputs = {i.name: i for i in self._schema.inputs}
        drawn, bounds = np.zeros((self._rows, t.width), t.dtype), {}  # type: tuple[NDArray[Any], dict[int, int]]
        for feed in t.feeds:
            i = inputs[feed.input]
            if isinstance(i, DenseInput):
                drawn[:, feed.columns or slice(None)] = rng.standard_normal((self._rows, i.width), np.float32)
                each = iter(i.ids)
            else:
                rows = self._schema.table(i.table).rows
                counts = [count for _, count in i.fields] or [rows] * i.width
                each = zip(feed.columns or range(t.width), counts, strict=True)
            bounds |= {c: min(count, bounds.get(c, count)) for c, count in each}
        for rows in sorted(set(bounds.values())):
            columns = [c for c, bound in bounds.items() if bound == rows]
            drawn[:, columns] = rng.integers(0, rows, (self._rows, len(columns)), np.int32)
        if jagged := self._jagged.get(t.name):
            z = rng.standard_normal(self._rows)
            lengths = np.rint(parse(HEAVY).law.drawn(z, jagged.mean_lookups, jagged.lookups))
            drawn[np.arange(jagged.lookups) >= lengths[:, None]] = PAD
        return drawn.reshape(self._rows, *t.row)


async def offer(
    url: str,
    model: str,
    requests: Requests,
    stream: Stream,
    target: Target,
    progress: Callable[[float], None] = lambda share: None,
    answered: Answered = lambda i, response: None,
    at: TimedCalls = (),
) -> RunLog:
    """Send every query of a stream at its intended time, whatever became of those before.

    Args:
        url: of the server, `http://HOST:PORT`.
        progress: called with the share of queries that were sent.
        at: times from the stream's start.

    Returns:
        the run log as this client saw it: `finish_s` is when the answer was here, and what workers did
        is unknown to it. 503 counts as shed, every other failure as failed.

    Raises:
        InputError: it is no such URL, or the server does not have the model.
        NodeError: nothing answers there.
    """
    pool = ConnectionPool(*address(url))
    try:
        await _check(pool, url, model)
        await pool.open(OPEN_AT_FIRST)
        return await _Offer(pool, f"{model_path(model)}/infer", requests, stream, answered).run(
            target, progress, at
        )
    finally:
        pool.close()


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL.

    Raises:
        InputError: it is not `http://HOST:PORT`.
    """
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("", "http") or parts.path not in ("", "/"):
        raise InputError(f"--url: expected http://HOST:PORT, got {url!r}")
    return host, port or 80


def model_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


async def _check(pool: ConnectionPool, url: str, model: str) -> None:
    try:
        answer = await pool.request("GET", f"{model_path(model)}/ready")
    except OSError as e:
        raise NodeError(f"--url: nothing answers at {url}: {e}") from e
    if answer.status == 404:
        raise InputError(f"--url {url}: the server does not have the model {model!r}")


class _Offer:
    """One run; its arrays have an entry for each query."""

    def __init__(
        self, pool: ConnectionPool, path: str, requests: Requests, stream: Stream, answered: Answered
    ) -> None:
        self._pool, self._path, self._requests = pool, path, requests
        self._stream, self._answered = stream, answered
        n = len(stream)
        self._issued_s, self._finish_s = np.full(n, np.nan), np.full(n, np.nan)
        self._status = np.full(n, Status.OPEN, np.uint8)
        self._answers: dict[str, int] = {}

    async def run(self, target: Target, progress: Callable[[float], None], at: TimedCalls) -> RunLog:
        stream, loop = self._stream, asyncio.get_running_loop()
        self._zero_s = loop.time() + LEAD_S
        timers = [loop.call_at(self._zero_s + time_s, call) for time_s, call in at]
        open_: set[asyncio.Task[None]] = set()
        for i, at_s in enumerate(stream.arrival_s.tolist()):
            body = self._requests.body(int(stream.size[i]), int(stream.features[i]))  # before its time
            wait_s = self._zero_s + at_s - loop.time()
            await asyncio.sleep(max(0.0, wait_s))  # also where it is late: answers are read meanwhile
            task = asyncio.ensure_future(self._query(i, *body))
            open_.add(task)
            task.add_done_callback(open_.discard)
            if not i % 256:
                progress(i / len(stream))
        if open_:
            await asyncio.wait(open_, timeout=DRAIN_S + target.latency_s)
        for timer in timers:
            timer.cancel()
        for task in list(open_):
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)
        last = float(stream.arrival_s[-1]) if len(stream) else 0.0
        return RunLog(
            rate_qps=stream.rate_qps,
            arrival_s=stream.arrival_s,
            size=stream.size,
            issued_s=self._issued_s,
            start_s=np.full(len(stream), np.nan),
            finish_s=self._finish_s,
            status=self._status,
            busy_s=float("nan"),
            workers=1,
            warmup_s=warmup_s(last, target),
            interrupted=False,
            extra={"answers": self._answers},
        )

    async def _query(self, i: int, body: bytes, head_length: int) -> None:
        loop = asyncio.get_running_loop()
        self._issued_s[i] = loop.time() - self._zero_s
        try:
            headers = ("Inference-Header-Content-Length", str(head_length))
            answer = await self._pool.request("POST", self._path, body, headers)
            status, kind = answer.status, str(answer.status)
            self._answered(i, answer)
        except OSError as e:
            status, kind = 0, type(e).__name__
        self._answers[kind] = self._answers.get(kind, 0) + 1
        self._finish_s[i] = loop.time() - self._zero_s if status == 200 else np.nan
        self._status[i] = {200: Status.SERVED, 503: Status.SHED}.get(status, Status.FAILED)


def load(
    url: str, model: str, schema: Schema, stream: Stream, target: Target, seed: int, **hooks: Any
) -> RunLog:
    """`offer` on an event loop of its own, with features drawn uniformly."""
    requests = Requests(schema, int(stream.size.max(initial=1)), seed)
    return asyncio.run(offer(url, model, requests, stream, target, **hooks))
