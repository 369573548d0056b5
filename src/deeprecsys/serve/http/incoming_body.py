"""A large request body on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from deeprecsys.serve.protocol.errors import GoneError

SETTLE_S = 0.05


class Source(Protocol):
    """The connection that a body comes by."""

    def go_on(self) -> None:
        """Read on; a client that waits to be told so is told."""

    def divert(self, coming: IncomingBody) -> None:
        """Read the rest of a body into `coming.left()`, past the parser."""

    def wake_for(self, coming: IncomingBody) -> None:
        """Let the kernel collect what is left of a body, up to a limit, before it wakes us."""

    def take_back(self) -> None:
        """What comes next goes through the parser again."""


class IncomingBody:
    """A large body of known length on its way.

    Attributes:
        length: as the client told it.
        size: bytes that are here, in `pieces` or in the memories given to `into`.
        slow: whether its client has paused, so that nothing is left for the kernel to collect.
    """

    def __init__(self, source: Source, length: int) -> None:
        self._source, self.length, self.size = source, length, 0
        self.pieces: list[bytes] = []
        self._left: list[memoryview] = []
        self._lost = False
        self.slow = False
        self._waiting: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        return self.size == self.length

    async def next(self, patience_s: float) -> None:
        """Wait for another piece.

        Raises:
            GoneError; TimeoutError: none came.
        """
        self._source.go_on()
        await self._change(patience_s)

    async def into(self, memories: Sequence[memoryview], patience_s: float, skip: int = 0) -> None:
        """Have all of the body but its first `skip` bytes in memories that hold as much, one after the other.

        Raises:
            GoneError; TimeoutError: nothing has come for so long.
        """
        self._left = [m for m in memories if len(m)]
        here = memoryview(b"".join(self.pieces))[skip:]
        self.pieces = []
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
                    await self._change(patience_s)
                except TimeoutError:
                    self.slow = True  # the kernel may hold what is not enough to wake us
                    self._source.wake_for(self)
                    await asyncio.sleep(SETTLE_S)
                    if self.size == seen:
                        raise
                    seen = self.size
        finally:
            self._left = []
            self._source.take_back()

    async def _change(self, patience_s: float) -> None:
        if self._lost:
            raise GoneError
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        timer = loop.call_later(patience_s, _give_up, waiting)  # a fraction of what `asyncio.timeout` costs
        try:
            await waiting
        finally:
            timer.cancel()
        if self._lost:
            raise GoneError

    def add(self, piece: bytes) -> None:
        """A piece came through the parser."""
        self.pieces.append(piece)
        self.size += len(piece)
        self.wake()

    def left(self) -> memoryview:
        """Where the next bytes go."""
        return self._left[0]

    def read(self, count: int) -> None:
        """So many bytes came past the parser."""
        self._advance(count)
        self.size += count
        if self.complete:
            self.wake()

    def _advance(self, count: int) -> None:
        self._left[0] = self._left[0][count:]
        if not len(self._left[0]):
            del self._left[0]

    def lose(self) -> None:
        self._lost = True
        self.wake()

    def wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _give_up(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_exception(TimeoutError())
