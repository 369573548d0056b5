"""What clients may claim of the server, however they behave."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from types import SimpleNamespace

import orjson
import pytest
import uvloop

from deeprecsys.serve.http import bodies, connection, limits
from tests.serve import test_wire as wire
from tests.serve.bodies import arrays, binary_body, json_body
from tests.serve.conftest import Running, start
from tests.serve.stand_in import FLAT, StandIn
from tests.serve.test_http import wait_for

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CHECK_TICKS", 1)


@pytest.fixture
def client(running: Running) -> Iterator[wire.Client]:
    with closing(wire.connect(running)) as found:
        yield found


def closed(client: wire.Client) -> bool:
    """Whether the server closes the connection; drops what it says before."""
    with suppress(ConnectionResetError):
        while client.recv(1 << 16):
            pass
    return True


def post(body: bytes, *more: bytes) -> bytes:
    lines = [b"POST /v2/models/flat/infer HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join([*lines, b"", b""]) + body


def trickle(client: wire.Client, data: bytes, every_s: float = 0.02) -> bool:
    """Send a byte now and then until the server has closed the connection, or all is sent."""
    client.socket.settimeout(every_s)
    for at in range(len(data)):
        try:
            client.sendall(data[at : at + 1])
            if not client.socket.recv(1 << 16, socket.MSG_PEEK):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
        else:  # a reply has come
            client.socket.settimeout(30)
            return True
    return False


def test_a_connection_without_a_request_is_closed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_S", 0.2)
    with closing(wire.connect(running)) as client:
        assert closed(client)


def test_half_a_head_is_given_up_however_it_comes(
    client: wire.Client, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    client.sendall(LIVE[:30])
    assert client.answer()[0] == 408
    assert closed(client)
    with closing(wire.connect(running)) as slow:
        assert trickle(slow, b"GET / HTTP/1.1\r\nA: " + b"x" * 1000)
        assert slow.answer()[0] == 408
    with closing(wire.connect(running)) as second:  # after a request that was answered
        second.sendall(LIVE + LIVE[:30])
        assert second.answer()[0] == 200
        assert trickle(second, LIVE[30:35] + b"x" * 1000)


@pytest.mark.parametrize(
    "length", [b"Content-Length: 70000", b"Transfer-Encoding: chunked", b"Content-Length: 99"]
)
def test_a_body_must_keep_a_least_rate(
    client: wire.Client, running: Running, monkeypatch: pytest.MonkeyPatch, length: bytes
) -> None:
    monkeypatch.setattr(bodies, "PAUSE_S", 0.3)
    monkeypatch.setattr(bodies, "LEAST_BYTES_PER_S", 1000)
    client.sendall(b"POST /v2/models/flat/infer HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
    assert trickle(client, b"1\r\n{\r\n" * 200 if b"chunked" in length else b" " * 1000)
    assert client.answer()[0] == 408
    assert closed(client)
    assert running.backend.open == 0


def test_a_body_that_nobody_reads_must_end(client: wire.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    client.sendall(b"POST /v2/models/none/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    assert client.answer()[0] == 404
    assert trickle(client, b" " * 900)


def test_a_reply_that_is_not_read_ends_the_connection(
    running: Running, client: wire.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WRITE_S", 0.3)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.socket.setblocking(False)
    end = time.monotonic() + 30
    with suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() < end:
            with suppress(BlockingIOError):
                client.socket.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            time.sleep(0.05)
        pytest.fail("the connection is still open")


def test_an_idle_connection_gives_way_to_a_new_one(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "most_connections", lambda: 3)
    first = [wire.connect(running) for _ in range(3)]
    for s in reversed(first):  # the last of them is idle for longest
        s.sendall(LIVE)
        assert s.answer()[0] == 200
    with closing(wire.connect(running)) as s:
        s.sendall(LIVE)
        assert s.answer()[0] == 200
    assert closed(first[-1])
    first[0].sendall(LIVE)
    assert first[0].answer()[0] == 200
    for s in first:
        s.close()


def test_connections_without_a_whole_request_give_way_before_others(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "most_connections", lambda: 3)
    kept, silent, half = first = [wire.connect(running) for _ in range(3)]
    for s in (kept, half):
        s.sendall(LIVE)
        assert s.answer()[0] == 200
    half.sendall(LIVE[:20])
    new = [wire.connect(running) for _ in range(2)]
    for s, victim in zip(new, (silent, half), strict=True):
        s.sendall(LIVE)
        assert s.answer()[0] == 200
        assert closed(victim)
    kept.sendall(LIVE)  # idle for longest
    assert kept.answer()[0] == 200
    for s in (*first, *new):
        s.close()


@contextmanager
def busy(running: Running, seconds: float) -> Iterator[None]:
    """The server's event loop does something else for a while."""
    running.loop.call_soon_threadsafe(time.sleep, seconds)
    time.sleep(0.1)
    yield


