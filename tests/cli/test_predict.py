"""What a profile says of a point that was confirmed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deeprecsys.api import predict
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.predict import prediction
from deeprecsys.api.virtual import NodeModel
from deeprecsys.core.policy import Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import RunLog, warmup_s
from deeprecsys.search.confirm import Confirmed, Limit, in_blocks
from deeprecsys.search.probes import Runner
from deeprecsys.search.result import CapacityResult, Outcome
from deeprecsys.simulate.fast import run

PROFILE = LatencyProfile("ncf", tuple(Point(1, b, (2e-4 + 4e-6 * b,)) for b in (1, 1000)))
POLICY = Static(500)


def confirmed(job: Experiment, by: float, qps: float, trials: int = 3, says: bool = True) -> Confirmed:
    """A point that ran on a node whose batches take `by` times what the profile says."""

    def trial(policy: Any, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        stream = replace(job.workload, seed=seed).stream(rate_qps, duration_s=duration_s)
        log = run(
            policy, stream.arrival_s, stream.size, PROFILE.slowed(by), 1,
            warmup_s=warmup_s(duration_s, job.target), rate_qps=rate_qps,
        )  # fmt: skip
        return replace(log, seconds_per_item=log.busy_s / int(stream.size.sum()) if says else None)

    runner = Runner(trial, POLICY, job.target, seed=5)
    for _ in range(trials):
        runner.must_run(qps, 2.0)
    found = CapacityResult(qps, qps, qps, Outcome.FOUND, 0.95, True, None, (), 0.0, 0, 0, 0)
    probe = runner.probe(qps, 0.95)
    return Confirmed(POLICY, found, probe, True, 1, Limit(qps, qps, qps), in_blocks(probe, True))


@pytest.fixture(scope="module")
def same_and_slower(job: Experiment) -> list[dict[str, Any]]:
    """What the profile says of a node as fast as it states, and of one that takes 1.3 times as long."""
    return [prediction(NodeModel.of(job, PROFILE, 1), confirmed(job, by, 600.0)) for by in (1.0, 1.3)]


@pytest.fixture
def trials_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither bounds nor the curve of batch sizes are computed, which take the most time."""
    monkeypatch.setattr(predict, "bounds_document", lambda *args: {})
    monkeypatch.setattr(NodeModel, "curve", lambda self: [])


def test_the_very_trials_run_again_are_what_they_were(same_and_slower: list[dict[str, Any]]) -> None:
    found = same_and_slower[0]
    assert found["simulator_error"] == pytest.approx(0, abs=1e-9)
    assert found["pace"] == pytest.approx(1)
    assert found["paced_simulator_error"] == pytest.approx(0, abs=1e-9)


@pytest.mark.usefixtures("trials_alone")
def test_a_machine_that_became_slower_is_told_from_a_wrong_simulator(job: Experiment) -> None:
    """Few short trials: what an item takes depends on the sizes that came, and that is no pace."""
    for qps in (150.0, 800.0):
        found = prediction(NodeModel.of(job, PROFILE, 1), confirmed(job, 1.3, qps, trials=1))
        assert found["simulator_error"] < -0.1
        assert found["pace"] == pytest.approx(1.3)
        assert found["paced_simulator_error"] == pytest.approx(0, abs=1e-9)


def test_bounds_are_of_that_pace(same_and_slower: list[dict[str, Any]]) -> None:
    at = [found["bounds"]["capacity_qps"] for found in same_and_slower]
    assert at[0] / at[1] == pytest.approx(1.3, rel=0.02)


@pytest.mark.usefixtures("trials_alone")
def test_where_a_trial_does_not_say_what_items_took_there_is_no_pace(job: Experiment) -> None:
    found = prediction(NodeModel.of(job, PROFILE, 1), confirmed(job, 1.3, 600.0, says=False))
    assert found["pace"] is found["paced_simulator_error"] is None
    assert np.isfinite(found["simulator_error"])


def test_the_curve_of_batch_sizes_is_whole_and_at_that_pace(same_and_slower: list[dict[str, Any]]) -> None:
    same, slower = ({p["batch_size"]: p["qps"] for p in found["batch_curve"]} for found in same_and_slower)
    assert list(same) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
    assert same[1000] > same[1] >= 0
    assert 1.2 < same[1000] / slower[1000] < 2.0, "slower by 1.3, and what is left of the target by more"
