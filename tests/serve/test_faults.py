"""Workers that die, cannot start, or are killed by a query."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.policy import DeepRecSched
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.service import driver
from deeprecsys.node.service.backend import QueryOutcome, Reason, RefusedError, UnscoredError
from deeprecsys.node.service.service import Service
from tests.node.faults import DEADLY_SIZE
from tests.serve.harness import Heard, Reference, ask, ask_any, changed, features, nothing_left, run, service

pytestmark = pytest.mark.live


async def until(s: Service, condition) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(25):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("spares", [0, 1])
def test_killed_workers_lose_no_query_and_are_replaced(spares: int) -> None:
    async def scenario() -> None:
        async with service(spares=spares) as s:
            heard, reference = Heard(s), Reference(s, "dlrm-rmc1")
            schema = s.models["dlrm-rmc1"].schema
            queries = [features(schema, 60, i) for i in range(40)]
            expected = [reference(q) for q in queries]
            wrong = 0

            async def client(k: int) -> None:
                nonlocal wrong
                for i in range(k, 600, 4):
                    scores = await ask(s, "dlrm-rmc1", queries[i % 40])
                    wrong += not np.allclose(scores, expected[i % 40], atol=1e-5)

            clients = [asyncio.create_task(client(k)) for k in range(4)]
            before = set(s._workers.pids)
            for kills in (1, 2):
                await until(s, lambda: s._workers.spares == spares and s.workers["cpu"] == 2)
                os.kill(s._workers.pids[0], signal.SIGKILL)
                await until(s, lambda kills=kills: s._workers.deaths == kills)
            await asyncio.gather(*clients)
            assert wrong == 0
            assert heard.outcomes == [QueryOutcome.SERVED] * 600
            assert s._workers.deaths == 2
            await until(s, lambda: s._workers.spares == spares and s.workers["cpu"] == 2)
            assert set(s._workers.pids) != before
            assert s.ready
            nothing_left(s)

    run(scenario())


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("busy", [True, False])
def test_a_reply_and_deaths_that_are_read_at_once_lose_no_query(busy: bool, spares: int) -> None:
    """Of two workers that die at once each is believed to run when the other's death is read."""

    async def scenario() -> None:
        async with service(changed(engine="wait:30"), spares=spares) as s:
            await until(s, lambda: s._workers.spares == spares)
            queries = [asyncio.create_task(ask_any(s, items=4)) for _ in range(6 if busy else 1)]
            await asyncio.sleep(0.015)
            if busy:
                time.sleep(0.05)  # replies that nobody reads
            for pid in s._workers.pids:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
            await asyncio.gather(*queries)
            assert s._workers.deaths == 2
            await until(s, lambda: s._workers.spares == spares and s.workers["cpu"] == 2)
            await ask_any(s)
            nothing_left(s)

    run(scenario())


def test_a_spare_takes_over_without_a_start() -> None:
    async def scenario() -> None:
        async with service(changed(engine="null"), workers=1, spares=1) as s:
            await until(s, lambda: s._workers.spares == 1)
            (spare,) = set(s._workers.all_pids) - set(s._workers.pids)
            os.kill(s._workers.pids[0], signal.SIGKILL)
            await ask_any(s)
            assert s._workers.pids == [spare]
            assert os.sched_getaffinity(spare) == set(s.config.cores[0])

    run(scenario())


@pytest.mark.parametrize(
    ("engine", "error", "why"),
    [
        ("tests.node.refusals:RefusingEngine", NodeError, "cannot start: RuntimeError: no such instruction"),
        ("tests.node.refusals:CrashingEngine", NodeError, "cannot start: killed by signal 9"),
        ("wait:x", InputError, "engine wait: expected BATCH_MS"),
    ],
)
def test_a_service_whose_workers_cannot_start_says_why(engine: str, error: type, why: str) -> None:
    async def scenario() -> None:
        async with service(changed(engine=engine)):
            pass

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=why):
        run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before


def test_workers_that_cannot_be_replaced_make_the_service_not_ready_without_a_storm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with service(changed(engine="wait:100"), workers=1) as s:
            healthy = s._workers._command
            started = 0

            def broken(*args):
                nonlocal started
                started += 1
                return ["-c", "raise SystemExit('out of order')"], []

            s._workers._command = broken
            open_query = asyncio.create_task(ask_any(s))
            await asyncio.sleep(0.01)
            os.kill(s._workers.pids[0], signal.SIGKILL)
            with pytest.raises(RefusedError, match="cannot start: out of order") as waited:
                await open_query
            assert waited.value.reason is Reason.NOT_READY
            assert not s.ready
            assert not s.models["dlrm-rmc1"].ready
            assert "out of order" in s._workers.problems["cpu"]
            with pytest.raises(RefusedError) as refused:
                await ask_any(s)
            assert refused.value.reason is Reason.NOT_READY
            await asyncio.sleep(0.2)
            assert started == 2, "and no more until it is tried again"
            s._workers._command = healthy
            s._driver.try_again()
            await until(s, lambda: s.ready)
            await ask_any(s)
            nothing_left(s)

    assert driver.RETRY_S > 10
    run(scenario())


