"""Tuning by model, whole: the search in virtual time, and only the confirmation on the 'live' node."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from deeprecsys.core.errors import InputError, NotConfirmedError, TargetUnreachableError
from deeprecsys.core.policy import Adaptive, Coalescing, Policy, Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import RunLog, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.search.climbs import Chain, HillClimb, climb_of
from deeprecsys.search.confirm import ConfirmSettings
from deeprecsys.search.events import PhaseStarted, ProbeDone, TrialDone, TrialStarted
from deeprecsys.search.history import batch_sizes
from deeprecsys.search.rank import Ranking
from deeprecsys.search.result import Settings
from deeprecsys.search.tuner import GAIN, TuneSettings, tune_by_model
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.table import Tabulated
from deeprecsys.simulate.trial import VirtualNode
from deeprecsys.workload.sizes import parse
from tests.search.fakes import late

TARGET = Target(latency_s=0.03)
WORKERS = 4
STATIC = Static.baseline(1000, WORKERS)
SIZES = batch_sizes(1000, STATIC.batch_size)
QUICK = TuneSettings(
    refine=Settings(resolution=0.02, trial_s=4.0, budget_s=80.0),
    confirm=ConfirmSettings(trial_s=4.0, rounds=2, most_rounds=3, step=0.04, upward=True, budget_s=60.0),
)


def affine(batch_s: float, item_s: float) -> LatencyProfile:
    points = tuple(Point(1, b, (batch_s + item_s * b,)) for b in (1, 1000))
    return LatencyProfile("m", points)


@dataclass
class Load:
    """Poisson arrivals; one seed is one path, scaled."""

    sizes: str = "production"

    def path(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        unit = np.cumsum(rng.exponential(size=n))
        return unit, parse(self.sizes).of(rng.random(n), unit)

    def __call__(self, rate_qps: float, duration_s: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        mean = rate_qps * duration_s
        unit, size = self.path(int(mean + 8 * np.sqrt(mean) + 20), seed)
        arrived = unit < mean
        return unit[arrived] / rate_qps, size[arrived]


@dataclass
class World:
    """A profile, and a 'live' node that is slower than it says by a factor."""

    profile: LatencyProfile
    load: Load = field(default_factory=Load)
    slower: float = 1.0
    ran: list[tuple[Policy, float, int]] = field(default_factory=list)
    paths: int = 0

    def live(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        slow = tuple(
            Point(p.busy, p.batch, tuple(self.slower * s for s in p.seconds)) for p in self.profile.points
        )
        node = VirtualNode(LatencyProfile("m", slow), WORKERS, self.load, TARGET)
        log = node(policy, rate_qps, duration_s, seed)
        self.ran.append((policy, rate_qps, len(log.size)))
        return log

    def path(self, policy: Policy, rate_qps: float) -> RunLog:
        self.paths += 1
        unit, size = self.load.path(6000, 1)
        arrival = unit / rate_qps
        warm = warmup_s(float(arrival[-1]), TARGET)
        service = Tabulated(self.profile)
        return run(policy, arrival, size, service, WORKERS, warmup_s=warm, rate_qps=rate_qps)

    def tune(
        self, progress: Callable[..., None] = lambda e: None, settings: TuneSettings = QUICK, hint=500.0
    ):
        return tune_by_model(
            self.live,
            VirtualNode(Tabulated(self.profile), WORKERS, self.load, TARGET),
            Ranking(self.path, TARGET, hint),
            TARGET,
            static=STATIC,
            search=Chain(HillClimb(SIZES), [climb_of(Adaptive, SIZES), climb_of(Coalescing, SIZES)]),
            settings=settings,
            progress=progress,
        )


@pytest.fixture(scope="module")
def tuned():
    """A batch costs as much as 100 items: sharing batches wins by far."""
    world, events = World(affine(2e-3, 2e-5)), []
    return world.tune(events.append), world, events


def test_the_best_policy_is_found_in_virtual_time_and_confirmed_beside_static(tuned):
    result, _, _ = tuned
    assert isinstance(result.tuned.policy, Coalescing)
    assert result.static.policy == STATIC
    assert result.tuned.met
    assert result.static.met
    assert result.scheduling_gain.value > 1.2
    assert result.scheduling_gain.low < result.scheduling_gain.value < result.scheduling_gain.high
    assert not result.kept_static
    for point in (result.tuned, result.static):
        assert point.probe.summary.served == 1
        assert point.probe.summary.p95_ms <= 1e3 * TARGET.latency_s
        assert point.qps == pytest.approx(point.capacity.capacity_qps, rel=0.12)


def test_no_kind_of_policy_that_was_tried_does_better_than_the_one_chosen(tuned):
    result, _, _ = tuned
    kinds = {type(t.policy) for t in result.candidates}
    assert {Adaptive, Coalescing, Static} <= kinds
    assert max(result.candidates, key=lambda t: t.qps).policy == result.tuned.policy


def test_the_search_takes_no_live_query(tuned):
    result, world, events = tuned
    assert result.search.trials == result.search.queries == 0
    assert {p for p, *_ in world.ran} == {result.tuned.policy, STATIC}
    assert len(world.ran) == result.confirmation.trials
    assert sum(n for *_, n in world.ran) == result.confirmation.queries
    assert result.simulated.trials > world.paths, "the second look counts as simulated too"
    assert result.simulated.queries > 6000 * world.paths
    phases = [e.phase for e in events if isinstance(e, PhaseStarted)]
    assert phases == ["simulate", "confirm"]
    heard = [e for e in events if not isinstance(e, PhaseStarted)]
    assert {type(e) for e in heard} == {TrialStarted, TrialDone, ProbeDone}
    assert sum(isinstance(e, TrialDone) for e in heard) == len(world.ran), "only live trials are told of"


def test_the_json_tells_every_candidate_from_the_others(tuned):
    data = json.loads(json.dumps(tuned[0].to_json(), allow_nan=False))
    assert data["method"] == "model"
    assert data["search"]["queries"] == 0
    assert data["search"]["simulated"]["queries"] > 0
    best = max(data["candidates"], key=lambda c: c["capacity_qps"] or 0)
    assert best["policy"] == "coalescing"
    assert best["outcome"] == "found"
    below = [c for c in data["candidates"] if c["outcome"] == "below floor"]
    assert below, "what does not reach the best is not said to miss at any rate"
    assert all(c["capacity_qps"] is None and c["interval_qps"][1] > 0 for c in below)
    assert {c["outcome"] for c in data["candidates"]} == {"found", "below floor"}


def test_repeated_trials_are_counted():
    @dataclass
    class LateAtFirst(World):
        """Its load source is late in the first trial."""

        def live(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
            log = super().live(policy, rate_qps, duration_s, seed)
            return late(log, 0.05) if len(self.ran) == 1 else log

    world = LateAtFirst(affine(2e-3, 2e-5))
    result = world.tune()
    spent = result.confirmation
    assert result.to_json()["confirmation"]["voids"] == spent.voids == 1
    assert spent.trials == len(world.ran)


def test_a_slower_machine_than_the_profile_says_is_followed_down():
    world = World(affine(2e-3, 2e-5), slower=1.15)
    result = world.tune()
    assert result.tuned.met
    assert result.static.met
    assert result.tuned.attempts > 1
    assert result.tuned.qps < 0.95 * result.tuned.capacity.capacity_qps


def test_static_stays_where_nothing_is_better_by_more_than_the_gain():
    """Queries of one item on one of four workers: there is nothing to cut and nothing to win."""
    world = World(affine(1e-9, 5e-3), Load("fixed:1"))
    result = world.tune()
    assert result.kept_static
    assert result.tuned is result.static
    assert result.scheduling_gain.value == 1.0
    assert {p for p, *_ in world.ran} == {STATIC}
    best = max(t.qps for t in result.candidates)
    assert best <= (1 + GAIN) * result.candidates[0].qps


def test_a_static_point_out_of_reach_leaves_the_tuned_one_alone():
    """A whole batch of 250 takes longer than the target; finer cuts do not."""
    world = World(affine(1e-4, 2e-4))
    result = world.tune(hint=50.0)
    assert result.static is None
    assert result.scheduling_gain is None
    assert result.tuned.met
    assert result.candidates[0].policy == STATIC
    assert result.to_json()["candidates"][0]["outcome"] == "unreachable"


def test_a_target_that_nothing_meets_is_an_error_with_the_best_latency():
    world = World(affine(0.05, 1e-6))
    with pytest.raises(TargetUnreachableError, match="30 ms at any load") as error:
        world.tune(hint=50.0)
    assert error.value.best_latency_s == pytest.approx(0.05, rel=0.05)
    assert not world.ran


def test_a_model_that_is_far_from_the_machine_is_an_error_and_no_operating_point():
    world = World(affine(2e-3, 2e-5), slower=20.0)
    with pytest.raises(NotConfirmedError, match="queries/s"):
        world.tune()


def test_a_hint_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="hint"):
        World(affine(1e-3, 1e-5)).tune(hint=-1.0)


def test_the_default_settings_confirm_within_about_their_budget():
    s = TuneSettings.by_model(Target(latency_s=0.1), 32.0)
    assert 2 * s.confirm.rounds * s.confirm.trial_s <= 32.0
    assert s.confirm.upward
    assert s.confirm.budget_s < s.confirm.limit_s <= 32.0 - 2 * s.confirm.trial_s, (
        "a round of both comes after"
    )
    assert TuneSettings.by_model(Target(latency_s=2.0), 4.0).confirm.trial_s == 12.0, (
        "never too short to see a queue"
    )
