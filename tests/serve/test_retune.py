"""Live retuning: what is offered_load, whether a change is worth it, and the search that it rests on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.api.announced import load
from deeprecsys.api.policies import from_description
from deeprecsys.api.retuning.decision import (
    BestPolicy,
    OfferedLoad,
    RetuneSettings,
    decide,
    offered_load,
    searched,
)
from deeprecsys.api.retuning.resimulate import Question, Resimulator, best_policy
from deeprecsys.api.retuning.retuner import Retuner
from deeprecsys.core.allowance import NOTHING, Allowance
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Adaptive, Coalescing, Deadline, DeepRecSched, Policy, Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.target import Target
from deeprecsys.node.service.backend import OperatingPoint, RefusedError
from tests.core.policies import POLICIES
from tests.serve.harness import Heard, ask_any, changed, run, service

SETTINGS = RetuneSettings(window_s=30.0, least_queries=10, gain=0.05, hold_s=20.0)
LOAD = OfferedLoad(50.0, (10, 20, 300))
HERE, THERE = DeepRecSched(100), DeepRecSched(20)


def test_the_window_counts_what_came_within_it():
    offered = [(float(t), t) for t in range(100)]
    found = offered_load(offered, 99.5, SETTINGS)
    assert found is not None
    assert found.sizes == tuple(range(70, 100))
    assert found.rate_qps == pytest.approx(30 / 29.5)
    assert found.mean_items == pytest.approx(84.5)


def test_too_few_queries_say_nothing():
    assert offered_load([(0.1 * t, 5) for t in range(9)], 1.0, SETTINGS) is None
    assert offered_load([], 1.0, SETTINGS) is None


@pytest.mark.parametrize(
    ("found", "since_s", "changes"),
    [
        (BestPolicy(THERE, 110.0, 100.0), 0.0, True),
        (BestPolicy(THERE, 104.0, 100.0), 0.0, False),  # not worth it
        (BestPolicy(THERE, 110.0, 100.0), 85.0, False),  # too soon after the last change
        (BestPolicy(HERE, 110.0, 100.0), 0.0, False),  # the same
        (BestPolicy(THERE, 10.0, 0.0), 0.0, True),  # what serves now cannot meet the target at all
        (BestPolicy(THERE, 0.0, 0.0), 0.0, False),
    ],
)
def test_a_change_must_be_worth_it(found, since_s, changes):
    change = decide(HERE, LOAD, found, since_s, 100.0, SETTINGS)
    assert (change is not None) == changes
    if change:
        assert change.policy == THERE
        assert "3 queries at 50.0/s with 110 items in the mean and 300 at p95" in change.why
        assert f"carry {found.capacity_qps:.1f}/s instead of {found.present_qps:.1f}/s" in change.why


@given(st.floats(1, 1e4), st.floats(1, 1e4))
def test_two_policies_never_take_turns_on_one_mix(a, b):
    """Hysteresis: what was left for another is not taken back on the same figures."""
    there = decide(HERE, LOAD, BestPolicy(THERE, a, b), 0.0, 1e6, SETTINGS)
    back = decide(THERE, LOAD, BestPolicy(HERE, b, a), 0.0, 1e6, SETTINGS)
    assert there is None or back is None


@given(POLICIES)
def test_policies_cross_as_their_descriptions(policy):
    crossed = from_description(json.loads(json.dumps(policy.describe())))
    assert type(crossed) is type(policy)
    for key, value in policy.describe().items():
        exact = not key.endswith("_ms")
        assert crossed.describe()[key] == (value if exact else pytest.approx(value, rel=1e-12)), key
    if searched(policy):
        assert crossed == policy


def test_other_policies_are_left_alone():
    other = Deadline(10, 0.1)
    assert not searched(other)
    assert not searched(DeepRecSched(10, 20))
    with pytest.raises(InputError, match="unknown policy 'deadlines': did you mean 'deadline'"):
        from_description({**other.describe(), "policy": "deadlines"})


PROFILE = LatencyProfile("any", (Point(1, 1, (2e-3,)), Point(1, 1000, (102e-3,))))


@pytest.mark.parametrize("present", [None, Coalescing(64, 8)])
def test_a_question_crosses_to_another_process_unchanged(present):
    allowance = Allowance(0.1, 3e-4, shared=False)
    question = Question(
        PROFILE, [4, 7], 2, Target(latency_s=0.06), 1000, present, 500, PROFILE, 3, allowance, search=False
    )  # fmt: skip
    crossed = Question.from_json(json.loads(json.dumps(question.to_json())))
    assert replace(crossed, profile=PROFILE, gpu=PROFILE) == question
    assert crossed.gpu.to_json() == PROFILE.to_json()
    assert crossed.profile.to_json() == PROFILE.to_json()


def test_small_queries_share_batches_and_large_ones_are_cut():
    """A batch costs 2 ms and an item 0.1 ms: merging spares the former, cutting shortens the longest."""
    target = Target(latency_s=0.06)
    small = best_policy(Question(PROFILE, [4] * 50, 2, target, 1000, DeepRecSched(1000), 4000))
    assert isinstance(small.policy, Coalescing)
    assert small.capacity_qps > 1.5 * small.present_qps
    large = best_policy(Question(PROFILE, [1000] * 50, 2, target, 1000, DeepRecSched(1000), 2000))
    assert large.present_qps == 0, "whole, one takes 102 ms"
    assert large.capacity_qps > 0
    assert isinstance(large.policy, DeepRecSched | Static | Adaptive | Coalescing)
    assert large.policy.batch_size <= 600


QUICK = LatencyProfile("any", (Point(1, 1, (4e-3,)), Point(1, 1000, (8e-3,))))
"""An accelerator: 4 ms a batch, 4 µs an item."""


def test_the_threshold_of_an_accelerator_is_searched_too():
    sizes = [10] * 40 + [600] * 10
    target = Target(latency_s=0.06)
    alone = best_policy(Question(PROFILE, sizes, 2, target, 1000, None, 4000))
    found = best_policy(Question(PROFILE, sizes, 2, target, 1000, None, 4000, QUICK, 1))
    assert alone.policy.offload_above is None
    assert found.policy.offload_above < 600
    assert found.capacity_qps > 1.5 * alone.capacity_qps
    assert searched(found.policy, gpu=True)
    assert not searched(found.policy)


def test_a_path_with_less_work_than_the_target_has_no_endless_capacity():
    """10,000 queries of 3 items are 30 ms of work: at any rate all would be answered within 60 ms."""
    quick = LatencyProfile("any", (Point(1, 1, (1e-6,)), Point(1, 1000, (1e-3,))))
    found = best_policy(
        Question(quick, [3] * 50, 2, Target(latency_s=0.06), 1000, DeepRecSched(1000), 10_000)
    )
    most_qps = 2 / 3e-6
    assert 0.9 * most_qps < found.present_qps <= 1.01 * most_qps
    assert found.capacity_qps <= 1.01 * most_qps


def test_what_is_allowed_for_lowers_the_capacity_and_the_face_may_be_what_limits_it():
    """A query of 100 items in one batch takes a worker 12 ms: two carry at most 167 of them a second."""

    def carried(allowance: Allowance) -> float:
        asked = Question(
            PROFILE, [100] * 50, 2, Target(latency_s=0.5), 1000, DeepRecSched(1000), 4000,
            allowance=allowance, search=False,
        )  # fmt: skip
        found = best_policy(asked)
        assert found.policy == DeepRecSched(1000)
        return found.present_qps

    as_measured = carried(NOTHING)
    assert 0.9 * 2 / 0.012 < as_measured < 1.05 * 2 / 0.012
    assert carried(Allowance(0.1)) == pytest.approx(as_measured / 1.1, rel=0.02)
    face_s = 4e-3  # of two cores, beside 12 ms of a worker
    assert carried(Allowance(0.0, face_s)) == pytest.approx(as_measured * 12 / 16, rel=0.03)
    assert carried(Allowance(0.0, face_s, shared=False)) == pytest.approx(as_measured, rel=0.02)
    slow = Allowance(0.0, 8e-3, shared=False)
    assert carried(slow) == slow.most_qps == 100.0


@pytest.mark.live
def test_a_service_changes_its_policy_by_what_it_sees_and_says_why():
    async def scenario() -> None:
        config = changed(
            engine="wait:2,0.1", profile=PROFILE, target=Target(latency_s=0.06), policy=DeepRecSched(100)
        )
        async with service(config, workers=2) as s:
            heard = Heard(s)
            settings = RetuneSettings(least_queries=20, hold_s=0.0, path_queries=2000)
            retuner = Retuner(s, settings)
            served = s._served["dlrm-rmc1"]
            now = time.monotonic()
            served.offered.extend((now - 1 + 0.01 * i, 4) for i in range(90))
            try:
                open_queries = [asyncio.create_task(ask_any(s, items=4)) for _ in range(20)]
                await retuner.look(served)
                answers = await asyncio.gather(*open_queries, return_exceptions=True)
                # The simulation takes cores: one that waited too long for the target may be refused.
                assert {type(a) for a in answers} <= {np.ndarray, RefusedError}
                ((name, point),) = heard.points
                assert (name, point.policy) == ("dlrm-rmc1", "coalescing")
                assert s.point("dlrm-rmc1") == point
                assert "simulated to carry" in point.why
                assert point.capacity_qps is not None
                await retuner.look(served)
                assert len(heard.points) == 1, "the same mix asks for nothing else"
                s.pin("dlrm-rmc1")
                assert s.retunable == []
                await ask_any(s, items=100)
            finally:
                await retuner._simulation.close()

    run(scenario())


@pytest.mark.live
def test_a_service_with_an_accelerator_moves_its_threshold():
    async def scenario() -> None:
        config = changed(
            engine="wait:2,0.1", profile=PROFILE, target=Target(latency_s=0.06),
            policy=DeepRecSched(100, 999), gpu="tests.engine.devices:OnCpu", gpu_profile=QUICK,
            max_items=1000,
        )  # fmt: skip
        async with service(config, workers=2, gpus=1) as s:
            heard = Heard(s)
            retuner = Retuner(s, RetuneSettings(least_queries=20, hold_s=0.0, path_queries=2000))
            served, now = s._served["dlrm-rmc1"], time.monotonic()
            served.offered.extend((now - 1 + 0.01 * i, (10, 10, 10, 10, 600)[i % 5]) for i in range(90))
            try:
                await retuner.look(served)
                ((_, point),) = heard.points
                assert point.offload_above < 600
                await ask_any(s, items=700)
                assert [b.device for b in heard.batches] == ["gpu"]
            finally:
                await retuner._simulation.close()

    run(scenario())


@pytest.mark.parametrize("policy", [Deadline(100, 0.06), Static(500)])
def test_what_a_pinned_policy_carries_is_simulated_too(policy: Policy) -> None:
    sizes, target = [10, 50, 300], Target(latency_s=0.06)
    asked = Question(PROFILE, sizes, 2, target, 1000, policy, 40_000, search=False)
    found = best_policy(asked)
    assert found.policy == policy
    assert found.present_qps == found.capacity_qps > 0
    slower = best_policy(replace(asked, allowance=Allowance(0.2)))
    assert slower.present_qps < found.present_qps


def test_an_announced_load_says_whose_margin_it_has() -> None:
    def said(qps: float | None) -> str:
        about = {"policy": "static", "batch_size": 500, "offload_above": None, "since_s": 0.0, "why": ""}
        return load(OperatingPoint(**about, capacity_qps=qps, allowance=Allowance(0.07)), "as asked")

    assert said(120.0).startswith(
        "120 queries/s, simulated, also if batches take 7 % longer (as asked); limited by the workers"
    )
    assert said(0.0).startswith("none that meets the target, simulated, also if batches take 7 % longer")
    assert said(None) == "unknown: its policy could not be simulated"


def test_sizes_of_a_mix_are_numbers_of_items():
    assert replace(LOAD, sizes=(1,)).p95_items == 1
    assert np.isclose(LOAD.mean_items, 110)


def test_a_simulation_whose_process_was_killed_at_rest_is_answered_by_another():
    async def scenario() -> None:
        simulation = Resimulator()
        question = Question(PROFILE, [4, 7], 2, Target(latency_s=0.06), 1000, None, 500)
        try:
            first = await simulation.best(question)
            os.kill(simulation._process.pid, signal.SIGKILL)
            await asyncio.wait_for(simulation._process.wait(), 10)
            assert await simulation.best(question) == first
        finally:
            await simulation.close()

    run(scenario())


@pytest.mark.parametrize("error", [OSError("Too many open files"), RuntimeError("of another kind")])
def test_live_retuning_goes_on_after_a_look_that_fails(error: Exception, caplog: pytest.LogCaptureFixture):
    """It neither ends on its own, nor with an error when the server stops."""
    looks = 0

    class Failing(Resimulator):
        async def best(self, question: Question) -> BestPolicy:
            nonlocal looks
            looks += 1
            raise error

    async def scenario() -> None:
        model = SimpleNamespace(
            name="any", policy=DeepRecSched(100), offered=[(time.monotonic(), 4)] * 30, allowance=NOTHING,
            config=SimpleNamespace(profile=PROFILE, target=None, max_items=9, gpu_profile=None),
        )  # fmt: skip
        node = SimpleNamespace(retunable=[model], config=SimpleNamespace(cores=[[0]], gpus=0))
        retuner = Retuner(node, RetuneSettings(every_s=0.01, least_queries=20))
        retuner._simulation = Failing()
        task = asyncio.create_task(retuner.run())
        while looks < 3:
            assert not task.done()
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())
    assert str(error) in caplog.text
