"""A request's body: its beginning as soon as it is there, then the rest. All bodies together are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from deeprecsys.node.service.backend import Reason, RefusedError
from deeprecsys.serve.http.connection import EXTENSION, RequestHandle
from deeprecsys.serve.http.incoming_body import IncomingBody
from deeprecsys.serve.protocol.errors import GoneError, RequestError, SlowError, TooLargeError

Receive = Callable[[], Awaitable[dict[str, Any]]]

READ_S = 20.0
"""How long a client may pause within its body."""
ROOM_BYTES = 256 << 20
"""Of all bodies that are being read at a time."""
KEPT_BYTES = 64 << 20
"""Of memory that is kept to be used again: fresh memory costs as much to touch as a copy."""
_STEP_BYTES = 1 << 18
_WASTE = 8  # times as much memory as is needed is taken where it is there already


class FullError(RefusedError):
    """There is no room for another body."""

    def __init__(self, most: int) -> None:
        super().__init__(Reason.OVERLOAD, f"bodies that are being read already take {most} bytes", 0.1)


class BufferPool:
    """The memory that bodies may take while they are read."""

    def __init__(self, most: int = ROOM_BYTES, kept: int = KEPT_BYTES) -> None:
        self.most, self.taken = most, 0
        self._kept_most, self._kept_bytes = kept, 0
        self._kept: list[bytearray] = []  # the last used at the end: it is likely to be in a cache

    def charge(self, count: int) -> None:
        """Take so many bytes of room.

        Raises:
            FullError: there is not as much left.
        """
        if self.taken + count > self.most:
            raise FullError(self.most)
        self.taken += count

    def give(self, count: int) -> None:
        self.taken -= count

    def memory(self, length: int) -> bytearray:
        """Memory of at least `length` bytes, charged until it is given to `put_back`.

        Raises:
            FullError
        """
        size = -(-length // _STEP_BYTES) * _STEP_BYTES
        for at in range(len(self._kept) - 1, -1, -1):
            if size <= len(self._kept[at]) <= _WASTE * size:
                self.charge(len(self._kept[at]))
                self._kept_bytes -= len(self._kept[at])
                return self._kept.pop(at)
        self.charge(size)
        return bytearray(size)

    def put_back(self, memory: bytearray) -> None:
        self.give(len(memory))
        if len(memory) > self._kept_most:
            return
        self._kept.append(memory)
        self._kept_bytes += len(memory)
        while self._kept_bytes > self._kept_most:
            self._kept_bytes -= len(self._kept.pop(0))


class Body(Protocol):
    """A request's body as it comes in."""

    @property
    def more(self) -> bool:
        """Whether a part of it is still to come."""

    async def first(self, count: int | None) -> bytes:
        """Its first `count` bytes, or all of it.

        Raises:
            RequestError: it has fewer, or pauses too long; TooLargeError: it has more than it may;
            FullError; GoneError.
        """

    async def rest(self, start: int) -> memoryview:
        """All that follows its first `start` bytes, until `close`; see `first` for what it raises."""

    @property
    def straight(self) -> bool:
        """Whether what is still to come can be read `into` memory of the caller's."""

    async def into(self, start: int, memories: Sequence[memoryview]) -> None:
        """Have all that follows its first `start` bytes in memories that hold as much. Only where `straight`.

        Raises:
            as `first`.
        """

    def watch(self, gone: Callable[[], None]) -> Callable[[], object]:
        """Call `gone` when the client goes away; only once the body is read. Returns what ends that."""

    def close(self) -> None:
        """Give its memory back."""


def body_of(
    scope: dict[str, Any], receive: Receive, room: BufferPool, limit: int, length: int | None
) -> Body:
    """The body of a request.

    Args:
        limit: bytes that it may have; length: as the client told it, None where it did not.

    Raises:
        TooLargeError: it is told to have more than it may.
    """
    if length is not None and length > limit:
        raise TooLargeError(f"body: expected at most {limit} bytes, got {length}")
    asked: RequestHandle | None = scope.get("extensions", {}).get(EXTENSION)
    if asked is None:
        return ChunkedBody(receive, room, limit)
    if asked.coming is None:
        return HandleChunks(receive, room, limit, asked)
    return LargeBody(asked, asked.coming, room)


