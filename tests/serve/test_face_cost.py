"""What a query costs the server's own process, measured through the loopback socket."""

from __future__ import annotations

import asyncio
import time

import pytest

from deeprecsys.core.target import Target
from deeprecsys.node.service.backend import Reason
from deeprecsys.serve.face_cost import face_seconds
from tests.serve.harness import Heard, changed, run, service
from tests.serve.stand_in import StandIn


class Busy(StandIn):
    """Takes the event loop 5 ms for each query; the rest of the face comes on top."""

    async def score(self, seat):
        until = time.thread_time() + 5e-3
        while time.thread_time() < until:
            pass
        return await super().score(seat)


@pytest.mark.live
def test_the_process_is_charged_for_what_it_does_and_not_for_what_it_waits_for():
    async def measured(backend) -> float:
        return await face_seconds(backend, "flat", [3, 5, 8], 4, 0.5)

    waiting = StandIn.of()
    waiting.delay_s = 0.02
    quick, busy = asyncio.run(measured(waiting)), asyncio.run(measured(Busy.of()))
    assert 0 < quick < 4e-3 < busy
    assert waiting.open == 0


@pytest.mark.live
def test_what_is_refused_cannot_be_measured_and_is_not_made_up(caplog):
    backend = StandIn.of()
    backend.refuse = Reason.NOT_READY
    assert asyncio.run(face_seconds(backend, "flat", [3], 2, 0.1)) is None
    assert "what the network face takes could not be measured" in caplog.text


@pytest.mark.live
def test_measuring_leaves_the_service_as_it_was():
    async def scenario() -> None:
        async with service(changed(target=Target(latency_s=1e-4)), workers=1) as s:
            heard, before = Heard(s), s.late("dlrm-rmc1")
            assert await face_seconds(s, "dlrm-rmc1", [10, 100], 4, 0.3) > 0
            assert len(heard.outcomes) > 4
            assert s.late("dlrm-rmc1") == before, "its queries have a timeout of their own"
            assert not s._queries.places

    run(scenario())
