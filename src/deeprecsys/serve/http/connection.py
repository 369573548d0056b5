"""The HTTP server: uvicorn, and all that this package does to its private protocol classes.

ASGI hands a body on in pieces, and each is copied by the loop, the parser, the connection's buffer, the
message and the join. Here a large body of known length goes through the parser only for its first
`HEAD_BYTES`, which hold the request's head. Then reading rests until the application has decided, and what is
left goes past the parser into the application's own memory; the parser after it is a new one. Small requests
are handed over and answered without ASGI's messages. An application finds all this in its `RequestHandle`;
one that does not look for it works without, and so does a server of plain ASGI (`plain_asgi`).

`missing()` lists what of uvicorn's classes is used here and is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from deeprecsys.serve.http.bodies import LargeBody

EXTENSION = "deeprecsys.request"
"""Key of a request's `RequestHandle` in the extensions of its scope."""
LARGE_BYTES, LARGEST_BYTES = 1 << 16, 1 << 24
"""Lengths between which a body goes past the parser. A longer one takes memory only as it comes."""
WAKE_BYTES = 1 << 21
"""How much of a body the kernel collects before the loop wakes, at most."""
HEAD_BYTES = 1 << 15
"""Read at once through the parser: a small request whole, and not much of a large one."""
KEEP_ALIVE_S = 75
GRACE_S = 30
"""How long open requests may take to end once the server stops; their own deadlines are shorter."""


class RequestHandle:
    """A request past ASGI.

    Attributes:
        large: its body, where that is large and of known length.
    """

    __slots__ = ("_connection", "_cycle", "large")

    def __init__(self, connection: Connection, cycle: RequestResponseCycle, large: LargeBody | None) -> None:
        self._connection, self._cycle, self.large = connection, cycle, large

    def whole_body(self) -> bytes | None:
        """All of a small body that has come and was not received yet; else None."""
        cycle = self._cycle
        if self.large is not None or cycle.more_body or cycle.disconnected:
            return None
        self._connection.flow.resume_reading()
        cycle.message_event.clear()
        found, cycle.body = bytes(cycle.body), bytearray()
        return found

    def watch(self, gone: Callable[[], None] | None) -> None:
        """Call `gone` as soon as the client has gone away; None ends that."""
        self._connection.watch(gone)
        if gone is not None and self._cycle.disconnected:
            gone()

    def reply(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Answer with one write, for two are two system calls. The headers are not checked.

        Returns:
            whether it was done; else it is to be done by ASGI, which can wait for a slow client.
        """
        cycle, flow = self._cycle, self._connection.flow
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


def handle_of(scope: dict[str, Any]) -> RequestHandle | None:
    """A request's handle; None under plain ASGI."""
    found: RequestHandle | None = scope.get("extensions", {}).get(EXTENSION)
    return found


class Connection(HttpToolsProtocol):
    """One connection, whose requests have their `RequestHandle`."""

    _gone: Callable[[], None] | None = None
    _large: LargeBody | None = None
    _diverted = False
    _low_water = 1
    _socket: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_protocol(_ParserReader(self))

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        length = _length(self.headers)
        if LARGE_BYTES < length <= LARGEST_BYTES and not self.pipeline and not self.parser.should_upgrade():
            self._large = LargeBody(self, length)
        handle = RequestHandle(self, self.cycle, self._large)
        cast(dict[str, Any], self.scope)["extensions"] = {EXTENSION: handle}

    def on_body(self, body: bytes) -> None:
        if self._large is None:
            super().on_body(body)
        else:
            self._large.add(body)

    def on_message_complete(self) -> None:
        self._large = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._large = None  # what was not read of a body is read by the parser, and dropped
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._large is not None and not self.transport.is_closing():
            self.flow.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        body, self._large = self._large, None
        super().connection_lost(exc)
        if body is not None:
            body.lose()
        if self._gone is not None:
            self._gone()

    # What a request asks: `bodies.Source`.
    def watch(self, gone: Callable[[], None] | None) -> None:
        self._gone = gone

    def resume(self) -> None:
        if self.cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.cycle.waiting_for_100_continue = False
        self.flow.resume_reading()

    def divert(self, body: LargeBody) -> None:
        self._diverted = True
        self.transport.set_protocol(_BodyReader(self, body))
        self.wake_for(body)
        self.resume()

    def wake_for(self, body: LargeBody) -> None:
        self._set_low_water(1 if body.slow else min(body.length - body.size, WAKE_BYTES))

    def undivert(self) -> None:
        if self._diverted:
            self._diverted, self._large = False, None
            self._set_low_water(1)
            if not self.transport.is_closing():
                self.transport.set_protocol(_ParserReader(self))

    def body_complete(self) -> None:
        """A body that was read past the parser is complete."""
        self.undivert()
        self.parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(AttributeError):  # as uvicorn sets it; older parsers have no such method
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.on_message_complete()

    def _set_low_water(self, count: int) -> None:
        if count != self._low_water and not self.transport.is_closing():
            self._low_water = count
            if self._socket is None:  # the loop makes a new one each time that it is asked
                self._socket = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):  # then the loop wakes more often
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


class _ParserReader(asyncio.BufferedProtocol):
    """Reads for one connection, through the parser and at most `HEAD_BYTES` at a time; all else is the
    connection's."""

    # A loop reads into it and calls `buffer_updated` at once, so that all connections may share it.
    _buffer = memoryview(bytearray(HEAD_BYTES))

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> None:
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


class _BodyReader(_ParserReader):
    """Reads the rest of one body past the parser."""

    def __init__(self, connection: Connection, body: LargeBody) -> None:
        super().__init__(connection)
        self._body = body

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._body.next_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._body.read(nbytes)
        if self._body.complete:
            self._connection.body_complete()
        else:
            self._connection.wake_for(self._body)


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    """Content-Length; 0 where it is missing or no length."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) <= 18 else 0
    return 0


# What is used of uvicorn beyond its documentation.
_CONNECTION_USES = (
    "app", "config", "cycle", "flow", "headers", "loop", "parser", "pipeline", "scope", "server_state",
    "transport", "connection_made", "connection_lost", "data_received", "eof_received", "on_body",
    "on_headers_complete", "on_message_complete", "on_response_complete", "pause_writing", "resume_writing",
)  # fmt: skip
_CYCLE_USES = (
    "body", "disconnected", "keep_alive", "message_event", "more_body", "on_response", "response_complete",
    "response_started", "transport", "waiting_for_100_continue",
)  # fmt: skip
_FLOW_USES = ("pause_reading", "resume_reading", "write_paused")
_SERVER_USES = ("capture_signals", "serve", "server_state", "should_exit", "started")


def missing() -> list[str]:
    """Names of uvicorn's that this module uses and its version lacks; empty for a version that is known."""
    found = []
    for of, names in (
        (HttpToolsProtocol, _CONNECTION_USES),
        (RequestResponseCycle, _CYCLE_USES),
        (FlowControl, _FLOW_USES),
        (uvicorn.Server, _SERVER_USES),
    ):
        assigned = inspect.getsource(of.__init__)
        found += [f"{of.__name__}.{n}" for n in names if not hasattr(of, n) and f"self.{n}" not in assigned]
    return found


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(app: Any, plain_asgi: bool = False) -> uvicorn.Server:
    """A server of an ASGI application.

    Args:
        plain_asgi: leave uvicorn's protocol as it is: slower, and without this module's limits.
    """
    return _Server(
        uvicorn.Config(
            app,
            http="httptools" if plain_asgi else Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
