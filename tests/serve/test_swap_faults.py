"""Swaps on a bad day: slow clients, cancelled tasks, a service that stops, workers that die."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.policy import Coalescing, DeepRecSched
from deeprecsys.core.target import Target
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.service.backend import RetiredError
from deeprecsys.node.service.loading import in_thread
from deeprecsys.node.service.service import Service
from deeprecsys.serve.metrics.counters import Counters
from deeprecsys.serve.metrics.prometheus import exposition
from tests.serve.asgi import Paused
from tests.serve.bodies import arrays, binary_body
from tests.serve.harness import Reference, ask, ask_any, changed, features, nothing_left, run, service
from tests.serve.test_faults import until
from tests.serve.test_swap import maps, scaled_rows

NAME = "dlrm-rmc1"
SECOND = Weights(seed=5, fill=scaled_rows)
SLOW = changed(engine="tests.node.faults:SlowEngine", target=Target(latency_s=60.0), policy=DeepRecSched(100))
"""A batch takes 0.2 s, and deadlines are far away."""
QUICK = replace(SLOW, engine="wait:200")
"""The same without scores, whose workers start sooner."""


def version(s: Service) -> str:
    return s.models[NAME].version


# Bodies that come slowly.
@pytest.mark.live
def test_a_body_that_does_not_come_holds_up_no_swap_and_is_scored_by_the_new_version() -> None:
    async def scenario() -> None:
        async with service(workers=1) as s:
            query = features(s.models[NAME].schema, 20, 1)
            slow, stuck = (s.reserve(NAME, 20, arrival_s=time.monotonic()) for _ in range(2))
            async with asyncio.timeout(30):
                await s.swap(NAME, "2", SECOND)
            assert len(s._served[NAME].versions) == 1, "the old version's memory is not held for them either"
            for key, rows in slow.inputs.items():
                rows[...] = query[key]
            scores = await s.score(slow)
            assert slow.version == "2"
            np.testing.assert_allclose(scores, Reference(s, NAME, seed=5)(query), atol=1e-5)
            s.release(slow)
            s.release(stuck)
            nothing_left(s)

    run(scenario())


@pytest.mark.live
@pytest.mark.parametrize("named", [False, True])
def test_an_answer_names_the_version_that_scored_it(named: bool) -> None:
    async def scenario() -> None:
        async with service(workers=1) as s:
            inputs = arrays(s.models[NAME].schema, 7)
            http, (head, raw) = Paused(s), binary_body(inputs)
            path = f"/v2/models/{NAME}{'/versions/1' if named else ''}/infer"
            asked = asyncio.create_task(http.infer_in_two(path, head, raw))
            await http.reached.wait()
            async with asyncio.timeout(30):
                await s.swap(NAME, "2", SECOND)
            http.go.set()
            status, doc = await asked
            if named:
                assert status == 404
                assert doc["error"] == (
                    f"model '{NAME}': expected version 2, got '1', which was replaced before the query was "
                    "complete"
                )
            else:
                assert (status, doc["model_version"]) == (200, "2")
                wanted = Reference(s, NAME, seed=5)(inputs)
                np.testing.assert_allclose(doc["outputs"][0]["data"], wanted.ravel(), atol=1e-5)
            nothing_left(s)

    run(scenario())


async def until_replaced(s: Service) -> list[asyncio.Task[np.ndarray]]:
    """Ask until another version serves, with queries of the former one open then: those are returned."""
    query = features(s.models[NAME].schema, 4, 1)
    tasks: list[asyncio.Task[np.ndarray]] = []
    async with asyncio.timeout(60):
        while version(s) == "1":
            tasks = [t for t in tasks if not t.done()]
            tasks += [asyncio.create_task(ask(s, NAME, query)) for _ in range(12 - len(tasks))]
            await asyncio.sleep(0.001)
    return [t for t in tasks if not t.done()]


@pytest.mark.live
def test_a_query_that_names_the_old_version_is_scored_by_it_while_that_is_held() -> None:
    async def scenario() -> None:
        async with service(SLOW, workers=1) as s:
            query = features(s.models[NAME].schema, 4, 1)
            first = Reference(s, NAME)(query)
            named, late = (s.reserve(NAME, 4, arrival_s=time.monotonic(), version="1") for _ in range(2))
            swap = asyncio.create_task(s.swap(NAME, "2", SECOND))
            open_queries = await until_replaced(s)
            for key, rows in named.inputs.items():
                rows[...] = query[key]
            np.testing.assert_allclose(await s.score(named), first, atol=1e-5)
            assert named.version == "1"
            for scores in await asyncio.gather(*open_queries):
                np.testing.assert_allclose(scores, first, atol=1e-5)
            await swap
            with pytest.raises(RetiredError, match="expected version 2, got '1', which was replaced"):
                await s.score(late)
            s.release(named)
            s.release(late)
            nothing_left(s)

    run(scenario())


@pytest.mark.live
@pytest.mark.parametrize("policy", [DeepRecSched(100), Coalescing(64, 16)])
def test_a_batch_that_runs_again_after_a_death_across_a_swap_is_of_its_own_version(policy: Any) -> None:
    async def scenario() -> None:
        async with service(replace(SLOW, policy=policy), workers=2) as s:
            query = features(s.models[NAME].schema, 4, 1)
            first = Reference(s, NAME)(query)
            swap = asyncio.create_task(s.swap(NAME, "2", SECOND))
            old = await until_replaced(s)
            new = [asyncio.create_task(ask(s, NAME, query)) for _ in range(6)]
            await asyncio.sleep(0.01)
            for pid in s._workers.pids:
                os.kill(pid, signal.SIGKILL)
            for scores in await asyncio.gather(*old):
                np.testing.assert_allclose(scores, first, atol=1e-5)
            await swap
            second = Reference(s, NAME, seed=5)(query)
            for scores in await asyncio.gather(*new):
                np.testing.assert_allclose(scores, second, atol=1e-5)
            assert s._workers.deaths == 2
            nothing_left(s)

    run(scenario())


# Swaps that end early.
class Gate:
    """Weights whose tables are not written before `open`."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.weights = Weights(seed=5, fill=self._fill)

    def _fill(self, tables: Any) -> None:
        self.reached.set()
        assert self.open.wait(60)
        scaled_rows(tables)


