"""The profiler, on workers that only pretend."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.search.profiler import ProfilePlan, profile


class Pretend:
    """Batches that take 1 ms and 10 us an item, a fifth more for each other busy worker, and 20 % spread."""

    def __init__(self):
        self.asked = []
        self.rng = np.random.default_rng(0)

    def mean_s(self, batch, busy):
        return (0.001 + 1e-5 * batch) * (1 + 0.2 * (busy - 1))

    def __call__(self, batch, busy, repeats, rest_s):
        self.asked.append((batch, busy, repeats))
        return self.mean_s(batch, busy) * self.rng.uniform(0.9, 1.1, (busy, repeats))


PLAN = ProfilePlan(batches=(1, 8, 64, 512), busy=(1, 2), budget_s=4.0)


def test_the_profile_is_what_the_workers_do():
    pretend = Pretend()
    found = profile(pretend, "m", PLAN, engine="eager", machine={"cpu": "x"})
    for point in found.points:
        assert point.mean_s == pytest.approx(pretend.mean_s(point.batch, point.busy), rel=0.02)
        assert len(point.seconds) == 21
        assert point.seconds[0] >= 0.9 * pretend.mean_s(point.batch, point.busy)
        assert point.seconds[-1] <= 1.1 * pretend.mean_s(point.batch, point.busy)
    assert found.busy_levels == [1, 2]
    assert (found.engine, found.machine) == ("eager", {"cpu": "x"})
    assert LatencyProfile.from_json(found.to_json()) == found


def test_rounds_go_over_all_cells_in_turn_so_that_drift_hits_all():
    pretend = Pretend()
    profile(pretend, "m", PLAN)
    cells = [(b, k) for b, k, _ in pretend.asked]
    forwards = [(b, k) for k in (1, 2) for b in (1, 8, 64, 512)]
    assert cells == forwards + forwards + forwards[::-1] + forwards + forwards[::-1]


def test_the_budget_is_kept_and_shared_and_reported():
    pretend, steps = Pretend(), []
    profile(pretend, "m", PLAN, progress=steps.append)
    spent = sum(pretend.mean_s(b, k) * n for b, k, n in pretend.asked)
    assert spent == pytest.approx(4.0, rel=0.15)
    assert steps[-1].spent_s == pytest.approx(spent, rel=0.05)
    assert [s.spent_s for s in steps] == sorted(s.spent_s for s in steps)
    assert len(steps) == len(pretend.asked)


def test_a_cell_that_is_too_slow_for_the_budget_is_measured_a_few_times_still():
    pretend = Pretend()
    found = profile(pretend, "m", ProfilePlan(batches=(10**6,), budget_s=0.001))
    assert sum(n for _, _, n in pretend.asked) >= 5 + 2
    assert found.points[0].mean_s == pytest.approx(10, rel=0.15)


def test_batches_after_a_rest_are_measured_apart_and_rest_as_long_as_a_usual_batch():
    rests = set()

    def measure(batch, busy, repeats, rest_s):
        rests.add(rest_s)
        return np.full(repeats, 1e-3 * batch + (5e-4 if rest_s else 0.0))

    plan = ProfilePlan(batches=(1, 100, 200), busy=(1, 2), budget_s=5.0, after_idle=True, rest_batch=120)
    found = profile(measure, "m", plan)
    assert sorted(rests) == pytest.approx([0.0, 0.1])
    for batch in (1, 100, 150):
        assert found.seconds(batch) == pytest.approx(1e-3 * batch)
        assert found.rested.seconds(batch, 2) == pytest.approx(1e-3 * batch + 5e-4)
    assert LatencyProfile.from_json(found.to_json()) == found


def test_rare_long_batches_keep_their_share_and_stalls_lose_theirs():
    rng = np.random.default_rng(2)

    def measure(batch, busy, repeats, rest_s):
        return np.where(rng.random(repeats) < 0.01, 3.0, rng.uniform(0.9, 1.1, repeats))

    plan = ProfilePlan(batches=(1,), budget_s=2000.0)
    samples = []
    found = profile(lambda *a: samples.append(measure(*a)) or samples[-1], "m", plan)
    assert found.points[0].mean_s == pytest.approx(np.concatenate(samples[1:]).mean(), rel=1e-3)

    once = iter([*[1.0] * 10, 500.0, *[1.0] * 1000])
    stalled = profile(
        lambda b, k, n, r: np.array([next(once) for _ in range(n)]), "m", ProfilePlan(batches=(1,))
    )
    assert stalled.points[0].seconds[-1] <= 4.0


def test_samples_of_the_warm_up_are_left_out():
    calls = []

    def cold(batch, busy, repeats, rest_s):
        calls.append(batch)
        return np.full((busy, repeats), 9.0 if len(calls) == 1 else 0.01)

    assert profile(cold, "m", ProfilePlan(batches=(1,), budget_s=50.0)).points[0].seconds[-1] == 0.01


@pytest.mark.parametrize("times", [[], [0.0], [-1.0], [np.nan]])
def test_times_that_cannot_be_are_refused(times):
    with pytest.raises(InputError, match="above 0"):
        profile(lambda *_: np.array(times), "m", PLAN)


@pytest.mark.parametrize(
    "change",
    [
        {"batches": ()},
        {"batches": (2, 1)},
        {"batches": (0, 1)},
        {"busy": (1, 1)},
        {"budget_s": 0},
        {"rounds": 0},
    ],
)
def test_plans_that_cannot_be_are_refused(change):
    with pytest.raises(InputError, match="expected"):
        ProfilePlan(**change)
