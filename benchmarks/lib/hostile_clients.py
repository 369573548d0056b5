"""Clients that no server deserves: idle, slow, never reading, in numbers.

`python -m benchmarks.lib.hostile_clients WAVE URL GRPC MODEL SECONDS` prints how its connections ended, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from threading import Event
from typing import Any

from deeprecsys.serve.load.offer import Requests, address
from deeprecsys.zoo import model

Ends = Counter[str]


class Wave:
    """What clients of one kind need: where the server is, a good body of a query, and when they give up."""

    def __init__(self, url: str, grpc: str, name: str, seconds: float) -> None:
        self.http, self.grpc, self.name = address(url), address(f"http://{grpc}"), name
        self.until_s = time.monotonic() + seconds
        self.body, self.head_bytes = Requests(model(name).scaled(1e-4).schema, 64, 0).body(64, 0)

    def head(self, length: int) -> bytes:
        lines = (
            f"POST /v2/models/{self.name}/infer HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}",
            f"Inference-Header-Content-Length: {self.head_bytes}",
        )  # fmt: skip
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    @property
    def left_s(self) -> float:
        return max(0.0, self.until_s - time.monotonic())


Talk = Callable[[Wave, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[str]]


async def many(wave: Wave, to: tuple[str, int], count: int, talk: Talk) -> Ends:
    """`count` connections at once, each until its talk is over or the wave is."""

    async def one() -> str:
        writer = None
        try:
            async with asyncio.timeout(wave.left_s):
                reader, writer = await asyncio.open_connection(*to, limit=1)
                return await talk(wave, reader, writer)
        except TimeoutError:
            return "open to the end" if writer else "not accepted"
        except OSError as e:
            return type(e).__name__
        finally:
            if writer:
                writer.transport.abort()

    return Counter(await asyncio.gather(*(one() for _ in range(count))))


async def silent(wave: Wave, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Sends nothing."""
    return await _closed(reader)


async def half_head(wave: Wave, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(wave.head(1000)[:40])
    return await _closed(reader)


async def dripping(wave: Wave, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """A byte of a head every two seconds."""
    for byte in wave.head(1000):
        writer.write(bytes([byte]))
        try:
            async with asyncio.timeout(2.0):
                return await _closed(reader)
        except TimeoutError:
            pass
    return "all sent"


async def half_body(wave: Wave, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(wave.head(len(wave.body)) + wave.body[: len(wave.body) // 2])
    return await _closed(reader)


async def unread(wave: Wave, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Queries one behind the other, as many as the connection takes; no answer is read."""
    request = wave.head(len(wave.body)) + wave.body
    while True:
        writer.write(request)
        await writer.drain()


async def slow_reader(wave: Wave, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """The live page's feed and metrics, a byte of the answers every second."""
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 4)
    while await reader.read(1):
        await asyncio.sleep(1.0)
    return "closed"


async def _closed(reader: asyncio.StreamReader) -> str:
    """How a connection ends: what status came before."""
    answer = await reader.read(12)
    while len(answer) < 12 and (more := await reader.read(1)):
        answer += more
    while await reader.read(1 << 16):
        pass
    return f"closed after {answer[9:12].decode()}" if answer else "closed"


def streams(wave: Wave, channels: int, each: int) -> Ends:
    """gRPC streams that send one query and stay open."""
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc as rpc

    over, ends = Event(), Ends()

    def requests() -> Iterator[Any]:
        yield pb.ModelInferRequest(model_name=wave.name)
        over.wait(wave.left_s)

    where = f"{wave.grpc[0]}:{wave.grpc[1]}"
    opened = [grpc.insecure_channel(where, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(channels)]
    calls = [
        rpc.GRPCInferenceServiceStub(c).ModelStreamInfer(requests(), timeout=wave.left_s + 5)
        for c in opened
        for _ in range(each)
    ]
    for call in calls:
        try:
            ends["answered" if next(call).error_message else "scored"] += 1
        except grpc.RpcError as e:
            ends[e.code().name] += 1
    time.sleep(wave.left_s)
    over.set()
    for channel in opened:
        with closing(channel):
            pass
    return ends


WAVES: dict[str, Callable[[Wave, float], Awaitable[Ends]]] = {
    "idle": lambda w, share: _both(w, int(1100 * share)),
    "half heads": lambda w, share: many(w, w.http, int(20 * share), half_head),
    "dripping heads": lambda w, share: many(w, w.http, int(20 * share), dripping),
    "half bodies": lambda w, share: many(w, w.http, int(20 * share), half_body),
    "unread answers": lambda w, share: many(w, w.http, int(8 * share), unread),
    "slow readers": lambda w, share: many(w, w.http, int(8 * share), slow_reader),
    "gRPC streams": lambda w, share: asyncio.to_thread(streams, w, max(1, int(8 * share)), 8),
}
"""How each wave is run, of a share of its number."""


async def _both(wave: Wave, count: int) -> Ends:
    """Connections without a word, to HTTP and to gRPC: more than the server has descriptors."""
    found = await asyncio.gather(many(wave, wave.http, count, silent), many(wave, wave.grpc, count, silent))
    return found[0] + found[1]


def main() -> None:
    kind, url, grpc, name, seconds, share = sys.argv[1:]
    ends = asyncio.run(WAVES[kind](Wave(url, grpc, name, float(seconds)), float(share)))  # type: ignore[arg-type]
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
