"""The tuner: what it returns ran, was confirmed, and is never worse than the static point."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from deeprecsys.core.errors import NotConfirmedError, TargetUnreachableError
from deeprecsys.core.policy import DeepRecSched, Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.confirm import ConfirmSettings
from deeprecsys.search.events import PhaseStarted, TrialDone
from deeprecsys.search.history import batch_sizes
from deeprecsys.search.result import Settings, Verdict
from deeprecsys.search.tuner import TuneSettings, tune
from deeprecsys.simulate.trial import VirtualNode
from tests.search.fakes import TARGET, Cliff, grid, log

STATIC = Static.baseline(1000, 2)
SIZES = batch_sizes(1000, STATIC.batch_size)


def hill(policy):
    """A capacity with its top at 64."""
    return 400.0 * 0.9 ** abs(np.log2(policy.batch_size / 64))


def run(trial, search=None, settings=None, **rest):
    search = search or HillClimb(SIZES)
    return tune(trial, TARGET, static=STATIC, search=search, hint_qps=300.0, settings=settings, **rest)


@pytest.fixture(scope="module")
def tuned():
    trial, events = Cliff(hill), []
    return run(trial, progress=events.append), trial, events


def test_the_optimum_is_found_and_confirmed(tuned):
    result, _, _ = tuned
    assert result.tuned.policy == DeepRecSched(64)
    assert result.tuned.met
    assert result.static.met
    assert result.static.policy == STATIC
    assert result.tuned.qps == pytest.approx(400, rel=0.06)
    assert result.static.qps == pytest.approx(hill(STATIC), rel=0.06)
    assert result.scheduling_gain.value == pytest.approx(result.tuned.limit.qps / result.static.limit.qps)
    assert result.scheduling_gain.low < 400 / hill(STATIC) < result.scheduling_gain.high
    assert not result.kept_static
    assert result.complete


def test_the_confirmed_figures_come_from_fresh_interleaved_trials(tuned):
    result, trial, events = tuned
    searched = trial.ran[: result.search.trials]
    confirming = trial.ran[result.search.trials :]
    assert len(confirming) == result.confirmation.trials
    assert not {seed for *_, seed in searched} & {seed for *_, seed in confirming}
    first = [policy for policy, *_ in confirming[:4]]
    assert first == [result.tuned.policy, STATIC] * 2
    assert confirming[0][3] == confirming[1][3], "both see the same arrivals"
    assert result.tuned.probe.summary.p95_ms <= 100
    assert result.tuned.probe.summary.served == 1
    phases = [e.phase for e in events if isinstance(e, PhaseStarted)]
    assert phases == ["static", "climb", "refine", "confirm"]


def test_the_accounts_are_those_of_the_trials(tuned):
    result, trial, events = tuned
    done = [e for e in events if isinstance(e, TrialDone)]
    assert len(trial.ran) == len(done) == result.search.trials + result.confirmation.trials
    assert sum(e.seconds for e in done) == pytest.approx(result.search.seconds + result.confirmation.seconds)
    assert sum(e.queries for e in done) == result.search.queries + result.confirmation.queries


def test_the_default_budget_is_about_four_minutes_of_trials_at_100_ms(tuned):
    result, _, _ = tuned
    assert result.search.seconds + result.confirmation.seconds < 240
    s = TuneSettings.live(TARGET)
    rounds = s.confirm.rounds * s.confirm.trial_s
    assert s.candidate.budget_s + s.climb_budget_s + 2 * s.refine.budget_s + 2 * rounds <= 240


def test_the_json_has_the_documented_keys_and_no_nan(tuned):
    data = json.loads(json.dumps(tuned[0].to_json(), allow_nan=False))
    assert {"batch_size", "qps", "p50_ms", "p95_ms", "p99_ms", "served"} <= data["static"].keys()
    assert {"batch_size", "offload_above", "qps"} <= data["tuned"].keys()
    assert {"trials", "seconds", "queries"} <= data["search"].keys()
    assert data["target"] == {"quantile": 0.95, "latency_ms": 100}


def test_when_static_is_best_it_is_returned_and_that_is_said():
    result = run(Cliff(lambda p: 300.0 * 0.8 ** abs(np.log2(p.batch_size / 500))))
    assert result.kept_static
    assert result.tuned is result.static
    assert result.scheduling_gain.value == 1.0


def test_a_winner_that_does_not_hold_gives_way_to_static():
    """The search is fooled: the fresh trials of the candidate are twice as slow as those it saw."""
    base = Cliff(hill)
    searching = [True]

    def listen(event):
        if isinstance(event, PhaseStarted) and event.phase == "confirm":
            searching[0] = False

    def trial(policy, rate, duration, seed):
        fooled = not searching[0] and policy != STATIC
        return base(policy, rate * (2 if fooled else 1), duration, seed)

    result = run(trial, progress=listen)
    assert result.kept_static
    assert result.tuned.policy == STATIC
    assert result.static.met


def test_a_rate_that_does_not_hold_is_stepped_down_until_it_does():
    base, searching = Cliff(hill), [True]

    def listen(event):
        if isinstance(event, PhaseStarted) and event.phase == "confirm":
            searching[0] = False

    def trial(policy, rate, duration, seed):
        return base(policy, rate * (1 if searching[0] else 1.08), duration, seed)

    result = run(trial, progress=listen)
    assert result.tuned.met
    assert result.tuned.attempts > 1
    assert result.tuned.qps < 0.97 * result.tuned.capacity.capacity_qps


def test_what_never_holds_is_an_error_and_no_operating_point():
    base, searching = Cliff(hill), [True]

    def listen(event):
        if isinstance(event, PhaseStarted) and event.phase == "confirm":
            searching[0] = False

    def trial(policy, rate, duration, seed):
        return base(policy, rate * (1 if searching[0] else 1000), duration, seed)

    with pytest.raises(NotConfirmedError, match="queries/s"):
        run(trial, progress=listen)


def slow(policy, rate, duration, seed):
    own = 0.15 + policy.batch_size / 1e4
    return log(rate, duration, lambda n: np.full(n, own), busy=rate * own / 100)


def test_a_target_out_of_reach_is_an_error_with_the_best_latency_of_all_candidates():
    with pytest.raises(TargetUnreachableError, match="150 ms") as error:
        run(slow)
    assert error.value.best_latency_s == pytest.approx(0.1501)


def test_a_static_point_out_of_reach_leaves_the_tuned_one_alone():
    base = Cliff(hill)

    def trial(policy, rate, duration, seed):
        return (slow if policy.batch_size == 500 else base)(policy, rate, duration, seed)

    result = run(trial)
    assert result.static is None
    assert result.scheduling_gain is None
    assert result.tuned.met
    assert result.to_json()["static"] is None


def test_a_spent_budget_ends_the_climb_and_is_said():
    settings = TuneSettings(Settings(trial_s=1.5, budget_s=12.0), climb_budget_s=30.0)
    result = run(Cliff(hill), settings=settings)
    assert not result.complete
    assert result.tuned.met


# In virtual time, with the dispatcher itself.
def node():
    """Two workers; a batch costs 0.5 ms and 20 us an item; sizes as skewed as production's."""

    def load(rate_qps, duration_s, seed):
        rng = np.random.default_rng(seed)
        n = int(rate_qps * duration_s + 6 * np.sqrt(rate_qps * duration_s) + 20)
        arrivals = np.cumsum(rng.exponential(size=n)) / rate_qps
        small, large = np.exp(rng.normal(4.4, 0.5, n)), 150 / np.sqrt(rng.random(n))
        sizes = np.clip(np.where(rng.random(n) < 0.75, small, large), 1, 1000).astype(np.int32)
        return arrivals[arrivals < duration_s], sizes[arrivals < duration_s]

    profile = LatencyProfile("m", (Point(1, 1, (0.00052,)), Point(1, 1024, (0.02098,))))
    return VirtualNode(profile, 2, load, TARGET)


