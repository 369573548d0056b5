"""The margin below a limit, and the run that is to hold there."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from benchmarks.search.sustained import QUEUES, WHOLE, capacity_qps
from deeprecsys.core.errors import InputError
from deeprecsys.core.target import Target
from deeprecsys.search.confirm import Confirmed, ConfirmSettings, confirm
from deeprecsys.search.events import Cost
from deeprecsys.search.history import Evaluation, Score
from deeprecsys.search.hold import ATTEMPTS, hold
from deeprecsys.search.margin import LEAST, MOST, Drift, Margin, NearLimit, checked_margin
from deeprecsys.search.sustain import Holding
from deeprecsys.search.tuner import TuneResult, gain
from tests.search.fakes import TARGET, Cliff, late

QUEUE = QUEUES[2]


def point(trial, qps: float, target: Target = TARGET) -> Confirmed:
    """A point near a rate, from short trials in blocks."""
    settings = ConfirmSettings(trial_s=4.0, rounds=2, most_rounds=2)
    (found,) = confirm(trial, [Evaluation(WHOLE, Score.exactly(qps))], target, settings)
    return found


def test_trials_in_blocks_are_never_sustained():
    found = point(Cliff(lambda p: 200.0), 150.0)
    assert found.met
    assert found.sustained.verdict is Holding.UNDECIDED
    assert found.sustained.lacks == ("one uninterrupted run",)


def test_a_rate_that_holds_takes_one_run_of_the_length_asked():
    trial = Cliff(lambda p: 200.0)
    before = point(trial, 180.0)
    trial.ran.clear()
    held = hold(trial, before, TARGET, 160.0, length_s=lambda rate: 70.0, step=0.05)
    assert [(rate, seconds) for _, rate, seconds, _ in trial.ran] == [(160.0, 70.0)]
    assert held.qps == 160.0
    assert held.sustained.held
    assert held.probe.trials == 1
    assert held.limit == before.limit, "the limit stays what the blocks showed"


def test_a_rate_that_does_not_hold_is_lowered_and_run_again():
    trial = Cliff(lambda p: 200.0)
    before = point(trial, 180.0)
    trial.ran.clear()
    held = hold(trial, before, TARGET, 215.0, length_s=lambda rate: 70.0, step=0.1)
    assert [rate for _, rate, *_ in trial.ran] == pytest.approx([215.0, 193.5], rel=0.01)
    assert held.met
    trial.ran.clear()
    missed = hold(trial, before, TARGET, 400.0, length_s=lambda rate: 70.0, step=0.01)
    assert len(trial.ran) == ATTEMPTS
    assert not missed.met
    assert missed.sustained.verdict is Holding.NOT_MET


def test_where_no_run_counts_the_point_stays_as_it_was():
    sound = Cliff(lambda p: 200.0)
    before = point(sound, 180.0)
    held = hold(lambda *a: late(sound(*a), 0.05), before, TARGET, 160.0, length_s=lambda r: 10.0, step=0.1)
    assert held is before


def test_a_point_on_another_node_takes_turns_and_gains_are_of_limits():
    fast, slow = Cliff(lambda p: 200.0), Cliff(lambda p: 100.0)
    settings = ConfirmSettings(trial_s=20.0, rounds=3, most_rounds=3, upward=True)
    point, usual = confirm(
        fast, [Evaluation(WHOLE, Score.exactly(190.0))], TARGET, settings,
        beside=[(slow, Evaluation(WHOLE, Score.exactly(95.0)))],
    )  # fmt: skip
    assert [seed for *_, seed in fast.ran[:2]] == [seed for *_, seed in slow.ran[:2]], "common arrivals"
    assert point.limit.qps == pytest.approx(200, rel=0.1)
    assert usual.limit.qps == pytest.approx(100, rel=0.1)
    found = gain(point, usual)
    assert found is not None
    assert found.low < 2.0 < found.high
    assert gain(point, replace(usual, met=False)) is None
    assert gain(None, usual) is None


def test_a_limit_that_no_trial_came_near_is_not_extrapolated():
    trial = Cliff(lambda p: 5000.0)
    found = point(trial, 190.0)
    assert found.limit.qps <= 1.1 * max(rate for _, rate, *_ in trial.ran)
    assert found.limit.qps >= found.qps


def test_a_limit_above_its_bound_is_cut_off_but_not_below_what_was_met():
    found = point(Cliff(lambda p: 5000.0), 190.0)
    assert found.limit.high_qps == inf, "nothing failed"
    bound = 0.5 * (found.qps + found.limit.qps)
    cut = found.within(bound).limit
    assert cut == (bound, min(found.limit.low_qps, bound), bound, bound)
    assert cut.to_json()["limit_bound_qps"] == bound
    assert found.within(0.5 * found.qps).limit.qps == found.qps, "it met that"
    known = found.limit._replace(high_qps=1e4)
    assert known.within(2e4) is known
    assert known.to_json()["limit_bound_qps"] is None


def test_bounds_leave_a_static_point_that_was_kept_the_same():
    one = point(Cliff(lambda p: 5000.0), 190.0)
    kept = TuneResult(TARGET, one, one, (), True, Cost(), Cost(), eager=one).within(lambda p: p.qps)
    assert kept.kept_static
    assert kept.same_engine
    assert kept.tuned.limit.qps == one.qps


def test_drift_is_the_slowest_look_over_the_fastest():
    drift = Drift()
    assert drift.share is None
    for look in ([1.0, 1.0, 9.0], [1.1, 1.1, 1.1], [0.9, 1.0, 1.0]):
        drift.add(look)
    assert drift.share == pytest.approx(0.1)
    assert Margin.of(drift) == Margin(pytest.approx(0.1), pytest.approx(0.1))
    assert Margin.of(drift, 5.0) == Margin(0.05, pytest.approx(0.1), True)
    assert Margin.of(Drift()).share == LEAST
    drift.add([3.0])
    assert Margin.of(drift).share == MOST
    assert Margin.of(drift).to_json()["drift_percent"] == pytest.approx(200.0)


@pytest.mark.parametrize("percent", [-1.0, 100.0, float("nan")])
def test_a_margin_is_a_percentage(percent: float):
    with pytest.raises(InputError, match="--margin: expected a percentage"):
        checked_margin(percent)


@pytest.fixture(scope="module")
def near() -> NearLimit:
    return NearLimit(
        lambda slower: QUEUE.node.slowed(slower).path(200_000),
        WHOLE,
        QUEUE.target,
        500.0,
    )


def test_the_rate_below_the_margin_meets_the_target_when_batches_are_that_much_slower(near):
    share = near.share(Margin(0.1, None))
    assert 0.8 < share < 1 / 1.1, "slower batches also leave less of the target to wait"
    slower = QUEUE.node.slowed(1.1).path(200_000)
    assert slower(WHOLE, share * near.capacity_qps).meets(QUEUE.target)
    assert not slower(WHOLE, 1.02 * share * near.capacity_qps).meets(QUEUE.target)
    assert near.share(Margin(0.0, None, True)) == 1.0


def test_near_the_limit_latency_rises_and_beyond_the_workers_has_no_end(near):
    curve = near.curve(0.95 * 800.0, 800.0)  # a node that carries more than the profile says
    assert [p["percent"] for p in curve] == pytest.approx([-30, -20, -10, -5, 0, 2, 5, 10])
    known = [p["latency_ms"] for p in curve if p["latency_ms"] is not None]
    assert known == sorted(known)
    at_limit = next(p for p in curve if p["percent"] == pytest.approx(5.0))
    assert at_limit["latency_ms"] == pytest.approx(100, rel=0.5), "5 % above 95 % is about the limit"
    assert curve[-1]["latency_ms"] is None, "no worker could follow"
    assert all(p["simulated"] for p in curve)


def test_the_limit_of_short_trials_is_that_of_the_long_run():
    """Each trial begins with an empty node: the highest rate that met is too high, the estimate is not."""
    node = QUEUE.node.trial()
    full = capacity_qps(QUEUE, 500_000)
    settings = replace(ConfirmSettings(trial_s=2.0, upward=True, step=0.04, attempts=12), most_rounds=6)
    limits = [
        confirm(node, [Evaluation(WHOLE, Score.exactly(full))], QUEUE.target, settings, seed=seed)[0].limit
        for seed in range(12)
    ]
    assert sum(limit.qps for limit in limits) / len(limits) == pytest.approx(full, rel=0.03)
    assert sum(limit.low_qps <= full <= limit.high_qps for limit in limits) >= 10
