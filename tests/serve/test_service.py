"""The live service: every query answered once and correctly, refused in time, or ended with a reason."""

from __future__ import annotations

import asyncio
import os
import time

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Coalescing, DeepRecSched
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.target import Target
from deeprecsys.node.service.backend import QueryOutcome, Reason, RefusedError, UnscoredError
from tests.serve.harness import Heard, Reference, ask, ask_any, changed, features, nothing_left, run, service


@pytest.mark.live
def test_concurrent_queries_of_all_sizes_get_their_own_scores() -> None:
    async def scenario() -> None:
        async with service() as s:
            heard, reference = Heard(s), Reference(s, "dlrm-rmc1")
            schema = s.models["dlrm-rmc1"].schema
            queries = [features(schema, 1 + 37 * i % 100, i) for i in range(120)]
            found = await asyncio.gather(*(ask(s, "dlrm-rmc1", q) for q in queries))
            for q, scores in zip(queries, found, strict=True):
                np.testing.assert_allclose(scores, reference(q), atol=1e-5)
            assert np.std(np.concatenate(found)) > 1e-3, "or a wrong row would hide"
            nothing_left(s)
            assert heard.outcomes == [QueryOutcome.SERVED] * 120
            for r in heard.queries:
                assert r.arrival_s <= r.start_s <= r.finish_s
                assert r.slices == -(-r.items // 16)
                assert r.compute_s > 0
            assert sum(b.items for b in heard.batches) == sum(r.items for r in heard.queries)
            assert all(b.posted_s <= b.started_s <= b.ended_s for b in heard.batches)

    run(scenario())


@pytest.mark.live
def test_a_reservation_that_is_never_scored_leaves_no_record() -> None:
    async def scenario() -> None:
        async with service(changed(engine="null")) as s:
            heard = Heard(s)
            s.release(s.reserve("dlrm-rmc1", 10, arrival_s=time.monotonic()))
            nothing_left(s)
            assert heard.queries == []
            with pytest.raises(KeyError):
                s.reserve("nothing", 10, arrival_s=time.monotonic())
            with pytest.raises(InputError, match=r"1 … 100, got 101"):
                s.reserve("dlrm-rmc1", 101, arrival_s=time.monotonic())

    run(scenario())


@pytest.mark.live
def test_reservations_are_bounded_in_queries_and_in_items() -> None:
    async def scenario(**limits: int) -> int:
        async with service(changed(engine="null", **limits)) as s:
            heard, seats, refused = Heard(s), [], None
            while refused is None:
                try:
                    seats.append(s.reserve("dlrm-rmc1", 90, arrival_s=time.monotonic()))
                except RefusedError as e:
                    refused = e
            assert refused.reason is Reason.OVERLOAD
            assert refused.retry_after_s > 0
            assert [(r.outcome, r.reason) for r in heard.queries] == [(QueryOutcome.SHED, "overload")]
            count = len(seats)
            for seat in seats:
                s.release(seat)
            nothing_left(s)
            return count

    assert run(scenario(max_queries=5)) == 5
    per_item = 3400  # bytes of features, about
    assert 1 <= run(scenario(max_queries=50, most_bytes=per_item * 400)) < 8


@pytest.mark.live
def test_to_ask_takes_no_place_and_is_refused_like_a_reservation() -> None:
    async def scenario() -> None:
        async with service(changed(engine="null", max_queries=1)) as s:
            heard, now = Heard(s), time.monotonic()
            s.admit("dlrm-rmc1", 10, arrival_s=now, deadline_s=float("inf"))
            nothing_left(s)
            seat = s.reserve("dlrm-rmc1", 10, arrival_s=now)
            with pytest.raises(RefusedError) as refused:
                s.admit("dlrm-rmc1", 1, arrival_s=now, deadline_s=float("inf"))
            assert refused.value.reason is Reason.OVERLOAD
            assert heard.outcomes == [QueryOutcome.SHED]
            s.release(seat)
            with pytest.raises(RefusedError) as refused:
                s.admit("dlrm-rmc1", 1, arrival_s=now - 1, deadline_s=now)
            assert refused.value.reason is Reason.LATE

    run(scenario())


@pytest.mark.live
def test_seats_that_are_open_at_once_share_no_memory() -> None:
    async def scenario() -> None:
        async with service(changed(engine="null")) as s:
            seats = [s.reserve("dlrm-rmc1", 1 + 7 * i % 60, arrival_s=time.monotonic()) for i in range(50)]
            for i, seat in enumerate(seats):
                seat.scores[...] = i
                for rows in seat.inputs.values():
                    rows[...] = i
            for i, seat in enumerate(seats):
                assert all((rows == i).all() for rows in (seat.scores, *seat.inputs.values()))
                s.release(seat)

    run(scenario())


@pytest.mark.alone
def test_a_query_in_front_of_a_full_line_is_refused_at_once_and_a_hopeless_one_dropped() -> None:
    async def scenario() -> None:
        slow = changed(engine="wait:50", target=Target(latency_s=0.2), policy=DeepRecSched(100))
        async with service(slow, workers=1) as s:
            heard = Heard(s)
            await ask_any(s)  # after which the pace of batches is known
            within = time.monotonic() + 0.22
            answers = await asyncio.gather(
                *(ask_any(s, deadline_s=within) for _ in range(30)), return_exceptions=True
            )
            refused = [a for a in answers if isinstance(a, RefusedError)]
            assert {r.reason for r in refused} == {Reason.LATE}
            assert 26 <= len(refused) <= 29, "four batches of 50 ms fit, less what is kept back"
            for r in heard.queries:
                if r.outcome is QueryOutcome.SERVED:
                    assert r.finish_s <= within + 0.05
            nothing_left(s)

    run(scenario())


@pytest.mark.live
@pytest.mark.parametrize("shed_late", [False, True])
def test_late_queries_are_answered_and_counted_unless_they_are_to_be_shed(shed_late: bool) -> None:
    """Forty at once take two seconds of one worker, twice the target."""

    async def scenario() -> None:
        times = LatencyProfile("any", (Point(1, 1, (0.05,)), Point(1, 100, (0.05,))))
        slow = changed(
            engine="wait:50", target=Target(latency_s=1.0), policy=DeepRecSched(100), profile=times,
            shed_late=shed_late,
        )  # fmt: skip
        async with service(slow, workers=1) as s:
            full = s.late("dlrm-rmc1").left
            assert s.ready
            assert s.load == (1.0, 0.0)
            asking = asyncio.gather(*(ask_any(s) for _ in range(40)), return_exceptions=True)
            await asyncio.sleep(0.01)
            assert not s.ready, "a query that comes now is late"
            assert s.load.headroom < 0
            assert s.load.rate_qps > 20
            answers = await asking
            assert s.ready
            refused = [a for a in answers if isinstance(a, RefusedError)]
            late = s.late("dlrm-rmc1")
            assert {r.reason for r in refused} == ({Reason.LATE} if shed_late else set())
            assert late.total >= 5
            assert late.left < full
            nothing_left(s)

    run(scenario())


@pytest.mark.alone
def test_a_cancelled_query_frees_its_seat_once_its_running_slice_is_back() -> None:
    async def scenario() -> None:
        async with service(changed(engine="wait:100", policy=DeepRecSched(10)), workers=1) as s:
            heard = Heard(s)
            task = asyncio.create_task(ask_any(s, items=100))
            await asyncio.sleep(0.05)
            assert s.waiting("dlrm-rmc1") == (1, 90)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert s.waiting("dlrm-rmc1") == (0, 0)
            assert len(s._queries.places) == 1, "a worker still writes its scores"
            await ask_any(s)
            nothing_left(s)
            assert heard.outcomes == [QueryOutcome.CANCELLED, QueryOutcome.SERVED]
            assert heard.queries[0].slices == 1

    run(scenario())


@pytest.mark.alone
def test_a_deadline_that_passes_while_nothing_happens_is_noticed() -> None:
    async def scenario() -> None:
        async with service(changed(engine="wait:300", policy=DeepRecSched(100)), workers=1) as s:
            first = asyncio.create_task(ask_any(s))
            await asyncio.sleep(0.01)
            began = time.monotonic()
            with pytest.raises(RefusedError) as refused:
                await ask_any(s, deadline_s=began + 0.05)
            assert refused.value.reason is Reason.LATE
            assert time.monotonic() - began < 0.25, "before the worker was free"
            await first
            nothing_left(s)

    run(scenario())


@pytest.mark.live
def test_priority_goes_first_among_what_waits() -> None:
    async def scenario() -> None:
        async with service(changed(engine="wait:20", policy=DeepRecSched(100)), workers=1) as s:
            order: list[int] = []

            async def one(priority: int) -> None:
                await ask_any(s, priority=priority)
                order.append(priority)

            await asyncio.gather(*(one(p) for p in (5, 4, 3, 2, 1)))
            assert order == [5, 1, 2, 3, 4], "the first found the worker idle"

    run(scenario())


@pytest.mark.live
def test_an_id_outside_its_table_fails_its_query_alone_and_says_where() -> None:
    async def scenario() -> None:
        async with service(changed(engine="eager", policy=Coalescing(64, 16))) as s:
            schema = s.models["dlrm-rmc1"].schema
            queries = [features(schema, 20, i) for i in range(30)]
            name = schema.sparse[2].name
            queries[7][name][11, 3] = 10**6
            answers = await asyncio.gather(*(ask(s, "dlrm-rmc1", q) for q in queries), return_exceptions=True)
            (bad,) = [a for a in answers if isinstance(a, BaseException)]
            assert answers[7] is bad
            assert isinstance(bad, UnscoredError)
            assert bad.bad_input
            assert f"input {name!r}: item 11, look-up 3: expected an id in 0 …" in str(bad)
            assert "got 1000000" in str(bad)
            nothing_left(s)

    run(scenario())


@pytest.mark.live
def test_only_valid_queries_count_as_load() -> None:
    """Live retuning goes by their sizes: neither bad input nor failures must steer it."""

    async def scenario() -> None:
        async with service(changed(max_queries=3), workers=1) as s:
            served, schema = s._served["dlrm-rmc1"], s.models["dlrm-rmc1"].schema

            def sizes() -> list[int]:
                return [n for _, n in served.offered]

            await ask_any(s, items=7)
            assert sizes() == [7]
            seat = s.reserve("dlrm-rmc1", 50, arrival_s=time.monotonic())
            assert sizes() == [7], "its body may turn out to be none"
            s.release(seat)
            bad = features(schema, 60, 1)
            bad[schema.sparse[0].name][0, 0] = 10**6
            with pytest.raises(UnscoredError):
                await ask(s, "dlrm-rmc1", bad)
            seat = s.reserve("dlrm-rmc1", 70, arrival_s=time.monotonic())
            for key, rows in seat.inputs.items():
                rows[...] = features(schema, 70, 1)[key]
            await s.score(seat)
            s.release(seat, valid=False)  # its scores were not finite
            assert sizes() == [7]
            seats = [s.reserve("dlrm-rmc1", 1, arrival_s=time.monotonic()) for _ in range(3)]
            with pytest.raises(RefusedError):
                s.admit("dlrm-rmc1", 8, arrival_s=time.monotonic())
            assert sizes() == [7], "only the least number of its items is known"
            with pytest.raises(RefusedError):
                s.reserve("dlrm-rmc1", 9, arrival_s=time.monotonic())
            assert sizes() == [7, 9], "load, though there is no room for it"
            for seat in seats:
                s.release(seat)
            nothing_left(s)

    run(scenario())


@pytest.mark.live
def test_draining_refuses_new_queries_and_answers_those_that_are_here() -> None:
    async def scenario() -> None:
        async with service(changed(engine="wait:50", policy=DeepRecSched(10)), workers=1) as s:
            tasks = [asyncio.create_task(ask_any(s)) for _ in range(5)]
            await asyncio.sleep(0.01)
            assert s.ready
            draining = asyncio.create_task(s.drain())
            await asyncio.sleep(0)
            assert not s.ready
            with pytest.raises(RefusedError) as refused:
                await ask_any(s)
            assert refused.value.reason is Reason.DRAINING
            assert await draining
            assert all(t.done() and t.exception() is None for t in tasks)

    run(scenario())


@pytest.mark.live
def test_two_models_share_the_workers_and_keep_apart() -> None:
    async def scenario() -> None:
        other = changed(name="wnd", policy=Coalescing(64, 8), max_items=50)
        async with service(changed(), other, workers=2) as s:
            heard = Heard(s)
            references = {n: Reference(s, n) for n in s.models}
            asked = []
            for i in range(80):
                name = ("dlrm-rmc1", "wnd")[i % 2]
                asked.append((name, features(s.models[name].schema, 1 + 13 * i % 50, i)))
            found = await asyncio.gather(*(ask(s, n, q) for n, q in asked))
            for (name, q), scores in zip(asked, found, strict=True):
                np.testing.assert_allclose(scores, references[name](q), atol=1e-5)
            assert {b.model for b in heard.batches} == {"dlrm-rmc1", "wnd"}
            assert {b.worker for b in heard.batches if b.model == "wnd"} == {0, 1}
            nothing_left(s)

    run(scenario())


@pytest.mark.live
def test_closing_leaves_neither_process_nor_descriptor() -> None:
    async def scenario() -> list[int]:
        async with service(changed(engine="null"), spares=1) as s:
            await ask_any(s)
            return s._workers.all_pids

    before = os.listdir("/proc/self/fd")
    pids = run(scenario())
    assert not any(os.path.exists(f"/proc/{p}") for p in pids)
    assert len(os.listdir("/proc/self/fd")) == len(before)
