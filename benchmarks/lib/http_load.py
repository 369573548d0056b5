"""An open-loop client of a server, and what became of its queries.

One asyncio loop over plain sockets. It speaks the Open Inference Protocol with binary tensors, sends each query
at its intended time on a connection that is free, and counts latency from that time.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.target import Target, percentile
from deeprecsys.workload.stream import Stream
from deeprecsys.zoo import model
from deeprecsys.zoo.schema import DenseInput, Per, Schema

LEAD_S = 0.2
KINDS = 64
"""Queries of each run differ in what they ask for in so many ways; sizes come from the workload."""
Events = Sequence[tuple[float, Callable[[], None]]]
"""What is to be done besides, and when, in seconds."""


@dataclass
class Answers:
    """What became of every query of a stream, by arrival."""

    arrival_s: NDArray[np.float64]
    size: NDArray[np.int32]
    latency_s: NDArray[np.float64]
    """From the intended arrival; nan where no answer came."""
    status: NDArray[np.int32]
    """Of HTTP; 0 where no answer came."""
    wrong: int = 0
    """Answers of status 200 whose scores were not those of before."""

    def between(self, begin_s: float, end_s: float) -> Answers:
        keep = (self.arrival_s >= begin_s) & (self.arrival_s < end_s)
        return Answers(
            *(x[keep] for x in (self.arrival_s, self.size, self.latency_s, self.status)), self.wrong
        )

    @property
    def served(self) -> NDArray[np.bool_]:
        return self.status == 200

    def in_time(self, target: Target) -> NDArray[np.bool_]:
        """Which queries were answered within the target; one that was refused was not."""
        return self.served & (self.latency_s <= target.latency_s)

    def summary(self, target: Target, duration_s: float) -> dict[str, Any]:
        """Figures over all of them; goodput is answers within the target per second."""
        latency = self.latency_s[self.served]
        return {
            "offered": len(self.status),
            "served": int(self.served.sum()),
            "refused": int((self.status == 503).sum()),
            "other": int(((self.status != 200) & (self.status != 503)).sum()),
            "wrong": self.wrong,
            "unanswered": int((self.status == 0).sum()),
            "p50_ms": 1e3 * percentile(latency, 0.5),
            "p95_ms": 1e3 * percentile(latency, 0.95),
            "p99_ms": 1e3 * percentile(latency, 0.99),
            "goodput_qps": int(self.in_time(target).sum()) / duration_s,
            "goodput_items_per_s": int(self.size[self.in_time(target)].sum()) / duration_s,
        }


@dataclass(frozen=True)
class After:
    """How a stream fares after a disturbance, beside the same stream undisturbed.

    Of the queries that were answered in time undisturbed: what a node never answers in time, such as a query
    too large for its target, tells nothing of a disturbance.

    Attributes:
        since_s: when each query came, counted from the disturbance before it.
        in_time: whether it was answered within the target.
    """

    since_s: NDArray[np.float64]
    in_time: NDArray[np.bool_]

    @classmethod
    def each(cls, hit: Answers, calm: Answers, target: Target, times: Sequence[float]) -> list[After]:
        """After each of some disturbances, to the next or the end."""
        fine, again, found = calm.in_time(target), hit.in_time(target), []
        for begin, end in pairwise([*times, np.inf]):
            asked = fine & (hit.arrival_s >= begin) & (hit.arrival_s < end)
            found.append(cls(hit.arrival_s[asked] - begin, again[asked]))
        return found

    @classmethod
    def pooled(cls, parts: Sequence[After]) -> After:
        """All together."""
        return cls(np.concatenate([p.since_s for p in parts]), np.concatenate([p.in_time for p in parts]))

    def share(self, from_s: float) -> float:
        """In time, of those that came from so long after it on."""
        return float(self.in_time[self.since_s >= from_s].mean())

    def settled_s(self, target: Target, window_s: float = 0.5) -> float:
        """The end of the disturbance: when the first window begins that has its share in time; infinite if none."""
        for at in np.arange(0.0, float(self.since_s.max(initial=0.0)), window_s):
            inside = self.in_time[(self.since_s >= at) & (self.since_s < at + window_s)]
            if len(inside) and inside.mean() >= target.quantile:
                return float(at)
        return inf


class Bodies:
    """Requests of a model's queries, by size and kind, built once and kept."""

    def __init__(self, name: str, rows_scale: float, largest: int, seed: int = 0) -> None:
        self.schema: Schema = model(name).scaled(rows_scale).schema
        self.name, self._largest = name, largest
        rng = np.random.default_rng(seed)
        rows = largest + KINDS
        self._rows: dict[str, NDArray[Any]] = {}
        for i in self.schema.inputs:
            if isinstance(i, DenseInput):
                self._rows[i.name] = rng.standard_normal((rows, i.width), dtype=np.float32)
            else:
                most = self.schema.table(i.table).rows
                self._rows[i.name] = rng.integers(0, most, (rows, i.lookups), dtype=np.int32)

    def request(self, size: int, kind: int) -> bytes:
        """The whole HTTP request of a query."""
        inputs, tensors = [], []
        for i in self.schema.inputs:
            count = size if i.per is Per.ITEM else 1
            raw = self._rows[i.name][kind : kind + count].tobytes()
            shape = [count, self._rows[i.name].shape[1]]
            inputs.append({"name": i.name, "shape": shape, "datatype": i.datatype,
                           "parameters": {"binary_data_size": len(raw)}})  # fmt: skip
            tensors.append(raw)
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        length = len(head) + sum(map(len, tensors))
        lines = (
            f"POST /v2/models/{self.name}/infer HTTP/1.1\r\nHost: localhost\r\n"
            f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {length}\r\n\r\n"
        )
        return b"".join([lines.encode(), head, *tensors])


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes
) -> tuple[int, bytes]:
    """Send a request, read its answer: status and the binary part of the body."""
    writer.write(data)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = re.search(r"\r\ncontent-length: *(\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    json_bytes = re.search(r"inference-header-content-length: *(\d+)", head)
    return int(head.split(" ", 2)[1]), body[int(json_bytes[1]) :] if json_bytes else b""


async def offer(port: int, bodies: Bodies, stream: Stream, at: Events) -> Answers:
    """Send a stream's queries when they are due; what became of them."""
    n = len(stream)
    latency, status = np.full(n, np.nan), np.zeros(n, np.int32)
    expected: dict[tuple[int, int], bytes] = {}
    wrong = 0
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    origin = time.monotonic() + LEAD_S

    def idle() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection that is free, and that the server has not closed meanwhile."""
        while free:
            reader, writer = free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def one(i: int, size: int, kind: int) -> None:
        nonlocal wrong
        data = bodies.request(size, kind)
        try:
            link = idle() or await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
            status[i], scores = await _exchange(*link, data)
            free.append(link)
        except (OSError, asyncio.IncompleteReadError):
            return
        latency[i] = time.monotonic() - origin - stream.arrival_s[i]
        if status[i] == 200:
            first = expected.setdefault((size, kind), scores)
            if first != scores:
                close = np.allclose(np.frombuffer(first, "<f4"), np.frombuffer(scores, "<f4"), atol=1e-4)
                wrong += not close

    tasks: set[asyncio.Task[None]] = set()
    events = [asyncio.get_running_loop().call_at(origin + t, act) for t, act in at]
    kinds = (stream.features % np.uint64(KINDS)).tolist()
    for i, (due, size) in enumerate(zip(stream.arrival_s.tolist(), stream.size.tolist(), strict=True)):
        if (wait_s := origin + due - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        task = asyncio.create_task(one(i, size, kinds[i]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=60)
    for event in events:
        event.cancel()
    for _, writer in free:
        writer.close()
    return Answers(stream.arrival_s, stream.size, latency, status, wrong)