def asked_once(running: Running) -> wire.Client:
    found = wire.connect(running)
    found.sendall(LIVE)
    assert found.answer()[0] == 200
    return found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server on uvloop, whose timers go before what has come, with a short keep-alive."""
    monkeypatch.setattr(connection, "KEEP_ALIVE_S", 0.8)
    found = start(StandIn.of(), uvloop.run)
    yield found
    found.end()


def test_a_connection_is_not_closed_on_a_request_that_was_not_read_yet(
    impatient: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutdown = connection.Connection.shutdown

    def late_shutdown(c: connection.Connection) -> None:
        late.sendall(LIVE)
        time.sleep(0.1)
        shutdown(c)

    with closing(asked_once(impatient)) as late:
        with busy(impatient, 1.0):
            late.sendall(LIVE)
        assert late.answer()[0] == 200
        monkeypatch.setattr(connection.Connection, "shutdown", late_shutdown)
        impatient.end()
        status, headers, _ = late.answer()
        assert (status, headers.get("connection")) == (200, "close")
        assert closed(late)


def test_half_a_request_does_not_hold_up_the_servers_end(
    impatient: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.2)
    shutdown = connection.Connection.shutdown

    def late_shutdown(c: connection.Connection) -> None:
        half.sendall(LIVE[:30])
        time.sleep(0.1)
        shutdown(c)

    monkeypatch.setattr(connection.Connection, "shutdown", late_shutdown)
    with closing(asked_once(impatient)) as half:
        impatient.end()
        assert not impatient.thread.is_alive()


def test_no_connection_gives_way_whose_request_was_not_read_yet(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = connection.Connection.connection_made

    def late_made(c: connection.Connection, transport: asyncio.Transport) -> None:
        longest.sendall(LIVE)
        time.sleep(0.1)
        made(c, transport)

    monkeypatch.setattr(connection, "most_connections", lambda: 2)
    with closing(asked_once(running)) as longest, closing(asked_once(running)) as other:
        monkeypatch.setattr(connection.Connection, "connection_made", late_made)
        with closing(wire.connect(running)):
            assert longest.answer()[0] == 200
            assert closed(other)


def test_a_reply_reaches_a_client_that_is_still_sending(client: wire.Client) -> None:
    length = 64 << 20
    client.sendall(b"POST /v2/models/flat/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
    for _ in range(20):
        client.sendall(b"x" * (1 << 18))
        time.sleep(0.005)
    assert client.answer()[0] == 413
    assert closed(client)


def test_connections_that_are_all_busy_leave_room_for_health_checks(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "most_connections", lambda: 3)
    monkeypatch.setattr(connection, "RESERVED_CONNECTIONS", 2)
    running.backend.delay_s = 60
    body = json_body(arrays(FLAT, 1))
    busy = [wire.connect(running) for _ in range(3)]
    for s in busy:
        s.sendall(post(body))
    wait_for(lambda: running.backend.open == 3)
    with closing(wire.connect(running)) as health, closing(wire.connect(running)) as other:
        with closing(wire.connect(running)) as s:
            assert closed(s)  # more than there are reserved
        health.sendall(LIVE)
        assert health.answer()[0] == 200
        assert closed(health)
        other.sendall(post(body))
        status, headers, text = other.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert b"as many connections as it may" in text
        assert closed(other)
    with closing(wire.connect(running)) as s:
        s.sendall(LIVE)
        assert s.answer()[0] == 200
    for s in busy:
        s.close()
    wait_for(lambda: running.backend.open == 0)


def test_requests_sent_without_waiting_are_all_answered_in_little_memory(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    begin = connection.Connection.on_headers_complete

    def counted(self: connection.Connection) -> None:
        nonlocal most
        begin(self)
        most = max(most, len(self.pipeline))
        assert len(self._rest) <= connection.HEAD_BYTES

    monkeypatch.setattr(connection.Connection, "on_headers_complete", counted)
    count = 4000
    small = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
    with closing(wire.connect(running)) as client, closing(wire.connect(running)) as other:
        client.socket.settimeout(60)
        for _ in range(4):
            client.sendall(small * (count // 4))
            for _ in range(count // 4):
                assert client.answer()[0] == 200
        other.sendall(LIVE)
        assert other.answer()[0] == 200
    assert 1 <= most <= limits.MOST_PIPELINED + 1024 // len(small) + 1


def test_heads_are_limited(running: Running) -> None:
    for head, status in (
        (b"GET /" + b"x" * 100_000, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: x\r\n" * 20_000, 431),
        (b"GET /" + b"x" * 8000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 30_000 + b"\r\n\r\n", 200),
        (b"BREW / HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\n\r\n", 405),
    ):
        with closing(wire.connect(running)) as s:
            with suppress(OSError):
                s.sendall(head)
            found, _, body = s.answer()
            assert found == status
            if status not in (200, 404):
                assert list(orjson.loads(body)) == ["error"]
                assert closed(s)


CHUNKED = b"POST /v2/models/flat/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"1;", b"x" * 4000),
        (b"", b"1;" + b"a" * 30 + b"\r\n \r\n"),
        (b"0\r\nA: ", b"x" * 4000),
        (b"0\r\n", b"A: x\r\n" * 600),
    ],
    ids=["one-extension", "extensions", "one-trailer", "trailers"],
)
def test_what_frames_a_chunked_body_is_limited(
    client: wire.Client, running: Running, begin: bytes, more: bytes
) -> None:
    client.sendall(CHUNKED + begin)
    for _ in range(20_000):
        client.sendall(more)
        if select.select([client.socket], [], [], 0)[0]:
            break
    else:
        pytest.fail("all of it was taken")
    assert client.answer()[0] == 400
    with suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(20_000):
            client.sendall(b"x" * 4000)
        pytest.fail("all of it was dropped")
    wait_for(lambda: wire.asked(running) == 0)
    assert running.backend.open == 0


def test_trailers_are_no_headers(client: wire.Client) -> None:
    body = json_body(arrays(FLAT, 1))
    client.sendall(CHUNKED + b"%x;a=b\r\n%s\r\n0\r\nContent-Encoding: br\r\n\r\n" % (len(body), body))
    assert client.answer()[0] == 200


@pytest.mark.parametrize("tokens", [b"Upgrade, HTTP2-Settings", b"Upgrade", b"keep-alive, Upgrade"])
@pytest.mark.parametrize("split", [0, 40, 150])
def test_an_offer_to_upgrade_is_ignored_and_the_request_answered(
    client: wire.Client, caplog: pytest.LogCaptureFixture, tokens: bytes, split: int
) -> None:
    offer = (b"Connection: " + tokens, b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")
    request = post(json_body(arrays(FLAT, 2)), *offer) + LIVE
    with caplog.at_level(logging.DEBUG):
        client.sendall(request[:split])
        if split:
            time.sleep(0.05)
        client.sendall(request[split:])
        status, _, body = client.answer()
        assert (status, orjson.loads(body)["outputs"][0]["shape"]) == (200, [2, 1])
        assert client.answer()[0] == 200  # and the connection serves on
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


def test_the_tail_of_a_head_that_was_read_before_is_no_head(client: wire.Client) -> None:
    head, raw = binary_body(arrays(FLAT, 1), id="secret-of-another")
    header = b"Inference-Header-Content-Length: "
    client.sendall(post(head + raw, header + b"%d" % len(head)))
    assert client.answer()[0] == 200
    tail = head[len(b'{"id":"secret-of-another') :]
    client.sendall(post(tail + raw, header + b"%d" % len(tail)))
    status, _, body = client.answer()
    assert status == 400
    assert b"secret" not in body


@pytest.mark.parametrize("paused", [False, True], ids=["at once", "while it waited for its client to read"])
def test_a_reply_to_a_connection_that_a_limit_has_ended_is_dropped(paused: bool) -> None:
    """Writing to the closed transport would raise."""
    cycle = SimpleNamespace(disconnected=False)  # its transport has no `write`
    flow = SimpleNamespace(write_paused=paused)
    ended = SimpleNamespace(flow=flow, ending=not paused)

    async def drain() -> None:
        flow.write_paused, ended.ending = False, True

    flow.drain = drain
    handle = connection.RequestHandle(ended, cycle, None)  # type: ignore[arg-type]
    asyncio.run(handle.reply(200, [], b""))
    assert cycle.disconnected, "uvicorn then adds no answer of its own"
