"""The capacity search: theory, verdicts, floors, voids, targets out of reach, accounts."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from deeprecsys.core.errors import InputError, TargetUnreachableError, TrialsVoidError
from deeprecsys.core.policy import DeepRecSched, Static
from deeprecsys.core.runlog import summarise
from deeprecsys.core.target import Target
from deeprecsys.search.capacity import capacity
from deeprecsys.search.crossing import Crossing
from deeprecsys.search.estimate import _capped
from deeprecsys.search.events import CapacityDone, CapacityStarted, ProbeDone, TrialDone, TrialStarted
from deeprecsys.search.result import Outcome, Settings, Verdict
from tests.search.fakes import TARGET, Cliff, late, log, shed
from tests.search.queues import MDc, theory_qps, wait_tail

POLICY = Static(1)
QUICK = Settings(trial_s=2.0, budget_s=60.0)


def find(trial, hint=100.0, settings=QUICK, **rest):
    return capacity(trial, POLICY, TARGET, hint_qps=hint, settings=settings, **rest)


# Theory.
def test_the_exact_waits_agree_with_the_classical_m_d_1_sum_and_with_simulation():
    rate, t = 0.8, 4.6  # Erlang's alternating sum, which is accurate at so small a t
    terms = [(rate * (k - t)) ** k / np.prod(np.arange(1, k + 1)) * np.exp(-rate * (k - t)) for k in range(5)]
    assert wait_tail(rate, 1, t) == pytest.approx(1 - (1 - rate) * sum(terms), abs=1e-12)
    target = Target(latency_s=5.0)
    rate = theory_qps(4, target)
    misses = [summarise(MDc(4, target)(POLICY, rate, 4e5 / rate, s), target).miss_rate for s in range(8)]
    assert abs(np.mean(misses) - 0.05) < 4 * np.std(misses, ddof=1) / np.sqrt(8)


@pytest.mark.parametrize(("servers", "latency"), [(1, 10.0), (4, 5.0)], ids=["M/D/1", "M/D/4"])
def test_the_capacity_is_theorys_and_the_intervals_cover_it(servers, latency):
    """At least 95 of 100 seeds, each within 2 %, from hints on either side."""
    target = Target(latency_s=latency)
    theory = theory_qps(servers, target)
    covered, errors = 0, []
    for seed in range(100):
        hint = servers * (0.9 if seed % 2 else 0.3)
        settings = Settings.virtual(target)
        found = capacity(MDc(servers, target), POLICY, target, hint_qps=hint, settings=settings, seed=seed)
        covered += found.low_qps <= theory <= found.high_qps
        errors.append(found.capacity_qps / theory - 1)
        assert found.resolved
        assert found.point.summary.meets(target)
        assert found.point.rate_qps <= found.capacity_qps * 1.01
    assert covered >= 95
    assert np.abs(errors).max() <= 0.02
    assert abs(np.mean(errors)) <= 0.002, "no bias to speak of"


def test_short_trials_that_begin_empty_do_not_flatter():
    """Trials of 15 targets, where the queue takes 40 to forget that it began empty."""
    target = Target(latency_s=50.0)
    theory = theory_qps(1, target)
    settings = Settings(trial_s=750.0, budget_s=12 * 750.0)
    found = [
        capacity(MDc(1, target), POLICY, target, hint_qps=0.9, settings=settings, seed=seed)
        for seed in range(24)
    ]
    errors = np.array([f.capacity_qps for f in found]) / theory - 1
    assert abs(errors.mean()) < 3 * errors.std(ddof=1) / np.sqrt(len(errors)) + 0.002
    assert sum(f.low_qps <= theory <= f.high_qps for f in found) >= 21
    naive = [summarise(MDc(1, target)(POLICY, theory, 750.0, s), target).miss_rate for s in range(200)]
    assert np.mean(naive) < 0.04, "or there was nothing to allow for"


# What a result says.
def test_the_point_is_a_probe_that_ran_and_met_the_target():
    found = find(Cliff(lambda p: 250.0))
    assert found.outcome is Outcome.FOUND
    assert found.low_qps <= 250 <= found.high_qps
    assert found.point in found.probes
    assert found.point.summary.meets(TARGET)
    assert found.summary.p95_ms <= 100
    assert found.summary.served == 1
    assert found.point.rate_qps <= found.capacity_qps * 1.02


def test_the_accounts_are_those_of_the_trials():
    trial, events = Cliff(lambda p: 250.0), []
    found = find(trial, progress=events.append)
    assert found.trials == len(trial.ran) == sum(isinstance(e, TrialDone) for e in events)
    assert found.seconds == pytest.approx(sum(e.seconds for e in events if isinstance(e, TrialDone)))
    assert found.queries == sum(e.queries for e in events if isinstance(e, TrialDone))
    assert sum(p.trials for p in found.probes) == found.trials
    assert isinstance(events[0], CapacityStarted)
    assert isinstance(events[1], TrialStarted)
    assert events[-1] == CapacityDone(POLICY, found)
    assert any(isinstance(e, ProbeDone) for e in events)
    json.dumps(found.to_json(), allow_nan=False)


def test_a_search_keeps_to_its_budget_and_says_that_it_ended_there():
    found = find(
        Cliff(lambda p: 250.0, slope=8), settings=Settings(resolution=0.002, trial_s=1.0, budget_s=20.0)
    )
    assert not found.resolved
    assert 18 <= found.seconds <= 23


def test_a_search_keeps_to_its_budget_of_queries_and_each_trial_to_a_part_of_it():
    """However far it would have to go: what memory holds is no matter of time."""
    settings = Settings(resolution=0.0005, trial_s=1.0, budget_s=inf, budget_queries=40_000)
    events = []
    found = find(Cliff(lambda p: 2500.0, slope=8), hint=2000.0, settings=settings, progress=events.append)
    trials = [e.queries for e in events if isinstance(e, TrialDone)]
    assert not found.resolved
    assert 40_000 <= found.queries <= 46_000
    assert 4500 < max(trials) <= 5500
    assert found.low_qps <= 2500 <= found.high_qps


def test_more_time_narrows_the_interval():
    def width(budget_s):
        settings = Settings(resolution=0.001, trial_s=1.0, budget_s=budget_s)
        found = find(Cliff(lambda p: 2500.0, slope=8), hint=2000.0, settings=settings)
        return found.high_qps / found.low_qps

    assert width(200.0) < width(20.0) ** 0.7


@pytest.mark.parametrize("hint", [0.5, 30.0, 250.0, 20000.0])
def test_any_hint_will_do(hint):
    found = find(Cliff(lambda p: 250.0), hint=hint, settings=Settings(trial_s=2.0, budget_s=200.0))
    assert found.low_qps <= 250 <= found.high_qps
    assert abs(found.capacity_qps / 250 - 1) < 0.05


def test_policies_meet_the_same_arrivals_trial_by_trial():
    """Common random numbers: the k-th trial of each search has the k-th seed, and no two the same."""
    trial = Cliff(lambda p: 100.0 * p.batch_size)
    for batch in (1, 3):
        capacity(trial, DeepRecSched(batch), TARGET, hint_qps=150.0, settings=QUICK, seed=7)
    seeds = {b: [s for p, _, _, s in trial.ran if p.batch_size == b] for b in (1, 3)}
    assert all(len(set(s)) == len(s) for s in seeds.values())
    common = min(map(len, seeds.values()))
    assert seeds[1][:common] == seeds[3][:common]
    capacity(trial, DeepRecSched(5), TARGET, hint_qps=150.0, settings=QUICK, seed=7, purpose=1)
    assert not {s for p, _, _, s in trial.ran if p.batch_size == 5} & set(seeds[1] + seeds[3])


# The floor.
def test_a_policy_below_the_floor_costs_a_glance_and_gets_no_capacity():
    trial = Cliff(lambda p: 100.0)
    found = find(trial, floor_qps=200.0)
    assert found.outcome is Outcome.BELOW_FLOOR
    assert found.capacity_qps is None
    assert found.point is None
    assert (found.low_qps, found.high_qps) == (0.0, pytest.approx(200, rel=0.02))
    assert found.seconds < QUICK.trial_s


def test_a_policy_above_the_floor_is_searched_as_ever():
    found = find(Cliff(lambda p: 250.0), floor_qps=200.0)
    assert found.outcome is Outcome.FOUND
    assert found.low_qps <= 250 <= found.high_qps


def test_equal_policies_hardly_ever_fall_below_each_others_floor():
    outcomes = [find(Cliff(lambda p: 250.0), floor_qps=245.0, seed=s).outcome for s in range(40)]
    assert outcomes.count(Outcome.BELOW_FLOOR) <= 2


# All must be served.
def test_a_rate_that_sheds_a_single_query_fails_however_fast_the_rest():
    fast = Cliff(lambda p: 1000.0)

    def trial(policy, rate, duration, seed):
        record = fast(policy, rate, duration, seed)
        return shed(record, 1) if rate > 130 else record

    found = find(trial)
    assert found.high_qps <= 135
    assert 110 <= found.point.rate_qps <= found.capacity_qps * 1.02 <= 135
    failed = [p for p in found.probes if p.rate_qps > 130]
    assert failed
    assert all(p.verdict is Verdict.FAILED for p in failed)


# Void trials.
def test_a_void_trial_is_repeated_and_reported_and_counts_for_nothing():
    sound, calls = Cliff(lambda p: 250.0), []

    def trial(policy, rate, duration, seed):
        calls.append(seed)
        record = sound(policy, rate, duration, seed)
        return late(record, 0.05) if len(calls) in (1, 4, 5) else record

    events = []
    found = find(trial, progress=events.append)
    assert found.voids == 3 == sum(e.void for e in events if isinstance(e, TrialDone))
    assert sum(p.trials for p in found.probes) == found.trials - 3
    assert calls[0] == calls[1], "the same arrivals again"
    assert found.low_qps <= 250 <= found.high_qps


def stalls(record, share):
    return replace(record, stalled_s=share * record.workers * record.duration_s)


def test_a_trial_in_which_the_machine_stood_still_is_repeated():
    sound, calls = Cliff(lambda p: 250.0), []

    def trial(policy, rate, duration, seed):
        calls.append(seed)
        record = sound(policy, rate, duration, seed)
        return stalls(record, 0.01) if len(calls) in (2, 3) else record

    found = find(trial)
    assert found.voids == 2
    assert calls[1] == calls[2] == calls[3], "the same arrivals again"
    assert sum(p.trials for p in found.probes) == found.trials - 2


def test_a_machine_that_always_stands_still_is_measured_as_it_is():
    sound = Cliff(lambda p: 250.0)
    found = find(lambda *a: stalls(sound(*a), 0.01))
    assert found.low_qps <= 250 <= found.high_qps
    assert found.voids == 3 * sum(p.trials for p in found.probes)


def paced(record, seconds):
    return replace(record, seconds_per_item=seconds)


def test_trials_on_a_machine_that_was_slow_for_a_while_are_repeated_or_left_out():
    sound, slow, calls = Cliff(lambda p: 250.0), Cliff(lambda p: 150.0), []

    def trial(policy, rate, duration, seed):
        calls.append(rate)
        is_slow = len(calls) in (2, 3, 9, 10)
        return paced((slow if is_slow else sound)(policy, rate, duration, seed), 2e-5 if is_slow else 1e-5)

    found = find(trial)
    assert found.low_qps <= 250 <= found.high_qps
    assert found.capacity_qps == pytest.approx(250, rel=0.06)
    assert found.voids >= 2, "those in the midst of the search"


def test_a_source_that_cannot_offer_more_limits_what_is_known():
    fast = Cliff(lambda p: 1000.0)

    def trial(policy, rate, duration, seed):
        record = fast(policy, rate, duration, seed)
        return late(record, 0.05) if rate > 300 else record

    found = find(trial)
    assert found.outcome is Outcome.SOURCE_LIMITED
    assert found.high_qps == inf
    assert found.capacity_qps == found.point.rate_qps <= 300
    assert not found.resolved
    json.dumps(found.to_json(), allow_nan=False)


def test_a_source_that_is_always_late_is_an_error_and_soon():
    sound, calls = Cliff(lambda p: 250.0), []

    def trial(policy, rate, duration, seed):
        calls.append(rate)
        return late(sound(policy, rate, duration, seed), 0.05)

    with pytest.raises(TrialsVoidError, match="late"):
        find(trial)
    assert len(calls) <= 24


# Out of reach.
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_target_that_no_load_meets_is_said_with_the_best_latency(share):
    def trial(policy, rate, duration, seed):
        rng = np.random.default_rng(seed)
        return log(rate, duration, lambda n: np.where(rng.random(n) < share, 0.25, 0.01), busy=rate / 1000)

    with pytest.raises(TargetUnreachableError, match="250 ms") as error:
        find(trial)
    assert error.value.best_latency_s == pytest.approx(0.25)


def test_a_target_met_only_at_a_tenth_of_the_load_is_found():
    found = find(Cliff(lambda p: 20.0), hint=200.0, settings=Settings(trial_s=20.0, budget_s=2000.0))
    assert found.low_qps <= 20 <= found.high_qps


@pytest.mark.parametrize(
    ("field", "value"), [("resolution", 0), ("trial_s", -1), ("budget_s", 0), ("confidence", 1.0)]
)
def test_settings_that_cannot_be_are_refused(field, value):
    with pytest.raises(InputError, match=field.removesuffix("_s")):
        Settings(**{field: value})


def test_a_crossing_below_the_rate_that_sheds_stays_there_however_open_its_interval_is():
    found = Crossing(10.0, 0.0, 50.0, 2.0, 3.0, np.ones(1))
    capped = _capped(found, found.low_qps, 20.0)
    assert (capped.rate_qps, capped.low_qps, capped.high_qps) == (10.0, 0.0, 20.0)
    assert capped.half_width == inf
    beyond = _capped(Crossing(40.0, 30.0, 50.0, 2.0, 3.0, np.ones(1)), 5.0, 20.0)
    assert beyond.rate_qps == 10.0