def test_climb_and_sweep_agree_in_virtual_time():
    settings = TuneSettings.live(TARGET)
    climbed = tune(node(), TARGET, static=STATIC, search=HillClimb(SIZES), hint_qps=600.0, settings=settings)
    swept = tune(node(), TARGET, static=STATIC, search=grid(SIZES), hint_qps=600.0, settings=settings)
    assert climbed.tuned.qps > 0.95 * swept.tuned.qps
    assert climbed.search.seconds < 0.9 * swept.search.seconds
    for result in (climbed, swept):
        assert result.tuned.qps >= result.static.qps
        assert result.tuned.probe.summary.served == 1


def test_in_virtual_time_accuracy_comes_first():
    fine = Settings.virtual(TARGET)
    settings = TuneSettings(
        candidate=fine, climb_budget_s=inf, refine=replace(fine, resolution=0.005),
        confirm=ConfirmSettings(trial_s=10 * fine.trial_s, confidence=0.99, margin=0.01, step=0.01),
    )  # fmt: skip
    search = HillClimb((64, 256, STATIC.batch_size))
    result = tune(node(), TARGET, static=STATIC, search=search, hint_qps=600.0, settings=settings)
    assert result.complete
    assert result.tuned.met
    assert result.tuned.qps >= result.static.qps
    for point in (result.tuned, result.static):
        assert point.capacity.resolved
        assert point.capacity.confidence == 0.99
        assert np.log(point.capacity.high_qps / point.capacity.low_qps) / 2 <= 0.0051
        assert point.qps == pytest.approx(point.capacity.capacity_qps, rel=0.04)
        assert point.probe.verdict is not Verdict.FAILED
    value, low, high = result.scheduling_gain
    assert low <= value <= high
    assert high / low < 1.02
