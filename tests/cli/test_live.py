"""A profile of batches in a row, calibrated by a trial in open loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
import pytest

from deeprecsys.api.experiment import Experiment
from deeprecsys.api.profiles import TRIALS, calibrated, refreshed, sample_sizes
from deeprecsys.core.events import Command, Event, Finish, Start
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.core.target import Target, percentile
from deeprecsys.node.driver import Recording
from deeprecsys.search.rank import saturation_qps
from deeprecsys.simulate.driver import ServiceTimes, simulate
from deeprecsys.simulate.fast import run
from deeprecsys.workload.stream import Stream

CLOSED = LatencyProfile("ncf", tuple(Point(1, b, (1e-4 + 1e-5 * b,)) for b in (1, 1000)))
SPELL = 40  # batches
QUICK, SLOW = 0.5, 1.5  # of the mean, in spells


class Remembered:
    """Writes the batches of a trial in virtual time down as a live one does."""

    def __init__(self, recording: Recording) -> None:
        self._batches = recording.batches
        self._started: dict[int, float] = {}

    def __call__(self, event: Event, now_s: float, commands: list[Command]) -> None:
        if isinstance(event, Finish):
            start_s = self._started.pop(event.batch.id)
            self._batches.append((event.batch, start_s, start_s, now_s, now_s))
        for command in commands:
            if isinstance(command, Start):
                self._started[command.batch.id] = now_s


@dataclass
class Slower:
    """A node whose batches take `by` times what the profile says, and which serves only some."""

    by: float = 1.25
    serves: bool = True
    stalled_s: float = 0.0
    most_qps: float = inf
    workers: int = 1
    trials: int = 0
    measured: int = 0
    work: None = None
    user_stage: bool = False

    def service(self) -> ServiceTimes | LatencyProfile:
        """What its batches take."""
        return CLOSED.slowed(self.by)

    def run(
        self, policy: Policy, stream: Stream, target: Target, recording: Recording | None = None
    ) -> RunLog:
        self.trials += 1
        log = simulate(
            policy, stream.arrival_s, stream.size, self.service(), self.workers, rate_qps=stream.rate_qps,
            observe=Remembered(recording) if recording else None,
        )  # fmt: skip
        if not self.serves or stream.rate_qps > self.most_qps:
            log = replace(log, status=np.full_like(log.status, Status.SHED))
        return replace(
            log, occupied_s=log.busy_s, elapsed_s=log.duration_s, node_cpu_share=0.0, batches=0,
            stalled_s=self.stalled_s,
        )  # fmt: skip

    def measure(self, batch: int, busy: int, repeats: int, rest_s: float = 0.0) -> np.ndarray[Any, Any]:
        self.measured += 1
        return np.full(repeats, CLOSED.seconds(batch))


def test_times_become_those_of_the_trial(job: Experiment) -> None:
    node = Slower()
    found = calibrated(node, job, CLOSED)  # type: ignore[arg-type]
    assert found.detail["open_loop_ratio"] == pytest.approx(1.25, rel=1e-6)
    assert found.seconds(500) == pytest.approx(1.25 * CLOSED.seconds(500), rel=1e-6)
    assert (found.host_s, node.trials) == (0.0, 1)


def test_a_trial_that_lost_queries_changes_nothing(job: Experiment) -> None:
    assert calibrated(Slower(serves=False), job, CLOSED) == CLOSED  # type: ignore[arg-type]


def test_a_load_that_swamps_a_slower_node_is_halved_until_it_is_served(job: Experiment) -> None:
    full = saturation_qps(CLOSED, job.baseline(1).batch_size, sample_sizes(job), 1)
    node = Slower(by=2.5, most_qps=0.4 * full)
    found = calibrated(node, job, CLOSED)  # type: ignore[arg-type]
    assert node.trials == 2
    assert found.seconds(500) == pytest.approx(2.5 * CLOSED.seconds(500), rel=1e-6)


def test_a_profile_of_another_run_is_set_right(job: Experiment) -> None:
    node = Slower(by=1.5)
    found, warnings = refreshed(node, job, CLOSED, True, 1.0)  # type: ignore[arg-type]
    assert found.seconds(500) == pytest.approx(1.5 * CLOSED.seconds(500), rel=1e-6)
    assert warnings == [
        "batches now take 1.50 times what the profile says; all times were calibrated by that"
    ]
    again, quiet = refreshed(Slower(by=1.5), job, found.slowed(1 / 1.05), True, 1.0)  # type: ignore[arg-type]
    assert again.seconds(500) == pytest.approx(1.5 * CLOSED.seconds(500), rel=1e-6)
    assert quiet == []


def test_a_profile_of_this_run_is_kept_while_it_holds_and_else_measured_again(job: Experiment) -> None:
    assert refreshed(Slower(by=1.1), job, CLOSED, False, 1.0) == (CLOSED, [])  # type: ignore[arg-type]
    node = Slower(by=1.5)
    found, warnings = refreshed(node, job, CLOSED, False, 0.1)  # type: ignore[arg-type]
    assert node.measured > 0
    assert found.detail["samples"] > 0
    assert warnings == [
        "batches now take 1.50 times what the profile of minutes before says; it was measured again"
    ]


def test_a_trial_that_the_machine_disturbed_is_repeated(job: Experiment) -> None:
    node = Slower(stalled_s=10.0)
    calibrated(node, job, CLOSED)  # type: ignore[arg-type]
    assert node.trials == TRIALS


class Moody(Slower):
    """A node that is slow for a while and quick for a while, whatever it runs."""

    def service(self) -> ServiceTimes:
        started = 0

        def moody(items: int, busy: int, u: float) -> float:
            nonlocal started
            started += 1
            return (SLOW if started // SPELL % 2 else QUICK) * CLOSED.seconds(items)

        return moody


def test_a_machine_that_is_slow_for_a_while_is_simulated_as_one(job: Experiment) -> None:
    """Batches that are slow together make longer lines than as many slow ones among quick ones."""
    node = Moody()
    points = (
        replace(p, seconds=tuple(at * p.mean_s for at in (QUICK, SLOW) for _ in range(20)))
        for p in CLOSED.points
    )
    in_a_row = replace(CLOSED, points=tuple(points))
    found = calibrated(node, job, in_a_row)  # type: ignore[arg-type]
    assert found.detail["open_loop_ratio"] == pytest.approx(1, rel=0.05)
    u = np.array(found.ranks)
    assert np.corrcoef(u[:-1], u[1:])[0, 1] > 0.5
    policy = job.baseline(node.workers)
    rate = 0.75 * saturation_qps(CLOSED, policy.batch_size, sample_sizes(job), 1)
    stream = replace(job.workload, seed=9).stream(rate, queries=20_000)
    live = percentile(node.run(policy, stream, job.target).latency_s, 0.95)

    def p95(profile: LatencyProfile) -> float:
        return percentile(run(policy, stream.arrival_s, stream.size, profile, 1).latency_s, 0.95)

    assert p95(replace(in_a_row, ranks=found.ranks)) == pytest.approx(live, rel=0.1)
    assert p95(replace(found, ranks=())) < 0.7 * live
    assert p95(in_a_row) < 0.7 * live
