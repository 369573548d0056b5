"""A small HTTP client for load: one kept-alive connection for each open request."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import httptools

from deeprecsys.serve.addresses import authority


@dataclass(slots=True)
class Response:
    """A server's response; header names are in lower case."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class ConnectionPool:
    """Connections to one server. Idle ones are used again, the last used first."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: deque[_Connection] = deque()
        self._all: set[_Connection] = set()

    async def request(self, method: str, path: str, body: bytes = b"", *headers: tuple[str, str]) -> Response:
        """Send a request and await its response.

        Raises:
            OSError: the server cannot be reached, or closed the connection.
        """
        lines = [f"{method} {path} HTTP/1.1", f"Host: {authority(self._host, self._port)}"]
        lines += [f"{name}: {value}" for name, value in (*headers, ("Content-Length", str(len(body))))]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        connection = await self._connection()
        try:
            return await connection.exchange(head + body)
        finally:
            if connection.usable:
                self._idle.append(connection)
            else:
                self._all.discard(connection)

    async def open(self, count: int) -> None:
        """Have `count` idle connections, so that the first requests need not wait for theirs."""
        made = await asyncio.gather(*(self._connect() for _ in range(count - len(self._idle))))
        self._idle.extend(made)

    def close(self) -> None:
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._idle.clear()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._all.discard(connection)
        return await self._connect()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        self._all.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time; `httptools` calls its `on_` methods as it reads the response."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Response] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._response = Response()
        self._body: list[bytes] = []

    @property
    def usable(self) -> bool:
        """Whether it is open and idle."""
        return self._transport is not None and not self._transport.is_closing() and self._waiting is None

    async def exchange(self, request: bytes) -> Response:
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._response, self._body = Response(), []
        self._transport.write(request)
        try:
            return await self._waiting
        except asyncio.CancelledError:
            self.close()  # its answer may still come
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one but in name

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as e:
            self._fail(ConnectionError(f"not an HTTP response: {e}"))
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._response.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._response.status = self._parser.get_status_code()
        self._response.body = b"".join(self._body)
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._response)

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
