"""What HTTP adds: refusals, limits, health, and clients that go away."""

from __future__ import annotations

import asyncio
import base64
import gzip
import socket
import struct
import time
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from deeprecsys.node.service.backend import QueryOutcome, QueryRecord, Reason
from deeprecsys.serve import memory as memory_of
from deeprecsys.serve.http import bodies
from tests.serve.asgi import Direct, Paused
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


def test_bodies_that_are_not_in_their_coding_are_refused(http: Direct) -> None:
    whole = gzip.compress(json_body(arrays(FLAT, 1)))
    for coding, body in (
        ("gzip", b"x"), ("deflate", b"x"), ("gzip", whole[:-1]), ("gzip", whole + b"x"), ("gzip", b""),
        ("deflate", whole), ("br", whole), ("gzip, gzip", whole),
    ):  # fmt: skip
        status, doc = http.infer("flat", body, **{"content-encoding": coding})
        assert (status, "b'" in doc["error"]) == (415, False), doc
    assert http.frontend.pool.taken == 0


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", "bare-deflate", "Identity", " identity"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_bodies_are_read(http: Direct, coding: str, binary: bool) -> None:
    head, raw = binary_body(arrays(MIXED, 40)) if binary else (json_body(arrays(MIXED, 40)), b"")
    bare = zlib.compressobj(wbits=-15)
    body = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "bare-deflate": lambda data: bare.compress(data) + bare.flush(),
        "identity": bytes,
    }[coding.strip().lower()](head + raw)
    named = {"content-encoding": coding.removeprefix("bare-")}
    status, doc = http.infer("mixed", body[:9], body[9:], head=len(head) if binary else None, **named)
    assert (status, doc["outputs"][0]["shape"]) == (200, [40, 2]), doc
    assert http.frontend.pool.taken == 0


def test_a_body_that_decompresses_to_more_than_any_may_have_is_refused(http: Direct) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 16
    tracemalloc.start()
    status, doc = http.infer("flat", bomb, **{"content-encoding": "gzip"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (status, "once decompressed" in doc["error"]) == (413, True)
    assert peak < 4 << 20


@pytest.mark.parametrize("binary", [True, False])
def test_scores_that_are_not_finite_are_an_error_unless_they_may_pass(http: Direct, binary: bool) -> None:
    inputs = arrays(FLAT, 3)
    inputs["dense"][1] = 3e38  # finite, but not the score
    parameters = {"binary_data_output": binary}
    status, doc = http.infer("flat", json_body(inputs, parameters=parameters))
    assert (status, doc) == (500, {"error": "flat: scores: expected finite numbers, got inf at [1, 0]"})
    assert http.backend.valid == [False], "it is no load to go by"
    assert 'deeprecsys_not_finite_total{model="flat"} 1.0' in get(http, "/metrics")[1].decode().splitlines()
    http.backend.models["flat"] = replace(http.backend.models["flat"], finite=False)
    status, back = http.infer("flat", json_body(inputs, parameters=parameters))
    assert status == 200
    if binary:
        assert np.isinf(np.frombuffer(back[-12:], "<f4")).tolist() == [False, True, False]
    else:
        assert [x is None for x in back["outputs"][0]["data"]] == [False, True, False]


def test_reasons_are_labels_only_if_they_are_known(http: Direct) -> None:
    for i in range(100):
        for outcome in QueryOutcome:
            record = QueryRecord(i, "flat", 1, 0.0, 0.0, 1.0, 1.0, 1, outcome, f"a client's text {i}")
            http.watch.query_ended(record)
    http.backend.refuse = Reason.LATE
    http.infer("flat", json_body(arrays(FLAT, 1)))
    text = get(http, "/metrics")[1].decode()
    assert "client's text" not in text
    assert "client's text" not in str(get(http, "/live.json")[1])
    assert 'deeprecsys_queries_total{model="flat",outcome="failed",reason="other"} 100.0' in text
    assert 'deeprecsys_queries_total{model="flat",outcome="shed",reason="late"} 1.0' in text


def test_health_has_a_document(http: Direct) -> None:
    assert get(http, "/v2/health/live") == (200, {"live": True})
    assert get(http, "/v2/health/ready") == (200, {"ready": True})
    assert get(http, "/v2/models/flat/ready") == (200, {"name": "flat", "ready": True})
    http.backend.ready = False
    assert get(http, "/v2/health/ready") == (503, {"ready": False})


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "x", 200),
        ("http://x", "x", 200),
        ("https://x.org:8000", "x.org:8000", 200),
        ("http://evil.org", "x", 403),
        ("http://x:1", "x", 403),
        ("null", "x", 403),
    ],
)
def test_pages_of_other_sites_may_not_post(http: Direct, origin: str | None, host: str, status: int) -> None:
    named = {"host": host, **({"origin": origin} if origin else {}), "content-type": "text/plain"}
    assert http.infer("flat", json_body(arrays(FLAT, 1)), **named)[0] == status
    assert http.post("/v2/repository/index", **named)[0] == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("app.localhost:8000", 200),
        ("evil.org", 403),
        ("evil.org:8000", 403),
        ("127.0.0.1.evil.org", 403),
    ],
)
def test_a_domains_name_is_not_this_machine(http: Direct, host: str, status: int) -> None:
    local = Direct(http.backend, loopback=True)
    for path in ("/live.json", "/metrics", "/", "/v2/health/live"):
        assert asyncio.run(local.call("GET", path, headers={"host": host}))[0] == status
    assert local.infer("flat", json_body(arrays(FLAT, 1)), host=host)[0] == status
    assert http.infer("flat", json_body(arrays(FLAT, 1)), host=host)[0] == 200


