"""Other weights while queries come: none is lost, and each is scored by one version."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise

import numpy as np
import pytest

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.node.runtime import tables
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.service.backend import QueryOutcome
from tests.serve.harness import Heard, Reference, ask, changed, features, nothing_left, run, service

pytestmark = pytest.mark.live


def scaled_rows(arrays):
    for rows in arrays.values():
        rows[...] = np.linspace(-1, 1, rows.size, dtype=np.float32).reshape(rows.shape)


def test_a_swap_under_load_loses_nothing_and_changes_the_scores() -> None:
    async def scenario() -> None:
        async with service(changed(engine="compiled"), workers=2, spares=1) as s:
            heard = Heard(s)
            query = features(s.models["dlrm-rmc1"].schema, 80, 1)
            first = Reference(s, "dlrm-rmc1")(query)
            seen: list[str] = []
            stop = False
            second = None

            async def client() -> None:
                while not stop:
                    scores = await ask(s, "dlrm-rmc1", query, pause_s=0.001)
                    if np.allclose(scores, first, atol=1e-5):
                        seen.append("first")
                    else:
                        assert second is not None
                        np.testing.assert_allclose(scores, second, atol=1e-5)
                        seen.append("second")

            clients = [asyncio.create_task(client()) for _ in range(4)]
            await asyncio.sleep(0.2)
            swap = asyncio.create_task(s.swap("dlrm-rmc1", "2", Weights(seed=5, fill=scaled_rows)))
            while len(s._served["dlrm-rmc1"].versions) < 2:
                await asyncio.sleep(0.001)
            second = Reference(s, "dlrm-rmc1", seed=5)(query)
            assert not np.allclose(first, second, atol=1e-3)
            await swap
            assert s.models["dlrm-rmc1"].version == "2"
            await asyncio.sleep(0.2)
            stop = True
            await asyncio.gather(*clients)
            changes = [a != b for a, b in pairwise(seen)]
            assert seen[0] == "first"
            assert seen[-1] == "second"
            assert sum(changes) <= 7, "those in flight end on the old weights, the others begin on the new"
            assert set(heard.outcomes) == {QueryOutcome.SERVED}
            assert len(s._served["dlrm-rmc1"].versions) == 1
            nothing_left(s)

    before = len(os.listdir("/proc/self/fd"))
    run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_swap_back_and_forth_gives_the_memory_back() -> None:
    async def scenario() -> None:
        async with service(changed(engine="null"), workers=1, spares=1) as s:
            fds = len(os.listdir("/proc/self/fd"))
            for version in range(2, 5):
                await s.swap("dlrm-rmc1", str(version), Weights(seed=version))
            while s._workers.spares < 1:
                await asyncio.sleep(0.01)
            assert len(os.listdir("/proc/self/fd")) <= fds + 3, "a spare more than before, at most"
            for pid in s._workers.pids:
                while maps(pid) > 1:
                    await asyncio.sleep(0.01)

    run(scenario())


def maps(pid: int) -> int:
    """How many tables a process has mapped."""
    with open(f"/proc/{pid}/maps") as lines:
        return len({ln.split()[4] for ln in lines if "deeprecsys-tables" in ln})


def test_a_swap_is_refused_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with service(changed(engine="null"), workers=1) as s:
            monkeypatch.setattr(tables, "available_bytes", lambda: 1000)
            with pytest.raises(InputError, match="do not fit"):
                await s.swap("dlrm-rmc1", "2", Weights())
            assert s.models["dlrm-rmc1"].version == "1"
            assert s.ready

    run(scenario())


def test_weights_that_are_not_finite_leave_the_old_ones_in_service() -> None:
    def broken(arrays):
        scaled_rows(arrays)
        next(iter(arrays.values()))[1, 1:3] = np.nan

    async def scenario() -> None:
        async with service(changed(), workers=1) as s:
            query = features(s.models["dlrm-rmc1"].schema, 8, 1)
            first, fds = await ask(s, "dlrm-rmc1", query), len(os.listdir("/proc/self/fd"))
            wrong = (
                r"^weights of dlrm-rmc1: table '\w+': expected finite numbers, got 2 that are infinite or NaN"
            )
            with pytest.raises(InputError, match=wrong):
                await s.swap("dlrm-rmc1", "2", Weights(fill=broken))
            assert s.models["dlrm-rmc1"].version == "1"
            np.testing.assert_array_equal(await ask(s, "dlrm-rmc1", query), first)
            assert len(os.listdir("/proc/self/fd")) == fds
            nothing_left(s)

    run(scenario())


def test_weights_that_no_worker_can_hold_leave_the_old_ones_in_service() -> None:
    async def scenario() -> None:
        async with service(changed(), workers=1) as s:
            query = features(s.models["dlrm-rmc1"].schema, 8, 1)
            first = await ask(s, "dlrm-rmc1", query)
            with pytest.raises(NodeError, match=r"version 2: .*version 1 stays"):
                await s.swap("dlrm-rmc1", "2", Weights(model="nonsense"))
            assert s.models["dlrm-rmc1"].version == "1"
            assert s.ready
            np.testing.assert_array_equal(await ask(s, "dlrm-rmc1", query), first)
            nothing_left(s)

    run(scenario())
