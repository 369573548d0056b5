"""The load client, and `bench --url`."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import deeprecsys as dr
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.runlog import Status
from deeprecsys.core.target import Target
from deeprecsys.node.service.backend import Reason
from deeprecsys.serve.load.offer import Requests, address, load, offer
from deeprecsys.workload.stream import Stream, Workload
from deeprecsys.zoo import model
from tests.serve.conftest import Running, start
from tests.serve.stand_in import MIXED, StandIn


def stream(queries: int = 40, size: str = "fixed:5") -> Stream:
    return Workload.parse("constant", size).stream(200, queries=queries)


def test_every_query_is_sent_and_scored(running: Running) -> None:
    sent = stream()
    log = load(f"http://{running.http}", "mixed", MIXED, sent, Target(latency_s=1.0), seed=1)
    assert (log.status == Status.SERVED).all()
    assert log.extra["answers"] == {"200": 40}
    assert (log.issued_s >= log.arrival_s - 1e-3).all()
    assert (log.finish_s > log.issued_s).all()


def test_the_load_is_open_loop(running: Running) -> None:
    running.backend.delay_s = 0.3
    log = load(f"http://{running.http}", "mixed", MIXED, stream(20), Target(latency_s=1.0), seed=1)
    assert (log.status == Status.SERVED).all()
    assert np.ptp(log.issued_s) < 20 * 0.3 / 2  # nobody waited for an answer before sending
    assert (log.latency_s >= 0.3).all()


def test_answers_and_times_are_passed_on(running: Running) -> None:
    sent, seen, called = stream(40), {}, []
    requests = Requests(MIXED, 5, seed=1, kinds=2)
    asyncio.run(
        offer(
            f"http://{running.http}", "mixed", requests, sent, Target(latency_s=1.0),
            answered=lambda i, response: seen.update({i: response.body}),
            at=[(0.0, lambda: called.append(len(seen))), (60.0, called.clear)],
        )
    )  # fmt: skip
    assert called == [0]
    assert sorted(seen) == list(range(40))
    assert len(set(seen.values())) == 2
    assert {seen[i] for i in range(40) if sent.features[i] % 2} != {
        seen[i] for i in range(40) if not sent.features[i] % 2
    }


def test_refusals_are_shed_and_failures_failed(running: Running) -> None:
    running.backend.refuse = Reason.OVERLOAD
    log = load(f"http://{running.http}", "mixed", MIXED, stream(5), Target(latency_s=1.0), seed=1)
    assert (log.status == Status.SHED).all()
    running.backend.refuse, running.backend.fail = None, "no"
    log = load(f"http://{running.http}", "mixed", MIXED, stream(5), Target(latency_s=1.0), seed=1)
    assert (log.status == Status.FAILED).all()
    assert log.extra["answers"] == {"500": 5}


def test_a_server_that_is_not_there_or_lacks_the_model(running: Running) -> None:
    with pytest.raises(InputError, match="does not have the model 'wnd'"):
        load(f"http://{running.http}", "wnd", MIXED, stream(1), Target(latency_s=1.0), seed=1)
    with pytest.raises(NodeError, match="nothing answers at http"):
        load("http://127.0.0.1:1", "wnd", MIXED, stream(1), Target(latency_s=1.0), seed=1)


def test_addresses() -> None:
    assert address("http://h:8000") == address("h:8000") == ("h", 8000)
    for url in ("https://h", "http://", "http://h:x", "http://h/v2"):
        with pytest.raises(InputError, match="expected http://HOST:PORT"):
            address(url)


def test_bench_url() -> None:
    running = start(StandIn.of(ncf=model("ncf").scaled(0.001).schema))
    try:
        found = dr.bench(
            "ncf", url=f"http://{running.http}", rate=200, queries=60, sizes="fixed:10", rows_scale=0.001
        )
        assert (found.offered, found.completed, found.shed) == (60, 60, 0)
        assert found.p50_ms is not None
        assert found.p95_ms is not None
        assert 0 < found.p50_ms <= found.p95_ms
        assert "ncf: 200 queries/s offered" in repr(found)
    finally:
        running.end()