def test_a_query_that_kills_workers_fails_alone_after_its_second() -> None:
    async def scenario() -> None:
        deadly = changed(engine="tests.node.faults:DeadlyEngine", policy=DeepRecSched(100))
        async with service(deadly, workers=2) as s:
            sizes = [10] * 30
            sizes[5] = DEADLY_SIZE
            answers = await asyncio.gather(*(ask_any(s, items=n) for n in sizes), return_exceptions=True)
            (bad,) = [i for i, a in enumerate(answers) if isinstance(a, BaseException)]
            assert bad == 5
            assert isinstance(answers[5], UnscoredError)
            assert "2 workers died" in str(answers[5])
            assert s._workers.deaths == 2
            nothing_left(s)

    run(scenario())


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Within the block no file, pipe or socket can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, limits[1]))
    held = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_workers_that_die_while_no_descriptor_is_left_lose_no_query_and_come_back() -> None:
    async def scenario() -> None:
        async with service(changed(engine="wait:100"), workers=2) as s:
            with no_descriptor_left():
                queries = [asyncio.create_task(ask_any(s, items=4)) for _ in range(4)]
                await asyncio.sleep(0.02)
                os.kill(s._workers.pids[0], signal.SIGKILL)
                async with asyncio.timeout(5):
                    await asyncio.gather(*queries)
                assert s.workers["cpu"] == 1
                assert s.ready, "one worker answers"
                query = asyncio.create_task(ask_any(s, items=4))
                await asyncio.sleep(0.02)
                os.kill(s._workers.pids[0], signal.SIGKILL)
                await until(s, lambda: not s.ready)
                await asyncio.sleep(0.3)
                assert not s.ready
                with pytest.raises(RefusedError) as refused:
                    await ask_any(s)
                assert refused.value.reason is Reason.NOT_READY
            await query
            await until(s, lambda: s.workers["cpu"] == 2)
            assert s.ready
            nothing_left(s)

    before = len(os.listdir("/proc/self/fd"))
    run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_that_is_killed_while_it_starts_is_started_again_within_seconds() -> None:
    """What an out-of-memory killer does: all workers, the spare, and then those that replace them."""

    async def scenario() -> None:
        async with service(changed(engine="wait:100"), workers=2, spares=1) as s:
            await until(s, lambda: s._workers.spares == 1)
            queries = [asyncio.create_task(ask_any(s, items=4)) for _ in range(8)]
            await asyncio.sleep(0.02)
            for deaths in (3, 5):
                for pid in s._workers.all_pids:
                    os.kill(pid, signal.SIGKILL)
                await until(s, lambda deaths=deaths: s._workers.deaths >= deaths)
                assert not s.ready
                with pytest.raises(RefusedError) as refused:
                    await ask_any(s)
                assert refused.value.reason is Reason.NOT_READY
                await until(s, lambda: s._workers.all_pids)
            async with asyncio.timeout(15):
                await asyncio.gather(*queries)
            await until(s, lambda: s.ready and s._workers.spares == 1)
            nothing_left(s)

    run(scenario())


@pytest.mark.parametrize("spares", [0, 1])
def test_a_worker_that_hangs_is_replaced_and_its_batch_runs_elsewhere(spares: int) -> None:
    async def scenario() -> None:
        async with service(changed(engine="wait:2"), workers=2, spares=spares) as s:
            for _ in range(4):
                await ask_any(s, items=4)
            await until(s, lambda: s._workers.spares == spares)
            stopped = s._workers.pids[0]
            os.kill(stopped, signal.SIGSTOP)
            queries = [asyncio.create_task(ask_any(s, items=4)) for _ in range(4)]
            await asyncio.sleep(0.1)
            async with asyncio.timeout(25):
                await s.swap("dlrm-rmc1", "2", Weights(seed=5))
                await asyncio.gather(*queries)
            assert s.hung == 1
            assert stopped not in s._workers.all_pids
            await until(s, lambda: s.ready and s.workers["cpu"] == 2)
            nothing_left(s)

    run(scenario())


def test_a_service_whose_workers_all_hang_is_not_ready_and_comes_back_on_its_own() -> None:
    async def scenario() -> None:
        async with service(changed(engine="wait:2"), workers=2) as s:
            for _ in range(4):
                await ask_any(s, items=4)
            for pid in s._workers.all_pids:
                os.kill(pid, signal.SIGSTOP)
            queries = [asyncio.create_task(ask_any(s, items=4)) for _ in range(4)]
            await until(s, lambda: not s.ready)
            await until(s, lambda: s.ready)
            async with asyncio.timeout(20):
                await asyncio.gather(*queries)
            assert s.hung == 2
            nothing_left(s)

    run(scenario())
