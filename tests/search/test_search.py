"""The contract of every search, and what the hill climb finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.lib.searches import Sweep
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import DeepRecSched, Earliest, Offload, Static
from deeprecsys.search.climbs import HillClimb, model_search
from deeprecsys.search.history import UNREACHABLE, Score, batch_sizes, thresholds
from tests.search.fakes import drive, grid

SIZES, LIMITS = batch_sizes(1000, 500), thresholds(1000)
SEARCHES = {
    "climb": lambda: HillClimb(SIZES, LIMITS),
    "climb on the CPU": lambda: HillClimb(SIZES),
    "sweep": lambda: grid(SIZES, LIMITS),
    "sweep on the CPU": lambda: grid(SIZES),
}


@pytest.fixture(params=SEARCHES, ids=lambda name: name.replace(" ", "-"))
def search(request):
    return SEARCHES[request.param]()


def noisy(policy):
    return 100.0 + 7 * np.log2(policy.batch_size) + (policy.offload_above or 3) % 11


def test_a_search_ends_and_asks_nothing_twice(search):
    most = len(SIZES) * (1 + len(LIMITS))
    asked = drive(search, noisy, noise=0.1, seed=3)
    assert len(asked) == len(set(asked)) <= most
    assert search.ask() is None


def test_the_best_point_is_one_that_was_told_and_none_is_better(search):
    assert search.best is None
    drive(search, noisy, noise=0.1, seed=4)
    assert search.best in search.told
    assert search.best.qps == max(t.qps for t in search.told)


def test_what_was_told_is_kept_in_order(search):
    asked = drive(search, noisy)
    assert [t.policy for t in search.told] == asked


def test_a_policy_told_without_being_asked_for_can_be_the_best(search):
    search.tell(Static(333), Score(1e6, 9e5, 1.1e6))
    drive(search, noisy)
    assert search.best.policy == Static(333)


def test_when_no_policy_meets_the_target_there_is_no_best(search):
    while (policy := search.ask()) is not None:
        search.tell(policy, UNREACHABLE)
    assert search.best is None


def test_a_policy_only_known_to_be_below_the_floor_is_never_the_best(search):
    first = search.ask()
    search.tell(first, Score(None, 0.0, 1e9))
    assert search.best is None


@given(st.integers(0, len(SIZES) - 1), st.floats(0.02, 0.5), st.integers(0, 2**32 - 1))
def test_on_one_hill_the_climb_reaches_the_sweeps_optimum(top, fall, seed):
    def hill(policy):
        return 1000 * (1 - fall) ** abs(SIZES.index(policy.batch_size) - top)

    climb, sweep = HillClimb(SIZES), grid(SIZES)
    drive(climb, hill, seed=seed)
    drive(sweep, hill, seed=seed)
    assert climb.best.policy == sweep.best.policy == DeepRecSched(SIZES[top])


@given(st.integers(0, len(SIZES) - 1), st.integers(0, len(LIMITS) - 1), st.floats(0.03, 0.4))
def test_the_second_climb_finds_the_threshold_at_the_best_batch_size(top, limit, fall):
    def hill(policy):
        qps = 1000 * (1 - fall) ** abs(SIZES.index(policy.batch_size) - top)
        if policy.offload_above is not None:
            qps *= 2 * (1 - fall) ** abs(LIMITS.index(policy.offload_above) - limit)
        return qps

    climb = HillClimb(SIZES, LIMITS)
    drive(climb, hill)
    assert climb.best.policy == DeepRecSched(SIZES[top], LIMITS[limit])


def test_the_second_climb_is_at_the_baselines_batch_size_where_that_is_best():
    """Its own climb may have given up before it came there."""
    climb = HillClimb(SIZES, LIMITS)
    climb.tell(Static(SIZES[-1]), Score.exactly(5000.0))
    drive(climb, lambda p: 1000.0 if p.offload_above is None else 6000.0 - p.offload_above)
    assert climb.best.policy == DeepRecSched(SIZES[-1], LIMITS[0])


@pytest.mark.parametrize("kind", [Offload, Earliest])
def test_a_search_by_model_goes_on_from_the_threshold_to_policies_that_merge(kind):
    def hill(policy):
        known = policy.describe()
        above = LIMITS[-1] + 1 if known["offload_above"] is None else known["offload_above"]
        steps = abs(SIZES.index(known["batch_size"]) - 3) + abs(above - LIMITS[2]) / 1000
        return (2000 if isinstance(policy, kind) else 1000) * 0.9**steps

    search = model_search(SIZES, LIMITS)
    drive(search, hill)
    assert search.best.policy == kind(SIZES[3], LIMITS[2], 2 * SIZES[-1])


def test_with_noise_the_climb_comes_within_a_few_percent_of_the_optimum():
    """A landscape as batch sizes make: a steep rise to a broad top, a gentle fall; 3 % noise."""

    def hill(policy):
        b = policy.batch_size
        return 1000 * b / (b + 20) / (1 + b / 3000)

    optimum = max(hill(DeepRecSched(b)) for b in SIZES)
    reached = []
    for seed in range(200):
        climb = HillClimb(SIZES)
        drive(climb, hill, noise=0.03, seed=seed, half=0.06)
        reached.append(hill(climb.best.policy) / optimum)
    assert np.mean(reached) > 0.97
    assert np.quantile(reached, 0.05) > 0.93


def test_one_dip_does_not_end_a_climb_and_two_in_a_row_do():
    qps = dict(zip(SIZES, [10, 20, 18, 30, 40, 39, 38, 1000, 1000, 1000, 1000], strict=True))
    climb = HillClimb(SIZES)
    asked = drive(climb, lambda p: qps[p.batch_size])
    assert [p.batch_size for p in asked] == list(SIZES[:7])
    assert climb.best.policy == DeepRecSched(SIZES[4])


def test_a_climb_that_begins_far_below_the_static_point_goes_on_until_it_is_there():
    """Candidates below the floor have no capacity: not a fall, as long as the climb met no better one."""
    climb = HillClimb(SIZES)
    climb.tell(Static(500), Score(900.0, 880.0, 920.0))
    asked = drive(climb, lambda p: 1000 * p.batch_size / (p.batch_size + 20))
    assert [p.batch_size for p in asked] == [b for b in SIZES if b != 500]
    assert climb.best.policy == DeepRecSched(1000)


def test_the_static_point_takes_the_place_of_the_same_batch_size():
    climb = HillClimb((250, 500, 1000), LIMITS)
    climb.tell(Static(500), Score(900.0, 880.0, 920.0))
    asked = drive(climb, lambda p: 500.0 if p.offload_above is None else 10.0)
    assert DeepRecSched(500) not in asked
    assert asked[2] == DeepRecSched(500, LIMITS[0]), "the second climb keeps the best batch size"
    assert climb.best.policy == Static(500)


def test_a_climb_skips_what_cannot_meet_the_target_and_goes_on():
    climb = HillClimb(SIZES)
    while (policy := climb.ask()) is not None:
        reached = policy.batch_size >= 16
        qps = 100.0 + policy.batch_size
        climb.tell(policy, Score(qps, qps, qps) if reached else UNREACHABLE)
    assert climb.best.policy == DeepRecSched(1000)


def test_the_floor_is_what_the_best_surely_does():
    climb = HillClimb(SIZES)
    assert climb.floor_qps is None
    climb.tell(Static(7), Score(100.0, 90.0, 110.0))
    assert climb.floor_qps == 90.0


@pytest.mark.parametrize(
    ("largest", "static", "sizes"),
    [
        (1000, 500, (1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 1000)),
        (1000, 25, (1, 2, 4, 8, 16, 25, 32, 64, 128, 256, 512, 1000)),
        (1024, None, (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)),
        (1, 1, (1,)),
    ],
)
def test_the_grid_of_batch_sizes(largest, static, sizes):
    assert batch_sizes(largest, static) == sizes


def test_the_grid_of_thresholds_begins_with_all_queries_offloaded():
    assert LIMITS[0] == 0
    assert list(LIMITS) == sorted(set(LIMITS))
    assert LIMITS[-1] < 1000
    assert thresholds(1) == (0,)


@pytest.mark.parametrize(
    "make",
    [lambda: HillClimb(()), lambda: HillClimb((2, 1)), lambda: HillClimb((1,), (3, 3)), lambda: Sweep(())],
)
def test_grids_that_cannot_be_are_refused(make):
    with pytest.raises(InputError, match="expected"):
        make()
