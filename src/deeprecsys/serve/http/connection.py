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
import fcntl
import functools
import inspect
import socket
import struct
import termios
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from deeprecsys.serve.http.bodies import LargeBody
from deeprecsys.serve.http.limits import (
    FIRST_S,
    HEAD_S,
    KEEP_ALIVE_S,
    LINGER_S,
    MOST_DROPPED,
    MOST_PIPELINED,
    RESERVED_CONNECTIONS,
    RESERVED_FOR,
    RESERVED_S,
    WRITE_S,
    Meter,
    Refusal,
    most_connections,
)

EXTENSION = "deeprecsys.request"
"""Key of a request's `RequestHandle` in the extensions of its scope."""
LARGE_BYTES, LARGEST_BYTES = 1 << 16, 1 << 24
"""Lengths between which a body goes past the parser. A longer one takes memory only as it comes."""
WAKE_BYTES = 1 << 21
"""How much of a body the kernel collects before the loop wakes, at most."""
HEAD_BYTES = 1 << 15
"""Read at once through the parser: a small request whole, and not much of a large one."""
GRACE_S = 30
"""How long open requests may take to end once the server stops; their own deadlines are shorter."""
CHECK_TICKS = 10
"""Interval of the checks of clients' deadlines, in uvicorn's ticks of 0.1 s."""


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

    async def reply(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer with one write, for two are two system calls, as soon as the client reads. The headers are
        not checked. Nothing is written to a connection that a limit has ended."""
        cycle, flow = self._cycle, self._connection.flow
        while flow.write_paused and not cycle.disconnected:
            await flow.drain()
        if self._connection.ending:  # uvicorn marks the last of several pipelined requests alone
            cycle.disconnected = True
        if cycle.disconnected:
            return
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
            self._connection.end()
        cycle.on_response()


def handle_of(scope: dict[str, Any]) -> RequestHandle | None:
    """A request's handle; None under plain ASGI."""
    found: RequestHandle | None = scope.get("extensions", {}).get(EXTENSION)
    return found


class Connection(HttpToolsProtocol):
    """One connection, whose requests have their `RequestHandle`, and whose client is held to limits."""

    url = b""
    _gone: Callable[[], None] | None = None
    _large: LargeBody | None = None
    _diverted = False
    _low_water = 1
    _reserved = _half_closed = _last = False
    _rest = b""  # unparsed
    _refusal: Refusal | None = None  # the last reply, after those to come
    _received_s, _dropped = 0.0, 0
    _deadline_s = _write_deadline_s = inf  # by which the client is to send something, or to read its reply

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow, self._meter = _Flow(self, transport), Meter()
        transport.set_protocol(_ParserReader(self))
        self._received_s = self.loop.time()
        self._deadline_s = self._received_s + FIRST_S
        if len(self.connections) > (most := most_connections()):
            others = (c for c in self.connections if isinstance(c, Connection) and c is not self)
            idle = sorted((c for c in others if c.idle and not c._reserved), key=Connection._precedence)
            if evicted := next((c for c in idle if c._half_closed or not c._unread), None):
                self.connections.discard(evicted)
                evicted.transport.close()
            elif len(self.connections) > most + RESERVED_CONNECTIONS:
                self.connections.discard(self)
                transport.abort()
            else:
                self._reserved, self._deadline_s = True, self._received_s + RESERVED_S

    @property
    def idle(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _precedence(self) -> tuple[bool, bool, float]:
        """Order in which idle connections give way: last those that have made a request, and are not within
        the head of another."""
        return not self._half_closed, self.cycle is not None and not self._meter.head_bytes, self._received_s

    @property
    def _unread(self) -> bool:
        """Whether something has come that was not read. A loop that was busy runs its timers before it reads,
        and a connection that is closed then resets the request that it has just been sent."""
        count = fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, b"\0\0\0\0")
        return bool(struct.unpack("i", count)[0])

    @functools.cached_property
    def _socket(self) -> Any:
        return self.transport.get_extra_info("socket")  # the loop makes a new one each time that it is asked

    @property
    def ending(self) -> bool:
        """Whether nothing may be written any more."""
        return self._half_closed or self.transport.is_closing()

    def end(self) -> None:
        """Close the connection behind its last reply. What the client is still sending is dropped first,
        up to `LINGER_S` and `MOST_DROPPED`: a reset would overtake the reply."""
        if self.ending:
            return
        if self._meter.in_head and not self._meter.head_bytes and not self._rest and not self._unread:
            return self.transport.close()
        self._half_closed, self._deadline_s = True, inf
        self.loop.call_later(LINGER_S, self.transport.abort)
        self.pipeline.clear()
        self._rest = b""
        self.transport.write_eof()
        self.flow.resume_reading()

    # Parser callbacks.
    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the parser stops here, and `data_received` goes on
        if self._reserved:
            self.app = self.config.loaded_app if self.url.startswith(RESERVED_FOR) else _full
        super().on_headers_complete()
        if self._reserved or self._last:
            self.cycle.keep_alive = False
        length, self._deadline_s = _length(self.headers), inf
        self._meter.head_ended(length)
        self.headers = []  # of trailers, which are not read
        if LARGE_BYTES < length <= LARGEST_BYTES and not self.pipeline:
            self._large = LargeBody(self, length)
        handle = RequestHandle(self, self.cycle, self._large)
        self.scope["extensions"] = {EXTENSION: handle}  # type: ignore[dict-item]

    def on_body(self, body: bytes) -> None:
        if self._meter.chunked:
            self._meter.chunk(len(body))
        else:
            self._meter.body_left -= len(body)
        if self._large is None:
            super().on_body(body)
        else:
            self._large.add(body)

    def on_message_complete(self) -> None:
        if self._meter.in_head:
            return  # an offer to upgrade
        self._large, self._deadline_s = None, inf
        self._meter.request_ended()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._large = None  # what was not read of a body is read by the parser, and dropped
        if self._half_closed:
            return
        super().on_response_complete()
        if self._rest or self._refusal or not self._meter.in_head:
            self._after_response()

    def _after_response(self) -> None:
        """Go on with what was held back behind a response."""
        if self.ending:
            return
        if self._refusal and self.idle:
            return self._refuse(*self._refusal)
        if self.idle and not self._meter.in_head:
            self._deadline_s = self.loop.time() + HEAD_S  # for the rest of its body
        if self._rest:
            rest, self._rest = self._rest, b""
            self.data_received(rest)
            self.flow.resume_reading()

    # What comes from the socket.
    def data_received(self, data: bytes | memoryview) -> None:
        """Parse in steps, as long as few requests wait."""
        if self._half_closed:
            self._dropped += len(data)
            if self._dropped > MOST_DROPPED:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        self._received_s = self.loop.time()
        if self._rest:
            self._rest += data
            return
        meter, at, end = self._meter, 0, len(data)
        while at < end:
            if self.pipeline and len(self.pipeline) >= MOST_PIPELINED:
                self._rest = bytes(data[at:])
                return self.flow.pause_reading()
            if meter.in_head and not meter.head_bytes:
                self._deadline_s = self._received_s + HEAD_S
            count = end - at
            if meter.body_left < count:
                count = meter.step(count)
            try:
                self.parser.feed_data(data[at : at + count])
            except httptools.HttpParserUpgrade as e:
                at += e.args[0]
                self._ignore_upgrade()
            except httptools.HttpParserError:
                self._refuse(400, "request: expected HTTP/1.1, got something else")
            else:
                at += count
                if meter.ended:
                    meter.ended, meter.head_bytes = False, 0
                elif meter.in_head or meter.chunked:
                    self._check(meter.parsed(count, len(self.url)))
            if self._refusal or (at < end and self.ending):
                return
        if self._large is not None and not self.ending:
            self.flow.pause_reading()

    def _check(self, refusal: Refusal | None) -> None:
        if refusal:
            self._refuse(*refusal)

    def _ignore_upgrade(self) -> None:
        """Parse a head that offers to upgrade the connection again, without the offer: it may be ignored."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            return self._refuse(405, "method: expected GET or POST, got CONNECT")
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [t.strip() for t in value.split(b",")]
                value = b",".join(t for t in tokens if t.lower() not in (b"upgrade", b"http2-settings"))
            if name not in (b"upgrade", b"http2-settings"):
                lines.append(b"%s: %s" % (name, value))
        self._new_parser()
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(AttributeError):  # as uvicorn sets it; older parsers have no such method
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _refuse(self, status: int, message: str) -> None:
        """Answer what cannot be read, after the requests before it, and close."""
        self._refusal = status, message
        within_body = not self.idle and not self._meter.in_head
        if self.idle or (within_body and not self.pipeline and not self.cycle.response_started):
            body = orjson.dumps({"error": message})
            lines = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + lines % len(body) + body)
        if self.idle or within_body:
            self.end()

    def check_deadlines(self, now_s: float) -> None:
        """Close the connection if its client is late."""
        if self.transport.is_closing():
            return
        if now_s > self._write_deadline_s:
            self.transport.abort()
        elif now_s > self._deadline_s and self.idle:
            if self._meter.in_head and self._meter.head_bytes:
                self._refuse(408, f"headers: expected all of them within {HEAD_S:g} s")
            elif not self._meter.in_head or not self._unread:
                self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing() and not self._unread:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        if self.idle and not self.ending and self._unread:
            self._last = True
            self.loop.call_later(LINGER_S, super().shutdown)  # if it is no whole request
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline_s = self.loop.time() + WRITE_S

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline_s = inf

    def connection_lost(self, exc: Exception | None) -> None:
        body, self._large = self._large, None
        super().connection_lost(exc)
        if body is not None:
            body.lose()
        if self._gone is not None:
            self._gone()

    # Calls of a request: `bodies.Source`.
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
        self._new_parser()
        self.on_message_complete()

    def _set_low_water(self, count: int) -> None:
        if count != self._low_water and not self.transport.is_closing():
            self._low_water = count
            with contextlib.suppress(OSError):  # then the loop wakes more often
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


class _Flow(FlowControl):
    """Reads nothing more while requests wait that were read already."""

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        if self.read_paused and not self._connection.pipeline and not self._connection._rest:
            super().resume_reading()


async def _full(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Refuses a request that came by a reserved connection."""
    body = orjson.dumps({"error": "the server has as many connections as it may"})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(b"retry-after", b"1"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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
        self._connection.data_received(self._buffer[:nbytes])

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
    "_unset_keepalive_if_required", "app", "config", "connections", "cycle", "flow", "headers", "loop",
    "parser", "pipeline", "scope", "server_state", "transport", "connection_made", "connection_lost",
    "data_received", "eof_received", "on_body", "on_header", "on_headers_complete", "on_message_complete",
    "on_response_complete", "on_url", "pause_writing", "resume_writing", "shutdown",
    "timeout_keep_alive_handler",
)  # fmt: skip
_CYCLE_USES = (
    "body", "disconnected", "keep_alive", "message_event", "more_body", "on_response", "response_complete",
    "response_started", "transport", "waiting_for_100_continue",
)  # fmt: skip
_FLOW_USES = ("pause_reading", "read_paused", "resume_reading", "write_paused")
_SERVER_USES = ("capture_signals", "on_tick", "serve", "server_state", "should_exit", "started")


def missing() -> list[str]:
    """Names of uvicorn's that this module uses and its version lacks; empty for a known version."""
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

    async def on_tick(self, counter: int) -> bool:
        if counter % CHECK_TICKS == 0:
            now_s = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check_deadlines(now_s)
        return await super().on_tick(counter)


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
