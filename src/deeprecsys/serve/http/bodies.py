"""A request's body: its head as soon as that has come, then its data."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from deeprecsys.node.service.backend import Seat
from deeprecsys.serve.memory import BufferPool
from deeprecsys.serve.protocol.errors import EncodingError, GoneError, RequestError, SlowError, TooLargeError
from deeprecsys.serve.protocol.inputs import Binary, ValidatedRequest
from deeprecsys.serve.protocol.values import BodyLayout

Receive = Callable[[], Awaitable[dict[str, Any]]]

PAUSE_S = 20.0
"""The longest pause within a body."""
LEAST_BYTES_PER_S = 1 << 14
"""The least mean rate of a body, `PAUSE_S` aside."""
SETTLE_S = 0.05
"""How long the loop gets to read what the kernel has collected of a body that paused."""


class Handle(Protocol):
    """A request's connection, for what ASGI has no message."""

    def whole_body(self) -> bytes | None:
        """All of a small body that has come and was not received yet; else None."""

    def watch(self, gone: Callable[[], None] | None) -> None:
        """Call `gone` as soon as the client has gone away; None ends that."""


class ChunkedBody:
    """A small body, or one of unknown length: ASGI's messages, joined."""

    def __init__(self, receive: Receive, pool: BufferPool, limit: int, handle: Handle | None = None) -> None:
        self._receive, self._pool, self._limit, self._handle = receive, pool, limit, handle
        self._chunks: list[bytes] = []
        self._size = 0
        self._begin_s: float | None = None
        self.complete = False

    async def read_head(self, count: int | None) -> bytes:
        """The first `count` bytes, or all.

        Raises:
            RequestError: there are fewer; SlowError; TooLargeError; FullError; GoneError.
        """
        if self._handle is not None and (whole := self._handle.whole_body()) is not None:
            self._add(whole, False)
        while not self.complete and (count is None or self._size < count):
            await self._next()
        _check_head(count, self._size)
        return self._joined()[:count]

    async def buffer(self) -> None:
        """Have all of it in memory of its own. Raises as `read_head`."""
        while not self.complete:
            await self._next()

    async def read_data(self, start: int, request: ValidatedRequest, seat: Seat) -> Binary:
        """What follows the first `start` bytes. Raises as `read_head`."""
        if not self.complete:
            await self.buffer()
        return memoryview(self._joined())[start:]

    def watch(self, gone: Callable[[], None]) -> Callable[[], object]:
        """Call `gone` when the client goes away, once the body is complete; returns what ends that."""
        handle = self._handle
        if handle is not None:
            handle.watch(gone)
            return lambda: handle.watch(None)

        async def wait() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone()

        return asyncio.ensure_future(wait()).cancel

    def close(self) -> None:
        """Give its memory back."""
        self._pool.give(self._size)
        self._size, self._chunks = 0, []

    async def _next(self) -> None:
        now_s = time.monotonic()
        if self._begin_s is None:
            self._begin_s = now_s
        _check_rate(now_s - self._begin_s, self._size)
        try:
            async with asyncio.timeout(PAUSE_S):
                message = await self._receive()
        except TimeoutError:
            raise _slow() from None
        if message["type"] == "http.disconnect":
            raise GoneError
        self._add(message.get("body", b""), message.get("more_body", False))

    def _add(self, chunk: bytes, more: bool) -> None:
        if chunk:
            self._pool.charge(len(chunk))
            self._chunks.append(chunk)
        self._size += len(chunk)
        self.complete = not more
        if self._size > self._limit:
            raise TooLargeError(f"body: expected at most {self._limit} bytes, got more")

    def _joined(self) -> bytes:
        """What has come, copied only if it came in pieces since the last time."""
        if len(self._chunks) != 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0]


class DecodedBody(ChunkedBody):
    """A compressed body, decompressed whole.

    Args:
        body: compressed; coding: `gzip` or `deflate`.
    """

    def __init__(self, body: Body, coding: str, pool: BufferPool, limit: int) -> None:
        super().__init__(_nothing, pool, limit)
        self._body, self._coding = body, coding

    def watch(self, gone: Callable[[], None]) -> Callable[[], object]:
        return self._body.watch(gone)

    def close(self) -> None:
        super().close()
        self._body.close()

    async def _next(self) -> None:
        raw = await self._body.read_head(None)
        self._pool.charge(self._limit)  # until it is known how long it is
        try:
            data = await asyncio.to_thread(decompressed, raw, self._coding, self._limit)
        finally:
            self._pool.give(self._limit)
        self._body.close()
        self._add(data, False)


def decompressed(raw: bytes, coding: str, most: int) -> bytes:
    """Data of at most `most` bytes.

    Raises:
        EncodingError: they are not in that coding; TooLargeError.
    """
    zlib_head = len(raw) > 1 and raw[0] & 15 == 8 and not (raw[0] << 8 | raw[1]) % 31  # else bare deflate
    stream = zlib.decompressobj(31 if coding == "gzip" else 15 if zlib_head else -15)
    try:
        data = stream.decompress(raw, most + 1)
    except zlib.error:
        data = b""
    if len(data) > most:
        raise TooLargeError(f"body: expected at most {most} bytes once decompressed, got more")
    if not stream.eof or stream.unused_data:
        raise EncodingError(f"body: expected one whole stream of {coding}, got something else")
    return data


async def _nothing() -> dict[str, Any]:
    raise NotImplementedError


