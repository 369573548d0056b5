"""Bodies as they come over a socket: in one piece, split anywhere, chunked, too slow, never to their end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
import uvloop

from deeprecsys.node.service.backend import Reason
from deeprecsys.serve.http import app as http
from deeprecsys.serve.http import bodies, connection
from deeprecsys.serve.http.connection import LARGE_BYTES
from deeprecsys.serve.memory import BufferPool, FullError
from deeprecsys.zoo.schema import DenseInput, Schema, SparseInput, Table
from tests.serve.bodies import arrays, binary_body, json_body
from tests.serve.conftest import Running, start
from tests.serve.stand_in import MAX_ITEMS, StandIn, expected_scores
from tests.serve.test_http import wait_for

WIDE = Schema(  # what is large of it goes straight into a place; what is before and after it is not
    tables=(Table("ads", 1000, 4),),
    inputs=(
        SparseInput("one", "ads"),
        SparseInput("two", "ads"),
        DenseInput("dense", 6000),
        SparseInput("ad", "ads"),
    ),
)
PATH = "/v2/models/wide/infer"


@pytest.fixture(scope="module", params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def served_wide(request: pytest.FixtureRequest) -> Iterator[Running]:
    found = start(StandIn.of(wide=WIDE), request.param)
    yield found
    found.end()
    assert not found.thread.is_alive()


@pytest.fixture
def wide(served_wide: Running) -> Iterator[Running]:
    yield served_wide
    b = served_wide.backend
    b.refuse = None
    assert b.open == 0


@pytest.fixture(params=[8, 0], ids=["into-place", "into-memory"])
def places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many bodies may be read into places of queries; the others get memory of their own first."""
    monkeypatch.setattr(http, "MOST_READING", request.param)
    return int(request.param)


class Client:
    """A connection, by hand."""

    def __init__(self, running: Running) -> None:
        host, port = running.http.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self._file = self.socket.makefile("rb")
        self.sendall, self.recv = self.socket.sendall, self._file.read1

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        status = int(self._file.readline().split()[1])
        lines = iter(lambda: self._file.readline().strip().decode(), "")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return status, headers, self._file.read(int(headers["content-length"]))

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def connect(running: Running) -> Client:
    return Client(running)


def query(items: int = MAX_ITEMS) -> tuple[bytes, bytes, np.ndarray]:
    """JSON part, binary part, and the scores to be expected; the whole is large."""
    given = arrays(WIDE, items)
    head, raw = binary_body(given, parameters={"binary_data_output": True})
    return head, raw, expected_scores(WIDE, given, items)


def request(head: bytes, raw: bytes, *more: str, version: str = "1.1") -> bytes:
    lines = [f"POST {PATH} HTTP/{version}", "Host: x", f"Content-Length: {len(head) + len(raw)}",
             f"Inference-Header-Content-Length: {len(head)}", *more]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


def check(found: tuple[int, dict[str, str], bytes], scores: np.ndarray) -> None:
    status, headers, body = found
    assert status == 200, body
    at = int(headers["inference-header-content-length"])
    np.testing.assert_allclose(np.frombuffer(body[at:], "<f4"), scores.ravel(), rtol=1e-5)


