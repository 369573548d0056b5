"""Rows of different lengths in virtual time: what counting work gains, and that it predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.lib.counted import latencies_s
from deeprecsys.api.experiment import Experiment
from deeprecsys.core.policy import DeepRecSched
from deeprecsys.core.policy.deadline import Deadline
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.simulate.fast import run
from deeprecsys.workload.stream import Stream

SHARE, BATCH_S, UNIT_S, WORKERS, TARGET_S = 0.8, 1e-4, 8e-6, 8, 3e-3
PROFILE = LatencyProfile(
    "any", tuple(Point(1, b, (BATCH_S + UNIT_S * b,)) for b in (1, 1000)), lookup_share=SHARE
)


def seconds(work: float) -> float:
    return BATCH_S + UNIT_S * work


@pytest.fixture(scope="module")
def job() -> Experiment:
    """Queries whose lengths differ from query to query: mean 16, p99 above 80."""
    return Experiment.resolve("dlrm-rmc1-jagged", rows_scale=0.02, lookups="lognormal:1@0,0.8")


def stream(job: Experiment, load: float, queries: int = 5000) -> Stream:
    """Queries at a share of the rate that saturates the workers."""
    work = job.workload.at_share(SHARE).stream(1.0, queries=queries).size.mean()
    return job.workload.at_share(SHARE).stream(load * WORKERS / (BATCH_S + UNIT_S * work), queries=queries)


def test_a_policy_that_counts_work_carries_a_tenth_more_than_one_that_counts_items(job: Experiment) -> None:
    assert job.workload.work is not None
    true = job.workload.work.at_share(SHARE)

    def late(share: float, load: float, batch: int) -> float:
        """The share of queries beyond the target, under deadline order."""
        s = stream(job, load).at_share(share)
        return float(np.mean(latencies_s(Deadline(batch, TARGET_S), s, true, seconds, WORKERS) > TARGET_S))

    assert min(late(0.0, 0.85, batch) for batch in (32, 128)) > 0.05
    assert late(SHARE, 1.1 * 0.85, 128) < 0.05


def test_the_load_padded_to_its_99th_percentile_is_two_and_a_half_times_the_work(job: Experiment) -> None:
    assert job.workload.work is not None
    s = stream(job, 0.5)
    padded = (1 - SHARE + SHARE * 80 / 16) * s.items
    assert seconds(padded.mean()) >= 2.5 * seconds(s.size.mean())


def test_simulations_of_whole_units_predict_what_batches_of_the_items_take(job: Experiment) -> None:
    assert job.workload.work is not None
    s, policy = stream(job, 0.7), DeepRecSched(64)
    true = latencies_s(policy, s, job.workload.work.at_share(SHARE), seconds, WORKERS)
    simulated = run(policy, s.arrival_s, s.size, PROFILE, WORKERS).latency_s
    for quantile in (0.5, 0.95, 0.99):
        assert np.quantile(simulated, quantile) == pytest.approx(np.quantile(true, quantile), rel=0.05)
    items = replace(s, size=s.items)
    by_items = run(policy, items.arrival_s, items.size, PROFILE, WORKERS).latency_s
    assert abs(np.quantile(by_items, 0.95) / np.quantile(true, 0.95) - 1) > 0.1
