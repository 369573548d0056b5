"""A service with accelerators: the CUDA engine's own classes on the CPU device, behind a worker process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter

import numpy as np
import pytest

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.policy import DeepRecSched, Offload, Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.service.backend import QueryOutcome, RefusedError
from deeprecsys.node.service.hosted_model import ModelConfig
from deeprecsys.serve.metrics.counters import Counters
from deeprecsys.serve.metrics.dashboard import live_document
from deeprecsys.serve.metrics.prometheus import exposition
from tests.serve.harness import Heard, Reference, ask, changed, features, nothing_left, run, service
from tests.serve.test_faults import until
from tests.serve.test_swap import scaled_rows

ON_CPU = "tests.engine.devices:OnCpu"
ABOVE = 300
NAME = "dlrm-rmc1"


def accelerated(**changes) -> ModelConfig:
    return changed(
        **{"engine": "eager", "gpu": ON_CPU, "policy": DeepRecSched(64, ABOVE), "max_items": 1000, **changes}
    )


@pytest.mark.live
def test_large_queries_go_whole_to_the_accelerator_and_all_sizes_get_their_scores() -> None:
    """All sizes from 1 to 1000, in disorder and several at once: both devices are busy all the time."""

    async def scenario() -> None:
        async with service(accelerated(), workers=1, gpus=1) as s:
            assert s.workers == {"cpu": 1, "gpu": 1}
            heard, reference = Heard(s), Reference(s, NAME)
            schema = s.models[NAME].schema
            everything = features(schema, 1000, 7)
            whole = reference(everything)
            order = np.random.default_rng(3).permutation(np.arange(1, 1001)).tolist()

            async def client(sizes: list[int]) -> None:
                for n in sizes:
                    first = 1000 - n
                    own = {k: x[first:] if len(x) == 1000 else x for k, x in everything.items()}
                    np.testing.assert_allclose(await ask(s, NAME, own), whole[first:], atol=1e-5)

            await asyncio.gather(*(client(order[k::6]) for k in range(6)))
            assert heard.outcomes == [QueryOutcome.SERVED] * 1000
            assert all((q.slices == 1) if q.items > ABOVE else (q.slices == -(-q.items // 64))
                       for q in heard.queries)  # fmt: skip
            away = [b for b in heard.batches if b.device == "gpu"]
            assert sorted(b.items for b in away) == list(range(ABOVE + 1, 1001))
            assert max(b.items for b in heard.batches if b.device == "cpu") <= 64
            busy = [(b.started_s, b.ended_s) for b in away]
            cpu = [b for b in heard.batches if b.device == "cpu"]
            both = sum(any(a < b.ended_s and b.started_s < e for a, e in busy) for b in cpu)
            assert both > 100, "or only one device was busy at a time"
            nothing_left(s)

    run(scenario())


@pytest.mark.live
def test_queries_that_share_a_batch_of_the_accelerator_get_their_own_scores() -> None:
    async def scenario() -> None:
        config = accelerated(policy=Offload(64, 200, 2000), gpu="tests.engine.devices:Slow")
        async with service(config, gpus=1) as s:
            heard, reference = Heard(s), Reference(s, NAME)
            queries = [features(s.models[NAME].schema, n, n) for n in (10, 400, 900, 250, 600, 50) * 5]
            found = await asyncio.gather(*(ask(s, NAME, q) for q in queries))
            for q, scores in zip(queries, found, strict=True):
                np.testing.assert_allclose(scores, reference(q), atol=1e-5)
            assert any(b.slices > 1 for b in heard.batches if b.device == "gpu"), "or nothing was merged"
            nothing_left(s)

    run(scenario())


@pytest.mark.live
def test_an_accelerator_that_is_killed_under_load_loses_no_query_and_comes_back() -> None:
    async def scenario() -> None:
        async with service(accelerated(gpu="tests.engine.devices:Slow"), workers=1, gpus=1) as s:
            heard, reference = Heard(s), Reference(s, NAME)
            schema = s.models[NAME].schema
            queries = [features(schema, n, n) for n in (40, 500, 900, 301)]
            expected = [reference(q) for q in queries]
            stop, wrong = False, 0

            async def client(k: int) -> None:
                nonlocal wrong
                i = k
                while not stop:
                    i += 1
                    scores = await ask(s, NAME, queries[i % 4])
                    wrong += not np.allclose(scores, expected[i % 4], atol=1e-5)

            def on_gpu() -> int:
                return sum(b.device == "gpu" for b in heard.batches)

            clients = [asyncio.create_task(client(k)) for k in range(5)]
            for kills in (1, 2):
                before = on_gpu()
                await until(s, lambda before=before: on_gpu() > before + 3)
                os.kill(s._workers.pids[-1], signal.SIGKILL)
                await until(s, lambda kills=kills: s._workers.deaths == kills)
                assert s.workers == {"cpu": 1, "gpu": 0}
                assert s.ready
                before = len(heard.queries)
                await until(
                    s,
                    lambda before=before: any(
                        q.slices > 1 and q.items > ABOVE for q in heard.queries[before:]
                    ),
                )
                await until(s, lambda: s.workers["gpu"] == 1)
            before = on_gpu()
            await until(s, lambda: on_gpu() > before + 3)
            stop = True
            await asyncio.gather(*clients)
            assert wrong == 0
            assert set(heard.outcomes) == {QueryOutcome.SERVED}
            nothing_left(s)

    run(scenario())


@pytest.mark.live
def test_an_accelerator_that_dies_of_every_batch_leaves_the_cpu_to_answer() -> None:
    async def scenario() -> None:
        async with service(accelerated(gpu="tests.engine.devices:Deadly"), workers=1, gpus=1) as s:
            reference = Reference(s, NAME)
            query = features(s.models[NAME].schema, 500, 1)
            for _ in range(3):
                np.testing.assert_allclose(await ask(s, NAME, query), reference(query), atol=1e-5)
            nothing_left(s)

    run(scenario())


@pytest.mark.live
def test_a_swap_gives_the_accelerator_the_new_weights_too() -> None:
    async def scenario() -> None:
        async with service(accelerated(), workers=1, gpus=1) as s:
            heard = Heard(s)
            await s.swap(NAME, "2", Weights(seed=5, fill=scaled_rows))
            second = Reference(s, NAME, seed=5)
            for n in (20, 700):
                query = features(s.models[NAME].schema, n, n)
                np.testing.assert_allclose(await ask(s, NAME, query), second(query), atol=1e-5)
            assert Counter(b.device for b in heard.batches) == {"cpu": 1, "gpu": 1}
            nothing_left(s)

    run(scenario())


@pytest.mark.live
def test_a_model_without_an_accelerator_shares_the_service_with_one_that_has_it() -> None:
    async def scenario() -> None:
        async with service(accelerated(), changed(name="wnd", policy=Static(64)), workers=1, gpus=2) as s:
            assert s.workers == {"cpu": 1, "gpu": 2}
            heard = Heard(s)
            for name, n in ((NAME, 800), ("wnd", 90)):
                query = features(s.models[name].schema, n, 0)
                np.testing.assert_allclose(await ask(s, name, query), Reference(s, name)(query), atol=1e-5)
            assert {(b.model, b.device) for b in heard.batches} == {(NAME, "gpu"), ("wnd", "cpu")}
            with pytest.raises(InputError, match="wnd: gpu: expected an engine, as policy deeprecsched offl"):
                s.adopt("wnd", DeepRecSched(64, 30), "a test")

    run(scenario())


@pytest.mark.live
def test_admission_goes_by_the_times_of_the_device_that_will_score() -> None:
    slow = LatencyProfile("any", (Point(1, 1, (1.0,)), Point(1, 1000, (2.0,))))
    quick = LatencyProfile("any", (Point(1, 1, (1e-3,)), Point(1, 1000, (2e-3,))))

    async def scenario() -> None:
        async with service(
            accelerated(engine="null", profile=slow, gpu_profile=quick), workers=1, gpus=1
        ) as s:
            now = time.monotonic()
            s.admit(NAME, 900, arrival_s=now, deadline_s=now + 0.5)
            with pytest.raises(RefusedError, match="would miss its deadline"):
                s.admit(NAME, 40, arrival_s=now, deadline_s=now + 0.5)

    run(scenario())


@pytest.mark.live
def test_metrics_and_page_show_devices_threshold_and_share() -> None:
    async def scenario() -> None:
        async with service(accelerated(engine="null"), workers=1, gpus=1) as s:
            counters = Counters()
            s.listen(counters)
            for n in (10, 400, 500):
                await ask(s, NAME, features(s.models[NAME].schema, n, n))
            await asyncio.sleep(1.1)  # a second is shown when it is over
            text = exposition(s, counters)[1].decode()
            for line in (
                'deeprecsys_workers{device="cpu"} 1.0',
                'deeprecsys_workers{device="gpu"} 1.0',
                f'deeprecsys_offload_above{{model="{NAME}"}} 300.0',
                f'deeprecsys_batches_total{{device="gpu",model="{NAME}"}} 2.0',
                f'deeprecsys_device_items_total{{device="cpu",model="{NAME}"}} 10.0',
                f'deeprecsys_device_items_total{{device="gpu",model="{NAME}"}} 900.0',
            ):
                assert line in text
            share = re.search(r"deeprecsys_offloaded_ratio\{.*\} (\S+)", text)
            assert share
            assert float(share[1]) == pytest.approx(900 / 910)
            doc = live_document(s, counters)
            (shown,) = doc["models"]
            assert doc["workers"] == {"cpu": 1, "gpu": 1}
            assert (shown["gpu"], shown["batches"]) == (ON_CPU, {"cpu": 1, "gpu": 2})
            assert shown["offloaded_share"] == pytest.approx(900 / 910)
            assert shown["point"]["offload_above"] == ABOVE
            assert s.models[NAME].config["gpu"] == ON_CPU

    run(scenario())


@pytest.mark.live
@pytest.mark.parametrize(
    ("changes", "gpus", "error", "why"),
    [
        ({"gpu": "emulated:x.json"}, 1, InputError, "gpu: expected an engine that scores, got emulated:x"),
        ({"gpu": None}, 0, InputError, "gpu: expected an engine, as policy deeprecsched offloads, got none"),
        ({}, 0, InputError, "gpus: expected accelerators exactly where a model has an engine"),
        (
            {"gpu": "tests.node.refusals:RefusingEngine", "engine": "null"},
            1,
            NodeError,
            "a gpu worker cannot start: RuntimeError",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(changes, gpus, error, why) -> None:
    async def scenario() -> None:
        async with service(accelerated(**changes), gpus=gpus):
            pass

    with pytest.raises(error, match=why):
        run(scenario())
