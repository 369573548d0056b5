"""What HTTP adds: refusals, limits, health, and clients that go away."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import orjson
import pytest

from deeprecsys.node.service.backend import Reason
from deeprecsys.serve.http import bodies
from tests.serve.asgi import Direct
from tests.serve.bodies import arrays, binary_body, json_body
from tests.serve.conftest import Running
from tests.serve.stand_in import FLAT, MIXED, StandIn


@pytest.fixture
def http() -> Direct:
    return Direct(StandIn.of())


def get(http: Direct, path: str, method: str = "GET") -> tuple[int, Any]:
    status, _, body = asyncio.run(http.call(method, path))
    return status, orjson.loads(body) if body[:1] in (b"{", b"[") else body


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refused_query_is_told_when_to_come_again(http: Direct, reason: Reason) -> None:
    http.backend.refuse = reason
    status, doc, headers = http.post("/v2/models/flat/infer", json_body(arrays(FLAT, 1)))
    assert (status, headers["retry-after"]) == (503, "1")
    assert doc == {"error": f"refused: {reason}"}
    assert http.watch.of("flat").ended["shed", reason] == 1


def test_a_large_body_is_refused_before_it_is_read(http: Direct) -> None:
    http.backend.refuse = Reason.OVERLOAD
    status, _ = http.infer("mixed", *[b" " * 9000] * 8)
    assert (status, http.read) == (503, 0)
    assert http.watch.of("mixed").ended["shed", "overload"] == 1


def test_a_query_is_refused_by_its_head_before_its_data_are_there(http: Direct) -> None:
    head, raw = binary_body(arrays(MIXED, 60))
    http.backend.refuse = Reason.LATE
    status, _ = http.infer("mixed", head, raw[:9], raw[9:], head=len(head))
    assert (status, http.read) == (503, 1)


def test_too_large_a_body_is_refused_unread_where_its_length_is_told(http: Direct) -> None:
    status, doc, headers = http.post("/v2/models/flat/infer", b"", **{"content-length": "999999999"})
    assert (status, http.read, headers["connection"]) == (413, 0, "close")
    assert "got 999999999" in doc["error"]
    status, doc = http.infer("flat", *[b" " * 60_000] * 3, **{"content-length": "1"})
    assert (status, http.read) == (413, 2)


def test_a_body_that_stops_coming_is_given_up(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PAUSE_S", 0.05)
    host, port = running.http.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as s:
        s.sendall(b"POST /v2/models/flat/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert s.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
        while s.recv(1 << 16):  # and the connection is closed
            pass


def test_compressed_bodies_are_refused(http: Direct) -> None:
    assert http.infer("flat", b"x", **{"content-encoding": "gzip"})[0] == 415


def test_failures_of_the_server_and_faults_of_the_client_differ(http: Direct) -> None:
    http.backend.fail = "the worker died twice"
    status, doc = http.infer("flat", json_body(arrays(FLAT, 1)))
    assert (status, doc) == (500, {"error": "the worker died twice"})
    http.backend.fail, http.backend.late_after_wait = "", True
    assert http.infer("flat", json_body(arrays(FLAT, 1)))[0] == 503
    assert http.backend.open == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2", 200),
        ("/v2/", 200),
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/flat", 200),
        ("/v2/models/flat/ready", 200),
        ("/v2/models/flat/config", 200),
        ("/v2/models/flat/stats", 200),
        ("/v2/models/flat/versions/1", 200),
        ("/v2/models/flat/versions/1/config", 200),
        ("/v2/models/flat/versions/2", 404),
        ("/v2/models/flat/versions", 404),
        ("/v2/models/flat/nothing", 404),
        ("/v2/models/none", 404),
        ("/v2/models/stats", 200),
        ("/v2/nothing", 404),
        ("/favicon.ico", 404),
        ("/v2/models/flat/infer", 405),
        ("/metrics", 200),
        ("/live.json", 200),
        ("/", 200),
    ],
)
def test_every_path_has_its_status(http: Direct, path: str, status: int) -> None:
    got, doc = get(http, path)
    assert got == status
    if status >= 400:
        assert list(doc) == ["error"]


def test_readiness_is_the_backends_and_liveness_is_not(http: Direct) -> None:
    http.backend.ready = False
    assert get(http, "/v2/health/ready")[0] == 503
    assert get(http, "/v2/health/live")[0] == 200


def test_statistics_and_metrics_count_the_same(http: Direct) -> None:
    for items in (3, 5):
        http.infer("flat", json_body(arrays(FLAT, items)))
    http.backend.refuse = Reason.OVERLOAD
    http.infer("flat", json_body(arrays(FLAT, 1)))
    stats = get(http, "/v2/models/flat/stats")[1]["model_stats"][0]
    assert (stats["inference_count"], stats["execution_count"]) == (8, 2)
    assert stats["inference_stats"]["success"]["count"] == 2
    assert [b["batch_size"] for b in stats["batch_stats"]] == [3, 5]
    text = get(http, "/metrics")[1].decode()
    for line in (
        'deeprecsys_queries_total{model="flat",outcome="served",reason=""} 2.0',
        'deeprecsys_queries_total{model="flat",outcome="shed",reason="overload"} 1.0',
        'deeprecsys_items_total{model="flat"} 8.0',
        'deeprecsys_latency_seconds_count{model="flat"} 2.0',
        'deeprecsys_merge_seconds_count{model="flat"} 2.0',
        'deeprecsys_batch_items_bucket{le="4",model="flat"} 1.0',
        'deeprecsys_workers{device="cpu"} 2.0',
        'deeprecsys_batch_size{model="flat"} 32.0',
    ):
        assert line in text.splitlines(), line


def test_a_client_that_prefers_accelerator_cancels_its_query(running: Running) -> None:
    running.backend.delay_s = 60
    host, port = running.http.split(":")
    body = json_body(arrays(FLAT, 1))
    request = b"POST /v2/models/flat/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection((host, int(port))) as s:
        s.sendall(request + body)
        wait_for(lambda: running.backend.open == 1)
    wait_for(lambda: running.backend.cancelled == 1)
    wait_for(lambda: running.backend.open == 0)


def wait_for(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
