"""A node with a second device: large queries whole to it, an emulated one takes its profile's time."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import GPU, DeepRecSched, Earliest, Offload, Policy
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import Status
from deeprecsys.core.target import Target
from deeprecsys.engine import BUILT_IN, EngineSpec, factory
from deeprecsys.node.driver import Recording
from deeprecsys.node.node import Node
from deeprecsys.node.runtime.mailbox import MAX_SLICES
from tests.core.policies import OFFLOADING
from tests.node.test_node import SMALL, Collect, reference, stream

BATCH_S, ITEM_S = 4e-3, 2e-5
ABOVE = 50


@pytest.fixture(scope="module")
def profile_file(tmp_path_factory: pytest.TempPathFactory):
    points = tuple(Point(1, b, tuple(f * (BATCH_S + ITEM_S * b) for f in (0.9, 1.0, 1.1))) for b in (1, 1000))
    file = tmp_path_factory.mktemp("profiles") / "gpu.json"
    file.write_text(json.dumps(LatencyProfile(SMALL.model, points).to_json()))
    return file


@pytest.fixture(scope="module")
def node(profile_file) -> Iterator[Node]:
    with Node(replace(SMALL, workers=1, gpu=f"emulated:{profile_file}")) as n:
        yield n


@pytest.mark.live
def test_queries_above_the_threshold_go_whole_to_the_accelerator_and_the_others_are_scored(node):
    queries = stream(np.random.default_rng(1).integers(1, 101, 120).tolist(), gap_s=0.006)
    collect, recording = Collect(), Recording()
    log = node.run(DeepRecSched(16, ABOVE), queries, hooks=collect, recording=recording)
    assert set(log.status.tolist()) == {Status.SERVED}
    large = queries.size > ABOVE
    away = [b for b, *_ in recording.batches if b.device == GPU]
    assert sorted(b.slices[0].query.id for b in away) == np.flatnonzero(large).tolist()
    assert all((s.start, s.stop) == (0, s.query.size) for b in away for s in b.slices)
    for i, expected in enumerate(reference(node, queries)):
        if large[i]:
            assert np.isnan(collect.scores_by_query[i]).all(), "an emulated device has no scores"
        else:
            np.testing.assert_allclose(collect.scores_by_query[i], expected, atol=1e-5)


@pytest.mark.live
def test_what_each_device_did_is_accounted_for(node):
    queries = stream([80] * 10 + [10] * 20, gap_s=0.008)
    log = node.run(DeepRecSched(100, ABOVE), queries)
    used = log.extra["devices"]
    assert {d: (u["batches"], u["items"]) for d, u in used.items()} == {"cpu": (20, 200), "gpu": (10, 800)}
    assert used["gpu"]["busy_s"] >= 10 * 0.9 * (BATCH_S + ITEM_S * 80)
    assert log.busy_s == pytest.approx(sum(u["busy_s"] for u in used.values()))


@pytest.mark.alone
def test_the_emulated_device_takes_the_time_of_its_profile_with_its_spread(node):
    took = node.measure(50, 1, 60, device=GPU)
    expected = BATCH_S + ITEM_S * 50
    assert took.min() >= 0.9 * expected
    assert np.median(took) == pytest.approx(expected, rel=0.15)  # on a busy machine, later
    assert np.ptp(took) > 0.05 * expected


@pytest.mark.live
def test_a_killed_accelerator_worker_loses_no_query_and_is_replaced(node):
    deaths = node.pool.deaths

    class Kill(Collect):
        def tick(self, share: float) -> None:
            if node.pool.deaths == deaths and share > 0.2:
                os.kill(node.pool.pids[-1], signal.SIGKILL)

    queries = stream([80, 5] * 100, gap_s=0.01)
    log = node.run(DeepRecSched(100, ABOVE), queries, Target(latency_s=5.0), hooks=Kill())
    assert node.pool.deaths == deaths + 1
    assert set(log.status.tolist()) == {Status.SERVED}


@pytest.mark.live
def test_its_workers_are_no_cpu_workers(node):
    assert (node.workers, len(node.pool), node.describe()["gpus"]) == (1, 2, 1)
    assert node.pool.counts == node.pool.alive == {"cpu": 1, "gpu": 1}


@pytest.mark.live
def test_a_profile_that_is_none_or_of_another_model_is_refused(profile_file):
    assert set(BUILT_IN) >= {"cuda", "emulated"}
    with pytest.raises(InputError, match=r"emulated:/nowhere\.json: expected a latency profile"):
        Node(replace(SMALL, gpu="emulated:/nowhere.json"))
    with pytest.raises(InputError, match="expected a profile of ncf, got one of dlrm-rmc1"):
        Node(replace(SMALL, model="ncf", gpu=f"emulated:{profile_file}"))
    assert factory(EngineSpec.parse("emulated"))


OFFLOADING_LIVE = [Offload(16, 20, 400), Earliest(16, 20, 400)]


@pytest.mark.live
@pytest.mark.parametrize("policy", OFFLOADING_LIVE, ids=lambda p: p.describe()["policy"])
def test_policies_that_merge_on_the_accelerator_serve_all_and_replay_alike(node: Node, policy: Policy):
    queries = stream(np.random.default_rng(2).integers(1, 101, 200).tolist(), gap_s=1e-3)
    recording = Recording()
    log = node.run(policy, queries, recording=recording)
    assert set(log.status.tolist()) == {Status.SERVED}
    fresh = Dispatcher(policy, {"cpu": 1, "gpu": 1}, Limits(slices=MAX_SLICES))
    for (now, event), commands in zip(recording.events, recording.commands, strict=True):
        assert fresh.handle(event, now) == commands
        fresh.check()
    away = [b for b, *_ in recording.batches if b.device == GPU]
    assert any(len(b.slices) > 1 for b in away), "or nothing was merged"
    assert all(b.items <= 400 and all(s.start == 0 for s in b.slices) for b in away)


def test_every_policy_that_offloads_runs_live():
    assert {p.describe()["policy"] for p in OFFLOADING_LIVE} == set(OFFLOADING)