def test_the_page_may_do_little(http: Direct) -> None:
    headers = asyncio.run(http.call("GET", "/"))[1]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_failures_of_the_server_and_faults_of_the_client_differ(http: Direct) -> None:
    http.backend.fail = "the worker died twice"
    status, doc = http.infer("flat", json_body(arrays(FLAT, 1)))
    assert (status, doc) == (500, {"error": "the worker died twice"})
    http.backend.fail, http.backend.late_after_wait = "", True
    assert http.infer("flat", json_body(arrays(FLAT, 1)))[0] == 503
    assert http.backend.open == 0
    assert http.backend.valid == [False, True], "what failed is no load to go by, what was late is"


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
        'deeprecsys_late_answers_total{model="flat"} 3.0',
        'deeprecsys_late_budget{model="flat"} 247.0',
        'deeprecsys_capacity_qps{model="flat"} 500.0',
        'deeprecsys_margin_ratio{model="flat"} 0.1',
        'deeprecsys_face_seconds{model="flat"} 0.0004',
        'deeprecsys_limited_by_face{model="flat"} 0.0',
    ):
        assert line in text.splitlines(), line
    assert get(http, "/live.json")[1]["models"][0]["late"] == {"total": 3, "left": 247.0}
    point = get(http, "/live.json")[1]["models"][0]["point"]
    assert (point["limit"], point["allowance"]["margin"]) == ("workers", 0.1)


def test_metrics_have_the_memory_of_requests_that_are_being_read() -> None:
    def memory(text: bytes) -> tuple[float, float]:
        values = dict(line.rsplit(" ", 1) for line in text.decode().splitlines())
        names = "deeprecsys_request_memory_bytes", "deeprecsys_request_memory_limit_bytes"
        return float(values[names[0]]), float(values[names[1]])

    async def scenario() -> None:
        http, (head, raw) = Paused(StandIn.of()), binary_body(arrays(MIXED, 60))
        asked = asyncio.create_task(http.infer_in_two("/v2/models/mixed/infer", head, raw))
        await http.reached.wait()
        held, most = memory((await http.call("GET", "/metrics"))[2])
        assert (held, most) == (len(head) + 9, memory_of.POOL_BYTES)
        http.go.set()
        assert (await asked)[0] == 200
        assert memory((await http.call("GET", "/metrics"))[2])[0] == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(("path", "status"), [("flat/infer", 200), ("flat/versions/1/infer", 404)])
def test_a_version_that_changes_while_a_body_comes_is_not_named_wrongly(path: str, status: int) -> None:
    async def scenario() -> tuple[int, Any]:
        http, (head, raw) = Paused(StandIn.of()), binary_body(arrays(FLAT, 9))
        asked = asyncio.create_task(http.infer_in_two(f"/v2/models/{path}", head, raw))
        await http.reached.wait()
        http.backend.models["flat"] = replace(http.backend.models["flat"], version="2")
        http.go.set()
        return await asked

    found, doc = asyncio.run(scenario())
    assert found == status
    if status == 200:
        assert doc["model_version"] == "2"
    else:
        assert "expected version 2, got '1'" in doc["error"]


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


@pytest.mark.parametrize("asked", ["text", "JSON", "bin", "xml"])
@pytest.mark.parametrize("refuse", [None, Reason.LATE])
def test_a_query_that_asks_for_a_load_report_gets_one(
    http: Direct, asked: str, refuse: Reason | None
) -> None:
    http.backend.refuse = refuse
    query = json_body(arrays(FLAT, 1))
    status, _, headers = http.post("/v2/models/flat/infer", query, **{"endpoint-load-metrics-format": asked})
    assert status == (503 if refuse else 200)
    kind, _, rest = headers.get("endpoint-load-metrics", "").partition(" ")
    assert kind == ("" if asked == "xml" else asked.upper())
    if kind == "TEXT":
        assert rest == "application_utilization=0.75, rps_fractional=120"
    elif kind == "JSON":
        assert orjson.loads(rest) == {"application_utilization": 0.75, "rps_fractional": 120.0}
    elif kind == "BIN":
        assert load_report(base64.b64decode(rest)) == {9: 0.75, 6: 120.0}
    _, _, headers = http.post("/v2/models/flat/infer", query)
    assert "endpoint-load-metrics" not in headers


def load_report(raw: bytes) -> dict[int, float]:
    """Field numbers and values of a message of doubles, read by hand."""
    assert not len(raw) % 9
    parts = [raw[i : i + 9] for i in range(0, len(raw), 9)]
    assert all(part[0] & 7 == 1 for part in parts)
    return {part[0] >> 3: struct.unpack("<d", part[1:])[0] for part in parts}