def held(s: Service) -> dict[str, int]:
    """What a service holds of the machine: descriptors and maps of tables here, processes, maps there."""
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tables": maps(os.getpid()),
        "processes": len(s._workers.all_pids),
        "versions of workers": max((maps(p) for p in s._workers.all_pids), default=0),
        "threads": threading.active_count(),
    }


STAGES = ("waiting for another", "tables", "workers", "last query")


async def at_stage(s: Service, stage: str) -> tuple[asyncio.Task[None], Callable[[], Any]]:
    """A swap that has got as far as a stage, and what lets that go on."""
    gate = Gate()
    swap = asyncio.create_task(s.swap(NAME, "2", gate.weights))
    await until(s, gate.reached.is_set)
    if stage == "waiting for another":
        second = asyncio.create_task(s.swap(NAME, "3", SECOND))
        await asyncio.sleep(0.01)
        swap.cancel()
        await asyncio.wait([swap])
        return second, gate.open.set
    if stage == "tables":
        return swap, gate.open.set
    gate.open.set()
    if stage == "workers":
        await until(s, lambda: len(s._served[NAME].versions) == 2)
        return swap, lambda: None
    await until_replaced(s)
    return swap, lambda: None


@pytest.mark.live
@pytest.mark.parametrize("stage", STAGES)
def test_a_cancelled_swap_leaves_nothing(stage: str) -> None:
    async def scenario() -> None:
        async with service(QUICK, workers=2, spares=1) as s:
            await until(s, lambda: s._workers.spares == 1)
            await ask_any(s)
            before = held(s)
            swap, go_on = await at_stage(s, stage)
            assert held(s) != before
            s.adopt(NAME, DeepRecSched(50), "changed during a swap")
            exposition(s, Counters())  # it asks for what waits, of each version
            swap.cancel()
            with pytest.raises(asyncio.CancelledError):
                await swap
            go_on()
            assert version(s) == ("2" if stage == "last query" else "1")
            await until(s, lambda: not s._queries.places and held(s) == before)
            assert len(s._served[NAME].versions) == 1
            assert len(s._dispatcher._states) == 1, "the dispatcher has no other version either"
            await s.swap(NAME, "4", SECOND)
            await until(s, lambda: held(s) == before)
            await ask_any(s)
            nothing_left(s)

    run(scenario())


@pytest.mark.live
@pytest.mark.parametrize("stage", STAGES)
def test_a_service_that_is_closed_during_a_swap_leaves_nothing(stage: str) -> None:
    async def scenario() -> None:
        async with service(QUICK, workers=2) as s:
            swap, go_on = await at_stage(s, stage)
            pids = s._workers.all_pids
            s.close()
            go_on()
            (ended,) = await asyncio.gather(swap, return_exceptions=True)
            if stage == "last query":
                assert ended is None, "the new version served"
            else:
                assert isinstance(ended, NodeError)
                assert str(ended) == "the service has stopped"
            assert not any(os.path.exists(f"/proc/{p}") for p in pids)
            async with asyncio.timeout(20):  # a thread that is writing tables ends by itself
                while maps(os.getpid()):
                    await asyncio.sleep(0.01)
            with pytest.raises(NodeError, match="the service has stopped"):
                await s.swap(NAME, "3", SECOND)

    before = len(os.listdir("/proc/self/fd"))
    run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.live
@pytest.mark.parametrize("name", ["1", ""])
def test_a_version_has_a_name_that_no_other_has(name: str) -> None:
    async def scenario() -> None:
        async with service(changed(engine="null"), workers=1) as s:
            with pytest.raises(
                InputError, match=rf"^version of {NAME}: expected a name .* \(1\), got '{name}'$"
            ):
                await s.swap(NAME, name, SECOND)

    run(scenario())


class Made:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_what_a_cancelled_task_has_made_is_closed() -> None:
    made, gate, said = Made(), threading.Event(), []

    def make(progress: Callable[[str, float], None]) -> Made:
        progress("begun", 0.0)
        assert gate.wait(20)
        try:
            progress("half", 0.5)
        except NodeError:
            said.append("ended early")
        return made

    async def scenario() -> None:
        task = asyncio.create_task(in_thread(make, lambda what, _share: said.append(what)))
        while not said:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not made.closed
        gate.set()
        while not made.closed:
            await asyncio.sleep(0.001)

    run(scenario())
    assert said == ["begun", "ended early"]


def test_what_is_there_when_its_task_is_cancelled_is_closed() -> None:
    made = Made()

    async def scenario() -> None:
        task = asyncio.create_task(in_thread(lambda _progress: made, lambda _what, _share: None))
        await asyncio.sleep(0)
        time.sleep(0.2)  # the thread has ended, and its result waits for the loop
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == made.closed

    run(scenario())