class ChunkedBody:
    """A small body, or one that told no length: ASGI's messages, joined."""

    def __init__(self, receive: Receive, room: BufferPool, limit: int) -> None:
        self._receive, self._room, self._limit = receive, room, limit
        self._chunks: list[bytes] = []
        self._size = 0
        self.more = True

    async def first(self, count: int | None) -> bytes:
        while self.more and (count is None or self._size < count):
            await self._next()
        _check_head(count, self._size)
        return self._joined()[:count]

    async def rest(self, start: int) -> memoryview:
        while self.more:
            await self._next()
        return memoryview(self._joined())[start:]

    def close(self) -> None:
        self._room.give(self._size)
        self._size, self._chunks = 0, []

    straight = False

    async def into(self, start: int, memories: Sequence[memoryview]) -> None:
        raise NotImplementedError

    def watch(self, gone: Callable[[], None]) -> Callable[[], object]:
        async def wait() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone()

        return asyncio.ensure_future(wait()).cancel

    async def _next(self) -> None:
        try:
            async with asyncio.timeout(READ_S):
                message = await self._receive()
        except TimeoutError:
            raise _slow() from None
        if message["type"] == "http.disconnect":
            raise GoneError
        self._add(message.get("body", b""), message.get("more_body", False))

    def _add(self, chunk: bytes, more: bool) -> None:
        if chunk:
            self._room.charge(len(chunk))
            self._chunks.append(chunk)
        self._size += len(chunk)
        self.more = more
        if self._size > self._limit:
            raise TooLargeError(f"body: expected at most {self._limit} bytes, got more")

    def _joined(self) -> bytes:
        """What is there, copied only if it came in pieces since the last time."""
        if len(self._chunks) != 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0]


class HandleChunks(ChunkedBody):
    """The same, of a request that is known past ASGI: what is there already costs no wait."""

    def __init__(self, receive: Receive, room: BufferPool, limit: int, asked: RequestHandle) -> None:
        super().__init__(receive, room, limit)
        self._asked = asked

    def watch(self, gone: Callable[[], None]) -> Callable[[], object]:
        self._asked.watch(gone)
        return lambda: self._asked.watch(None)

    async def _next(self) -> None:
        whole = self._asked.body() if not self._chunks else None
        if whole is None:
            await super()._next()
        else:
            self._add(whole, False)


class LargeBody:
    """A large body of known length, read into memory of our own."""

    def __init__(self, asked: RequestHandle, coming: IncomingBody, room: BufferPool) -> None:
        self._asked, self._coming, self._room = asked, coming, room
        self._memory: bytearray | None = None

    def watch(self, gone: Callable[[], None]) -> Callable[[], object]:
        self._asked.watch(gone)
        return lambda: self._asked.watch(None)

    @property
    def more(self) -> bool:
        return not self._coming.complete

    async def first(self, count: int | None) -> bytes:
        coming = self._coming
        _check_head(count, coming.length)
        if count is None:
            return bytes(await self.rest(0))
        try:
            while coming.size < count:
                await coming.next(READ_S)
        except TimeoutError:
            raise _slow() from None
        pieces = coming.pieces
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces))[:count]

    async def rest(self, start: int) -> memoryview:
        length = self._coming.length
        if self._memory is None:
            self._memory = self._room.memory(length)
            try:
                await self._coming.into([memoryview(self._memory)[:length]], READ_S)
            except TimeoutError:
                raise _slow() from None
        return memoryview(self._memory)[start:length]

    @property
    def straight(self) -> bool:
        return self._memory is None and not self._coming.complete

    async def into(self, start: int, memories: Sequence[memoryview]) -> None:
        try:
            await self._coming.into(memories, READ_S, start)
        except TimeoutError:
            raise _slow() from None

    def close(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            self._room.put_back(memory)


def _check_head(count: int | None, size: int) -> None:
    if count is not None and size < count:
        raise RequestError(f"Inference-Header-Content-Length: expected at most {size} bytes, got {count}")


def _slow() -> SlowError:
    return SlowError(f"body: expected the next part within {READ_S:g} s, got none")