class Source(Protocol):
    """The connection that a large body comes by."""

    def watch(self, gone: Callable[[], None] | None) -> None:
        """As `Handle.watch`."""

    def resume(self) -> None:
        """Read on, and say so to a client that waits for it."""

    def divert(self, body: LargeBody) -> None:
        """Read the rest of a body into its `next_buffer()`, past the parser."""

    def wake_for(self, body: LargeBody) -> None:
        """Have the kernel collect the rest of a body, up to a limit, before the loop wakes."""

    def undivert(self) -> None:
        """Read through the parser again."""


class LargeBody:
    """A large body of known length. Its head comes through the parser, its data go past it into one buffer or
    straight into the query's seat.

    Attributes:
        length: by Content-Length; size: bytes that have come.
        slow: whether the client has paused, so that the kernel need not collect.
    """

    def __init__(self, source: Source, length: int) -> None:
        self._source, self.length, self.size = source, length, 0
        self.slow = False
        self._begin_s = time.monotonic()
        self._pieces: list[bytes] = []  # what came through the parser
        self._left: list[memoryview] = []  # where the rest goes
        self._pool: BufferPool | None = None
        self._memory: bytearray | None = None
        self._lost = False
        self._waiting: asyncio.Future[None] | None = None

    # What the application calls.
    def charged_to(self, pool: BufferPool) -> LargeBody:
        """This body, whose buffer is to come from `pool`."""
        self._pool = pool
        return self

    @property
    def complete(self) -> bool:
        return self.size == self.length

    async def read_head(self, count: int | None) -> bytes:
        """As `ChunkedBody.read_head`."""
        _check_head(count, self.length)
        if count is None:
            await self.buffer()
            return bytes(self._data(0))
        while self.size < count:
            _check_rate(time.monotonic() - self._begin_s, self.size)
            self._source.resume()
            try:
                await self._change()
            except TimeoutError:
                raise _slow() from None
        return (self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))[:count]

    async def buffer(self) -> None:
        """As `ChunkedBody.buffer`."""
        if self._memory is None:
            assert self._pool is not None
            self._memory = self._pool.memory(self.length)
            await self._read_into([memoryview(self._memory)[: self.length]], 0)

    async def read_data(self, start: int, request: ValidatedRequest, seat: Seat) -> Binary | BodyLayout:
        """As `ChunkedBody.read_data`; or, in the seat already, what is large of it."""
        if request.in_body_order and self._memory is None and not self.complete:
            layout = BodyLayout(request, seat.blocks)
            await self._read_into(layout.memories, start)
            return layout
        await self.buffer()
        return self._data(start)

    def watch(self, gone: Callable[[], None]) -> Callable[[], object]:
        """As `ChunkedBody.watch`."""
        self._source.watch(gone)
        return lambda: self._source.watch(None)

    def close(self) -> None:
        """Give its memory back."""
        memory, self._memory = self._memory, None
        if memory is not None and self._pool is not None:
            self._pool.put_back(memory)

    def _data(self, start: int) -> memoryview:
        assert self._memory is not None
        return memoryview(self._memory)[start : self.length]

    async def _read_into(self, memories: Sequence[memoryview], skip: int) -> None:
        """Have all but the first `skip` bytes in memories that hold as much, one after the other."""
        self._left = [m for m in memories if len(m)]
        here = memoryview(b"".join(self._pieces))[skip:]
        self._pieces = []
        while len(here):
            count = min(len(here), len(self._left[0]))
            self._left[0][:count] = here[:count]
            here = here[count:]
            self._advance(count)
        if self.complete:
            return
        self._source.divert(self)
        seen = self.size
        try:
            while not self.complete:
                try:
                    await self._change()
                except TimeoutError:
                    self.slow = True  # the kernel may hold less than what it was to wake the loop for
                    self._source.wake_for(self)
                    await asyncio.sleep(SETTLE_S)
                    if self.size == seen:
                        raise _slow() from None
                    _check_rate(time.monotonic() - self._begin_s, self.size)
                    seen = self.size
        finally:
            self._left = []
            self._source.undivert()

    async def _change(self) -> None:
        """Wait until a piece has come through the parser, or all has come past it.

        Raises:
            GoneError; TimeoutError: neither within `PAUSE_S`.
        """
        if self._lost:
            raise GoneError
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        timer = loop.call_later(PAUSE_S, _give_up, waiting)  # a fraction of what `asyncio.timeout` costs
        try:
            await waiting
        finally:
            timer.cancel()
        if self._lost:
            raise GoneError

    # What the connection calls.
    def add(self, piece: bytes) -> None:
        """A piece has come through the parser."""
        self._pieces.append(piece)
        self.size += len(piece)
        self._wake()

    def next_buffer(self) -> memoryview:
        """Where the next bytes go."""
        return self._left[0]

    def read(self, count: int) -> None:
        """`count` bytes have come past the parser."""
        self._advance(count)
        self.size += count
        if self.complete:
            self._wake()

    def lose(self) -> None:
        """The connection is lost."""
        self._lost = True
        self._wake()

    def _advance(self, count: int) -> None:
        self._left[0] = self._left[0][count:]
        if not len(self._left[0]):
            del self._left[0]

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


Body = ChunkedBody | LargeBody


def _give_up(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_exception(TimeoutError())


def _check_head(count: int | None, size: int) -> None:
    if count is not None and size < count:
        raise RequestError(f"Inference-Header-Content-Length: expected at most {size} bytes, got {count}")


def _check_rate(seconds: float, size: int) -> None:
    if seconds > PAUSE_S + size / LEAST_BYTES_PER_S:
        raise SlowError(f"body: expected {LEAST_BYTES_PER_S} bytes/s, got {size} bytes in {seconds:.3g} s")


def _slow() -> SlowError:
    return SlowError(f"body: expected the next part within {PAUSE_S:g} s, got none")
