"""Confirmation: points that are run until a rate holds."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest

from deeprecsys.core.errors import InputError, TrialsVoidError
from deeprecsys.core.policy import DeepRecSched, Static
from deeprecsys.search.confirm import ConfirmSettings, confirm
from deeprecsys.search.history import Evaluation
from deeprecsys.search.result import CapacityResult, Outcome, Verdict
from tests.search.fakes import TARGET, Cliff, late

POLICY = DeepRecSched(64)


def candidate(qps: float, policy=POLICY) -> Evaluation:
    """A capacity as a search states it."""
    found = CapacityResult(
        qps, 0.9 * qps, 1.1 * qps, Outcome.FOUND, 0.95, True, None, (), 0.0, 0, 0, 0
    )  # fmt: skip
    return Evaluation(policy, found)


def settings(**rest) -> ConfirmSettings:
    return ConfirmSettings(**{"trial_s": 20.0, "rounds": 2, "most_rounds": 2, **rest})


def rates(trial, policy=POLICY):
    """The rates at which a policy ran, in order, each once."""
    return list(dict.fromkeys(rate for p, rate, *_ in trial.ran if p == policy))


def test_a_sound_point_is_met_at_its_capacity_less_the_margin():
    trial = Cliff(lambda p: 200.0)
    (point,) = confirm(trial, [candidate(200.0)], TARGET, settings(margin=0.05))
    assert rates(trial) == [190.0]
    assert (point.met, point.qps, point.attempts) == (True, 190.0, 1)
    assert point.probe.trials == 2


def test_a_point_that_was_flattered_steps_down_and_back_up():
    trial = Cliff(lambda p: 170.0)
    (point,) = confirm(trial, [candidate(200.0)], TARGET, settings())
    tried = rates(trial)
    assert point.met
    assert tried[0] == 196.0
    below = next(r for r in tried if r < 165)
    assert tried.index(below) < len(tried) - 1, "from the first met rate it goes up again"
    assert point.qps > below
    assert 160 < point.qps < 173
    assert point.probe.summary.served == 1


def test_upward_it_finds_what_the_search_left():
    trial = Cliff(lambda p: 260.0)
    (point,) = confirm(trial, [candidate(200.0)], TARGET, settings(upward=True, attempts=9))
    assert 230 < point.qps < 265
    (kept,) = confirm(Cliff(lambda p: 260.0), [candidate(200.0)], TARGET, settings(attempts=9))
    assert kept.qps == 196.0


def test_the_result_is_the_highest_rate_met_and_not_the_last_tried():
    trial = Cliff(lambda p: 215.0)
    (point,) = confirm(trial, [candidate(200.0)], TARGET, settings(upward=True, attempts=6))
    tried = rates(trial)
    assert max(tried) > 215 > point.qps
    assert point.qps == max(r for r in tried if r < 215 and r <= point.qps)
    assert point.met


def test_undecided_rates_get_more_rounds_and_decided_ones_do_not():
    few = settings(rounds=2, most_rounds=6, attempts=1, trial_s=5.0)
    clear = Cliff(lambda p: 400.0)
    confirm(clear, [candidate(200.0)], TARGET, few)
    assert len(clear.ran) == 2
    close = Cliff(lambda p: 198.0)
    (point,) = confirm(close, [candidate(200.0)], TARGET, few)
    assert len(close.ran) > 2
    assert point.probe.verdict is not Verdict.UNDECIDED or len(close.ran) == 6


def test_a_clearly_failed_rate_costs_one_trial():
    trial = Cliff(lambda p: 120.0)
    confirm(trial, [candidate(200.0)], TARGET, settings(rounds=3, most_rounds=3, attempts=1))
    assert len(trial.ran) == 1


def test_one_clear_trial_decides_a_rate_on_the_way_and_the_one_that_stands_gets_all_its_rounds():
    trial = Cliff(lambda p: 120.0)
    (point,) = confirm(trial, [candidate(200.0)], TARGET, settings(rounds=4, most_rounds=4, attempts=12))
    ran = [rate for _, rate, *_ in trial.ran]
    clear = [r for r in set(ran) if r < 0.85 * 120 or r > 1.15 * 120]
    assert len(clear) >= 2
    assert all(ran.count(r) == 1 for r in clear)
    assert point.probe.trials == ran.count(point.qps) == 4
    assert max(ran.count(r) for r in ran) == 4


def test_a_rate_that_held_only_once_is_given_up_for_a_lower_one():
    good, bad = Cliff(lambda p: 400.0), Cliff(lambda p: 100.0)
    seen: list[float] = []

    def trial(policy, rate, duration, seed):
        seen.append(rate)
        lucky = rate > 190 and seen.count(rate) == 1
        return (good if lucky or rate < 185 else bad)(policy, rate, duration, seed)

    (point,) = confirm(trial, [candidate(200.0)], TARGET, settings(rounds=3, most_rounds=3, attempts=12))
    assert seen[:2] == [196.0, 196.0], "clearly met once; run again because it would have been stated"
    assert point.met
    assert 170 < point.qps < 185
    assert point.failed_qps <= 196.0
    assert point.probe.trials == 3


def test_where_nothing_holds_twice_no_rate_is_met():
    good, bad = Cliff(lambda p: 400.0), Cliff(lambda p: 1.0)
    seen: list[float] = []

    def trial(policy, rate, duration, seed):
        seen.append(rate)
        return (good if seen.count(rate) == 1 else bad)(policy, rate, duration, seed)

    (point,) = confirm(trial, [candidate(200.0)], TARGET, settings(attempts=3))
    assert not point.met
    assert point.attempts == 3
    assert max(seen.count(r) for r in seen) == 2


def test_a_spent_budget_ends_what_need_not_be_and_nothing_else():
    trial = Cliff(lambda p: 400.0)
    confirm(trial, [candidate(200.0)], TARGET, settings(upward=True, budget_s=50.0))
    assert len(rates(trial)) == 3, (
        "three rates, one clear trial of 20 s each: the third began within the budget"
    )
    assert len(trial.ran) == 4, "the one that stands gets its second round whatever was spent"
    low = Cliff(lambda p: 120.0)
    (point,) = confirm(low, [candidate(200.0)], TARGET, settings(budget_s=1.0))
    assert point.met, "whatever is spent, a point that is not met is followed down"


def test_beyond_the_limit_only_a_point_that_met_nothing_goes_on():
    limited = settings(trial_s=5.0, step=0.04, budget_s=1.0, limit_s=1.0, attempts=12)
    low = Cliff(lambda p: 100.0)
    (point,) = confirm(low, [candidate(200.0)], TARGET, limited)
    assert point.met
    assert point.failed_qps > point.qps * exp(4 * 0.04), "what is left between them is stated and not closed"
    assert point.limit.low_qps <= point.limit.qps <= point.limit.high_qps
    assert low.ran[-1][1] == point.qps, "the rate that stands has all its rounds"


def test_beyond_the_limit_one_trial_decides_each_rate_on_the_way():
    def ran(**rest) -> list[float]:
        trial = Cliff(lambda p: 70.0, slope=1.0)
        short = settings(trial_s=0.2, rounds=4, most_rounds=4, attempts=12, **rest)
        (point,) = confirm(trial, [candidate(200.0)], TARGET, short)
        assert not point.met or point.probe.trials == 4, "what is stated has all its rounds"
        return [rate for _, rate, *_ in trial.ran if not point.met or rate > point.qps]

    patient, hasty = ran(), ran(limit_s=0.01)
    assert max(map(patient.count, patient)) > 1, "a few queries decide nothing"
    assert len(hasty) >= 2
    assert max(map(hasty.count, hasty)) == 1


@pytest.mark.parametrize("share", [1.3, 2.0])
def test_a_machine_that_has_become_quicker_is_followed_up(share):
    trial = Cliff(lambda p: 200 * share)
    (point,) = confirm(trial, [candidate(200.0)], TARGET, settings(step=0.04, upward=True, attempts=12))
    assert 0.9 * 200 * share < point.qps <= 1.02 * 200 * share
    assert point.qps < point.failed_qps < point.qps * 1.09


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.35])
def test_a_machine_that_has_become_slower_is_followed_whatever_was_spent(share):
    trial = Cliff(lambda p: 200 * share)
    limited = settings(trial_s=5.0, step=0.04, budget_s=1.0, attempts=12)
    (point,) = confirm(trial, [candidate(200.0)], TARGET, limited)
    assert 0.8 * 200 * share < point.qps <= 1.1 * 200 * share
    assert point.qps < point.failed_qps < point.qps * exp(4 * 0.04)
    assert point.limit.low_qps < point.limit.qps < point.failed_qps * 1.1


def test_points_run_in_turn_with_common_seeds():
    trial = Cliff(lambda p: 200.0)
    static = Static(500)
    confirm(trial, [candidate(200.0), candidate(150.0, static)], TARGET, settings(margin=0.1))
    assert [p for p, *_ in trial.ran] == [POLICY, static] * 2
    seeds = [seed for *_, seed in trial.ran]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]


def test_a_point_that_never_holds_is_not_met():
    (point,) = confirm(Cliff(lambda p: 1.0), [candidate(200.0)], TARGET, settings(attempts=3))
    assert not point.met
    assert point.attempts == 3


def test_a_rate_that_the_source_cannot_offer_is_lowered():
    sound = Cliff(lambda p: 400.0)

    def trial(policy, rate, duration, seed):
        record = sound(policy, rate, duration, seed)
        return late(record, 0.05) if rate > 180 else record

    (point,) = confirm(trial, [candidate(200.0)], TARGET, settings())
    assert point.met
    assert 160 < point.qps <= 180
    with pytest.raises(TrialsVoidError, match="late in every trial"):
        confirm(lambda *a: late(sound(*a), 0.05), [candidate(200.0)], TARGET, settings())


def test_trials_on_a_machine_that_keeps_standing_still_are_repeated_as_often_as_is_asked_and_then_count():
    sound = Cliff(lambda p: 300.0)

    def trial(*a):
        record = sound(*a)
        return replace(record, stalled_s=0.01 * record.workers * record.duration_s)

    for most in (0, 1, 3):
        sound.ran.clear()
        (point,) = confirm(trial, [candidate(200.0)], TARGET, settings(max_odd=most))
        assert point.met
        assert len(sound.ran) == (1 + most) * point.probe.trials


def test_a_capacity_of_nothing_cannot_be_confirmed():
    with pytest.raises(InputError, match="capacity to confirm"):
        confirm(Cliff(lambda p: 1.0), [candidate(0.0)], TARGET, settings())