@pytest.mark.parametrize("pieces", [1, 2, 3, 100])
def test_a_large_body_however_it_is_split(wide: Running, places: int, pieces: int) -> None:
    head, raw, scores = query()
    assert len(raw) > 10 * LARGE_BYTES
    whole = request(head, raw) + head + raw
    cuts = [len(whole) * k // pieces for k in range(pieces + 1)]
    with closing(connect(wide)) as s:
        for _ in range(2):  # a connection serves on after it
            for a, b in pairwise(cuts):
                s.sendall(whole[a:b])
            check(s.answer(), scores)


@pytest.mark.parametrize("gap", [10, 60, 200, 2000, 70_000])
def test_a_pause_in_headers_head_or_data(wide: Running, gap: int) -> None:
    head, raw, scores = query()
    whole = request(head, raw) + head + raw
    with closing(connect(wide)) as s:
        s.sendall(whole[:gap])
        with closing(connect(wide)) as other:  # it holds nobody up
            small, few, fewer = query(1)
            other.sendall(request(small, few) + small + few)
            check(other.answer(), fewer)
        s.sendall(whole[gap:])
        check(s.answer(), scores)


def test_requests_that_follow_a_large_one_without_waiting(wide: Running) -> None:
    head, raw, scores = query()
    small, few, fewer = query(1)
    with closing(connect(wide)) as s:
        s.sendall((request(head, raw) + head + raw + request(small, few) + small + few) * 2)
        for expected in (scores, fewer) * 2:
            check(s.answer(), expected)


def test_chunked_bodies_of_any_size(wide: Running) -> None:
    for items in (1, MAX_ITEMS):
        head, raw, scores = query(items)
        whole = head + raw
        lines = request(head, raw).replace(
            b"Content-Length: %d\r\n" % len(whole), b"Transfer-Encoding: chunked\r\n", 1
        )
        with closing(connect(wide)) as s:
            s.sendall(lines)
            for at in range(0, len(whole), 50_000):
                part = whole[at : at + 50_000]
                s.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            s.sendall(b"0\r\n\r\n")
            check(s.answer(), scores)


def test_a_client_that_asks_before_it_sends_a_large_body(wide: Running) -> None:
    head, raw, scores = query()
    with closing(connect(wide)) as s:
        s.sendall(request(head, raw, "Expect: 100-continue"))
        said = s.recv(1 << 16)
        assert said == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(head + raw)
        check(s.answer(), scores)


@pytest.mark.parametrize(("version", "more"), [("1.0", ()), ("1.1", ("Connection: close",))])
def test_the_connection_ends_where_the_client_wants_it(
    wide: Running, version: str, more: tuple[str, ...]
) -> None:
    head, raw, scores = query()
    with closing(connect(wide)) as s:
        s.sendall(request(head, raw, *more, version=version) + head + raw)
        check(s.answer(), scores)
        assert s.recv(1) == b""


def test_a_large_body_of_json(wide: Running) -> None:
    given = arrays(WIDE, MAX_ITEMS)
    text = json_body(given)
    lines = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n"
    with closing(connect(wide)) as s:
        s.sendall(lines.encode() + text)
        status, _, body = s.answer()
        assert status == 200
        found = orjson.loads(body)["outputs"][0]["data"]
        np.testing.assert_allclose(found, expected_scores(WIDE, given, MAX_ITEMS).ravel(), rtol=1e-4)


def test_a_body_too_long_to_be_read_at_once_comes_in_pieces(
    wide: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LARGEST_BYTES", 1_000_000)
    monkeypatch.setattr(BufferPool, "memory", None)  # nothing else may ask for it
    head, raw, scores = query()
    assert len(raw) > 1_000_000
    with closing(connect(wide)) as s:
        s.sendall(request(head, raw) + head + raw)
        check(s.answer(), scores)


def test_a_query_refused_by_its_head_leaves_the_connection_in_order(wide: Running) -> None:
    head, raw, scores = query()
    with closing(connect(wide)) as s:
        wide.backend.refuse = Reason.LATE
        s.sendall(request(head, raw) + head + raw)
        assert s.answer()[0] == 503
        wide.backend.refuse = None
        s.sendall(request(head, raw) + head + raw)
        check(s.answer(), scores)


@pytest.mark.parametrize("sent", [0, 100, 70_000, 300_000])
def test_a_client_that_prefers_accelerator_within_its_body_leaves_nothing(
    wide: Running, sent: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = watched(monkeypatch)
    head, raw, _ = query()
    with closing(connect(wide)) as s:
        s.sendall(request(head, raw) + (head + raw)[:sent])
        wait_for(lambda: asked(wide) == 1)
        if sent > len(head):
            wait_for(lambda: wide.backend.open == 1 if places else taken.began)
    wait_for(lambda: asked(wide) == 0)
    assert taken.now == 0


def test_clients_that_dawdle_do_not_hold_every_place(wide: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_READING", 2)
    head, raw, scores = query()
    slow = [connect(wide) for _ in range(4)]
    for s in slow:
        s.sendall(request(head, raw) + (head + raw)[:300_000])
    wait_for(lambda: asked(wide) == 4)
    wait_for(lambda: wide.backend.open == 2)
    with closing(connect(wide)) as quick:
        quick.sendall(request(head, raw) + head + raw)
        check(quick.answer(), scores)
    assert wide.backend.open == 2
    for s in slow:
        s.sendall((head + raw)[300_000:])
        check(s.answer(), scores)
        s.close()


def test_values_that_were_read_into_their_place_are_looked_at(wide: Running) -> None:
    given = arrays(WIDE, MAX_ITEMS)
    given["dense"][MAX_ITEMS // 2, 17] = np.nan
    head, raw = binary_body(given, parameters={"binary_data_output": True})
    with closing(connect(wide)) as s:
        s.sendall(request(head, raw) + head + raw)
        status, _, text = s.answer()
        assert status == 400
        assert f"'dense': expected finite numbers, got nan at [{MAX_ITEMS // 2}, 17]" in text.decode()
        head, raw, scores = query()
        s.sendall(request(head, raw) + head + raw)
        check(s.answer(), scores)


def test_a_large_body_of_other_types_is_converted(wide: Running) -> None:
    given = arrays(WIDE, MAX_ITEMS)
    wider = {name: a.astype(np.int64) if a.dtype.kind == "i" else a for name, a in given.items()}
    head, raw = binary_body(wider, parameters={"binary_data_output": True})
    with closing(connect(wide)) as s:
        s.sendall(request(head, raw) + head + raw)
        check(s.answer(), expected_scores(WIDE, given, MAX_ITEMS))


def asked(running: Running) -> int:
    """Requests that the server is at."""
    return sum("run_asgi" in repr(t.get_coro()) for t in asyncio.all_tasks(running.loop))


def test_a_large_body_that_stops_is_given_up(
    wide: Running, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = watched(monkeypatch)
    monkeypatch.setattr(bodies, "PAUSE_S", 0.1)
    head, raw, _ = query()
    for sent in (0, 70_000, 300_000):
        with closing(connect(wide)) as s:
            s.sendall(request(head, raw) + (head + raw)[:sent])
            assert s.answer()[0] == 408
            assert s.recv(1) == b""
        wait_for(lambda: taken.now == 0)


def test_bodies_beyond_the_room_for_them_are_refused(wide: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    head, raw, scores = query()
    with monkeypatch.context() as m:
        m.setattr(http, "MOST_READING", 0)
        m.setattr(BufferPool, "charge", refuse)
        with closing(connect(wide)) as s:
            s.sendall(request(head, raw) + head + raw)
            status, headers, text = s.answer()
            assert (status, headers["retry-after"]) == (503, "1")
            assert b"already take" in text
    with closing(connect(wide)) as s:
        s.sendall(request(head, raw) + head + raw)
        check(s.answer(), scores)


def refuse(room: BufferPool, count: int) -> None:
    raise FullError(room.most)


def test_room_is_bounded_and_its_memory_is_used_again() -> None:
    room = BufferPool(most=1 << 20, kept=1 << 19)
    first = room.memory(300_000)
    assert room.taken == len(first) >= 300_000
    room.charge(room.most - room.taken)
    with pytest.raises(FullError, match="1048576 bytes"):
        room.memory(1)
    with pytest.raises(FullError):
        room.charge(1)
    room.give(room.most - len(first))
    room.put_back(first)
    assert room.taken == 0
    assert room.memory(299_000) is first
    many = [room.memory(1) for _ in range(2)]
    for memory in (first, *many):
        room.put_back(memory)
    assert room.taken == 0
    assert sum(map(len, room._kept)) <= 1 << 19


class Taken:
    """How much room bodies take."""

    def __init__(self) -> None:
        self.now, self.began = 0, False


def watched(monkeypatch: pytest.MonkeyPatch) -> Taken:
    found, charge, give = Taken(), BufferPool.charge, BufferPool.give

    def charged(self: Any, count: int) -> None:
        charge(self, count)
        found.now += count
        found.began = True

    def given(self: Any, count: int) -> None:
        give(self, count)
        found.now -= count

    monkeypatch.setattr(BufferPool, "charge", charged)
    monkeypatch.setattr(BufferPool, "give", given)
    return found
