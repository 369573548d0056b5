"""uvicorn's HTTP protocol, except that a large body goes from the socket into one piece of memory.

The usual way hands a body on in pieces, and each is copied by the loop, the parser, the connection's buffer,
the message and the join. Where a large body's length is told, only its first `HEAD_BYTES` go that way: they
hold the request's head. Then reading rests until the application has made up its mind, and what is left is
read into the application's own memory, past the parser; the parser after it is a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from deeprecsys.serve.http.incoming_body import IncomingBody

EXTENSION = "deeprecsys.asked"
"""Where a request's scope has its `RequestHandle`, among the extensions."""
LARGE_BYTES, LARGEST_BYTES = 1 << 16, 1 << 24
"""Lengths between which a body is read at once. Beyond, it takes no more memory than has come of it."""
WAKE_BYTES = 1 << 21
"""As much of a body as the kernel is to collect before it wakes us."""
HEAD_BYTES = 1 << 15
"""Read at once through the parser: a small request whole, and not much of a large one."""


class RequestHandle:
    """A request, past ASGI: an application that does not know of it is served in the usual way.

    Attributes:
        coming: its body, where that is large and of known length.
    """

    __slots__ = ("_cycle", "_wire", "coming")

    def __init__(self, wire: Connection, cycle: RequestResponseCycle, coming: IncomingBody | None) -> None:
        self._wire, self._cycle, self.coming = wire, cycle, coming

    def body(self) -> bytes | None:
        """All of a small body, if it is there and was not received before."""
        cycle = self._cycle
        if self.coming is not None or cycle.more_body or cycle.disconnected:
            return None
        self._wire.flow.resume_reading()
        cycle.message_event.clear()
        found, cycle.body = bytes(cycle.body), bytearray()
        return found

    def watch(self, gone: Callable[[], None] | None) -> None:
        """Call this as soon as the client has gone away; None ends that."""
        self._wire.gone = gone
        if gone is not None and self._cycle.disconnected:
            gone()

    def reply(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Answer with one write, for two are two system calls. The headers are trusted.

        Returns:
            whether it was done; else it is to be done in the usual way, which can wait for a slow client.
        """
        cycle, flow = self._cycle, self._wire.flow
        if cycle.disconnected or flow.write_paused:
            return False
        if (b"connection", b"close") in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        lines = [b"%s: %s\r\n" % header for header in headers]
        cycle.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


class Connection(HttpToolsProtocol):
    """One connection. What is added to uvicorn's is that each request has its `RequestHandle`."""

    gone: Callable[[], None] | None = None
    """Called when the connection is lost."""

    _coming: IncomingBody | None = None
    _diverted = False
    _low_water = 1
    _socket: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_protocol(_Reader(self))

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        length = _length(self.headers)
        if LARGE_BYTES < length <= LARGEST_BYTES and not self.pipeline and not self.parser.should_upgrade():
            self._coming = IncomingBody(self, length)
        asked = RequestHandle(self, self.cycle, self._coming)
        cast(dict[str, Any], self.scope)["extensions"] = {EXTENSION: asked}

    def on_body(self, body: bytes) -> None:
        if self._coming is None:
            super().on_body(body)
        else:
            self._coming.add(body)

    def on_message_complete(self) -> None:
        self._coming = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._coming = None  # what was not read of a body is read by the parser, and dropped
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._coming is not None and not self.transport.is_closing():
            self.flow.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        coming, self._coming = self._coming, None
        super().connection_lost(exc)
        if coming is not None:
            coming.lose()
        if self.gone is not None:
            self.gone()

    # What a `IncomingBody` asks.
    def go_on(self) -> None:
        """Read on; a client that waits to be told so is told."""
        if self.cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.cycle.waiting_for_100_continue = False
        self.flow.resume_reading()

    def divert(self, coming: IncomingBody) -> None:
        """Read the rest of a body past the parser."""
        self._diverted = True
        self.transport.set_protocol(_Rest(self, coming))
        self.wake_for(coming)
        self.go_on()

    def wake_for(self, coming: IncomingBody) -> None:
        """Let the kernel collect what is left of a body, up to a limit, before it wakes us."""
        self._set_low_water(1 if coming.slow else min(coming.length - coming.size, WAKE_BYTES))

    def rest_came(self) -> None:
        """A body that was read past the parser is complete."""
        self.take_back()
        self.parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(AttributeError):  # as uvicorn sets it; older parsers have no such method
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.on_message_complete()

    def take_back(self) -> None:
        """What comes next goes through the parser again."""
        if self._diverted:
            self._diverted, self._coming = False, None
            self._set_low_water(1)
            if not self.transport.is_closing():
                self.transport.set_protocol(_Reader(self))

    def _set_low_water(self, count: int) -> None:
        if count != self._low_water and not self.transport.is_closing():
            self._low_water = count
            if self._socket is None:  # the loop makes a new one each time that it is asked
                self._socket = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):  # then it wakes us more often
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


class _Reader(asyncio.BufferedProtocol):
    """Reads for one connection, through the parser and no more at a time than `HEAD_BYTES`; all else is the
    wire's."""

    # A loop reads into it and tells us at once, so that all connections may share it.
    _buffer = memoryview(bytearray(HEAD_BYTES))

    def __init__(self, wire: Connection) -> None:
        self._wire = wire

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._wire.data_received(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> None:
        self._wire.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire.connection_lost(exc)

    def pause_writing(self) -> None:
        self._wire.pause_writing()

    def resume_writing(self) -> None:
        self._wire.resume_writing()


class _Rest(_Reader):
    """Reads the rest of one body past the parser."""

    def __init__(self, wire: Connection, coming: IncomingBody) -> None:
        super().__init__(wire)
        self._coming = coming

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._coming.left()

    def buffer_updated(self, nbytes: int) -> None:
        self._coming.read(nbytes)
        if self._coming.complete:
            self._wire.rest_came()
        else:
            self._wire.wake_for(self._coming)


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    """What Content-Length says; 0 where it says nothing that can be counted on."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) <= 18 else 0
    return 0
