"""Summaries derived from run logs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from deeprecsys.core.runlog import RunLog, Status, stalled_s, summarise, warmup_s
from deeprecsys.core.target import Target, percentile


def log(latency_s, late_s=0.0, status=None, warmup=0.0, gap_s=0.1):
    n = len(latency_s)
    arrival = np.arange(n) * gap_s
    served = np.full(n, Status.SERVED, dtype=np.uint8) if status is None else np.array(status, dtype=np.uint8)
    finish = np.where(served == Status.SERVED, arrival + latency_s, np.nan)
    issued = arrival + np.broadcast_to(late_s, n)
    return RunLog(1 / gap_s, arrival, np.ones(n, np.int32), issued, issued, finish, served, 1.0, 2, warmup)


def test_latency_counts_from_the_intended_arrival():
    assert summarise(log(np.full(20, 0.05), late_s=0.04)).p50_ms == pytest.approx(50)


def test_the_warm_up_is_left_out_of_latencies_but_not_of_what_was_served():
    status = [Status.SHED] + [Status.SERVED] * 19
    s = summarise(log(np.r_[9.0, np.full(19, 0.05)], status=status, warmup=0.05), Target(latency_s=0.1))
    assert (s.measured, s.misses, s.offered, s.completed, s.shed) == (19, 0, 20, 19, 1)
    assert s.served == pytest.approx(0.95)
    assert s.max_ms == pytest.approx(50)


def test_unserved_queries_are_misses_and_infinitely_late():
    status = [Status.SERVED] * 18 + [Status.FAILED, Status.OPEN]
    s = summarise(log(np.full(20, 0.05), status=status), Target(latency_s=0.1))
    assert s.misses == 2
    assert s.miss_rate == pytest.approx(0.1)
    assert s.p95_ms == math.inf
    assert s.p50_ms == pytest.approx(50)
    assert s.failed == 1
    assert s.mean_ms == pytest.approx(50)


@pytest.mark.parametrize(
    ("target_s", "late_s", "void"),
    [(0.1, 0.0049, False), (0.1, 0.0051, True), (0.001, 0.00049, False), (0.001, 0.00051, True)],
)
def test_a_trial_is_void_when_its_source_was_late_by_5_percent_or_half_a_millisecond(target_s, late_s, void):
    assert summarise(log(np.full(50, 0.05), late_s=late_s), Target(latency_s=target_s)).void is void


def test_one_late_issue_in_two_hundred_voids_nothing():
    late = np.zeros(200)
    late[5] = 1.0
    assert not summarise(log(np.full(200, 0.05), late_s=late), Target(latency_s=0.1)).void


@pytest.mark.parametrize(
    ("duration", "target", "expected"),
    [
        (100, Target(latency_s=0.1), 10),
        (1, Target(latency_s=0.2), 0.2),
        (1, Target(latency_s=5.0), 1 / 3),
        (10, None, 1.0),
    ],
)
def test_the_warm_up_is_a_rule(duration, target, expected):
    assert warmup_s(duration, target) == pytest.approx(expected)


def test_utilisation_is_busy_time_over_all_workers():
    record = log(np.full(11, 0.0))  # 1 worker-second over 1 s, two workers
    assert summarise(record).utilisation == pytest.approx(0.5)


def test_an_empty_log_has_a_summary():
    s = summarise(log(np.array([])), Target(latency_s=0.1))
    assert s.offered == 0
    assert math.isnan(s.p95_ms)
    assert not s.void


def test_a_batch_that_took_far_longer_than_its_like_was_held_up():
    items = np.array([100, 100, 100, 400, 10])
    assert stalled_s(items, np.array([0.010, 0.010, 0.011, 0.150, 0.003])) == 0, "4 x (4 x 10 ms) at most"
    assert stalled_s(items, np.array([0.010, 0.010, 0.011, 0.400, 0.003])) == pytest.approx(0.36)
    assert stalled_s(items, np.array([0.010, 0.010, 0.090, 0.040, 0.003])) == pytest.approx(0.08)
    assert stalled_s(np.array([], int), np.array([])) == 0


def test_a_trial_is_disturbed_when_the_machine_stood_still_for_more_than_a_moment():
    record = log(np.full(11, 0.0))  # two workers, 1 s
    assert not summarise(record).disturbed
    assert not summarise(replace(record, stalled_s=0.003)).disturbed
    s = summarise(replace(record, stalled_s=0.050))
    assert s.disturbed
    assert not s.void
    assert s.stalled_share == pytest.approx(0.025)


def test_trials_at_one_rate_are_summarised_together():
    target, rng = Target(latency_s=0.1), np.random.default_rng(0)
    parts = [
        log(rng.uniform(0, 0.2, 50), late_s=0.001, warmup=0.5),
        log(rng.uniform(0, 0.2, 80), status=[Status.FAILED] + [Status.SERVED] * 79),
    ]
    s, each = summarise(parts, target), [summarise(part, target) for part in parts]
    for name in ("offered", "completed", "failed", "misses", "measured"):
        assert getattr(s, name) == sum(getattr(one, name) for one in each)
    together = np.concatenate([part.latency_s[part.measured] for part in parts])
    assert s.p95_ms == 1e3 * percentile(together, 0.95)
    assert s.lateness_p99_ms == max(one.lateness_p99_ms for one in each)
    assert min(one.utilisation for one in each) < s.utilisation < max(one.utilisation for one in each)
    assert summarise(parts[:1], target) == each[0]
    assert parts[0].meets(target) == each[0].meets(target)


def test_the_target_is_met_where_enough_are_in_time_and_all_are_served():
    target = Target(latency_s=0.1, quantile=0.9)
    for late, met in [(0, True), (2, True), (3, False)]:
        record = log(np.r_[np.full(late, 0.2), np.full(20 - late, 0.05)])
        assert record.meets(target) is summarise(record, target).meets(target) is met
    unserved = log(np.full(20, 0.05), status=[Status.SHED] + [Status.SERVED] * 19)
    assert unserved.meets(target) is summarise(unserved, target).meets(target) is False
    assert log(np.array([])).meets(target) is summarise(log(np.array([])), target).meets(target) is False


def test_more_work_than_the_workers_can_do_is_sustained_by_no_target():
    record, target = log(np.full(11, 0.05)), Target(latency_s=0.1)  # one second; two workers
    assert record.load == pytest.approx(0.5)
    assert record.carries(target)
    overloaded = replace(record, busy_s=2.1)
    assert overloaded.meets(target)
    assert not overloaded.carries(target)


def test_what_a_driver_observes_is_typed_and_written_under_its_own_names():
    record = replace(log(np.full(3, 0.05)), batches=3, abandoned=False, extra={"failures": ["why"]})
    assert record.observed() == {"batches": 3, "abandoned": False, "failures": ["why"]}
    again = log(np.full(3, 0.05)).observing(record.observed())
    assert (again.batches, again.abandoned, again.elapsed_s) == (3, False, None)
    assert again.extra == {"failures": ["why"]}
