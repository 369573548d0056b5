"""Climbs over two knobs, and searches in a chain: they end, ask nothing twice, and find the top."""

from __future__ import annotations

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.policy import Adaptive, Coalescing, DeepRecSched, Earliest, Static
from deeprecsys.search.climbs import (
    Chain,
    HillClimb,
    NeighbourClimb,
    between,
    climb_of,
    finer,
    one_step,
    rungs,
)
from deeprecsys.search.history import UNREACHABLE, Evaluation, Score

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def drive(search, qps):
    """Run a search over a landscape, below its floor as the tuner by model tells it."""
    asked = []
    while (policy := search.ask()) is not None:
        assert search.ask() == policy, "asking changes nothing"
        asked.append(policy)
        floor, found = search.floor_qps, qps(policy)
        search.tell(policy, Score.below(floor) if floor and found < floor else Score.exactly(found))
        assert len(asked) < 500
    assert len(set(asked)) == len(asked), "nothing is asked for twice"
    return asked


def hill(kind, largest, finest, top=100.0):
    """One top, falling off with the steps from it, in whichever direction."""

    def qps(policy):
        if type(policy) is not kind:
            return 1.0
        steps = abs(log2(policy.batch_size / largest)) + abs(log2(policy.finest / finest))
        return top * 0.9**steps

    return qps


@pytest.mark.parametrize("kind", [Adaptive, Coalescing])
@given(st.data())
def test_from_anywhere_the_climb_finds_the_top_of_a_hill(kind, data):
    largest, finest, b, f = (data.draw(st.sampled_from(SIZES)) for _ in range(4))
    top, start = kind(max(largest, finest), min(largest, finest)), kind(max(b, f), min(b, f))
    search = NeighbourClimb([start], one_step(kind, SIZES))
    asked = drive(search, hill(kind, top.batch_size, top.finest))
    assert asked[0] == start
    assert search.best.policy == top
    assert len(asked) < len(SIZES) * (len(SIZES) + 1) // 2


def test_a_climb_that_never_meets_the_target_ends_at_its_start():
    search = NeighbourClimb([Adaptive(8, 8)], one_step(Adaptive, SIZES))
    search.tell(search.ask(), UNREACHABLE)
    assert search.ask() is None
    assert search.best is None


def test_only_better_neighbours_need_be_known_well():
    search = NeighbourClimb([Adaptive(8, 8)], one_step(Adaptive, SIZES))
    assert search.floor_qps is None, "the start is measured in full"
    search.tell(search.ask(), Score(100.0, 98.0, 102.0))
    assert search.ask() == Adaptive(16, 8)
    assert search.floor_qps == 98.0


def test_a_policy_told_without_being_asked_for_counts_and_is_not_climbed_from():
    search = NeighbourClimb([Adaptive(8, 8)], one_step(Adaptive, SIZES))
    search.tell(Static(500), Score.exactly(1e6))
    asked = drive(search, hill(Adaptive, 32, 4))
    assert Adaptive(32, 4) in asked
    assert search.best.policy == Static(500)
    assert [t.policy for t in search.told] == [Static(500), *asked]


def test_neighbours_are_one_rung_away_and_never_finer_above_than_below():
    near = one_step(Coalescing, SIZES)
    assert near(Coalescing(16, 4)) == [
        Coalescing(8, 4), Coalescing(32, 4), Coalescing(16, 2), Coalescing(16, 8)
    ]  # fmt: skip
    assert near(Coalescing(1, 1)) == [Coalescing(2, 1)]
    assert near(Coalescing(128, 128)) == [Coalescing(128, 64)]


@pytest.mark.parametrize(
    ("value", "steps", "found"),
    [(4, SIZES, [2, 8]), (1, SIZES, [2]), (128, SIZES, [64]), (5, SIZES, [4, 8]), (500, SIZES, [128])],
)
def test_the_rungs_next_to_a_value(value, steps, found):
    assert rungs(value, steps) == found


def chain():
    """What `tune` searches by model."""
    return Chain(HillClimb(SIZES), [climb_of(Adaptive, SIZES), climb_of(Coalescing, SIZES)])


def test_a_chain_goes_from_the_best_so_far_and_remembers_all():
    search = chain()
    search.tell(Static(64), Score.exactly(50.0))

    def qps(policy):
        if isinstance(policy, DeepRecSched):
            return 60.0 * 0.9 ** abs(log2(policy.batch_size / 16))
        return hill(Coalescing, 64, 4)(policy) if isinstance(policy, Coalescing) else 10.0

    asked = drive(search, qps)
    kinds = [type(p) for p in asked]
    assert kinds == sorted(kinds, key=[DeepRecSched, Adaptive, Coalescing].index)
    assert asked[kinds.index(Adaptive)] == Adaptive(16, 16)
    assert asked[kinds.index(Coalescing)] == Coalescing(16, 16)
    assert search.best.policy == Coalescing(64, 4)
    assert [t.policy for t in search.told] == [Static(64), *asked]


def test_a_kind_that_begins_below_what_is_known_may_still_end_above_it():
    search = chain()

    def qps(policy):
        if isinstance(policy, Coalescing):
            return hill(Coalescing, 128, 1, top=130.0)(policy)
        return 100.0 * 0.9 ** abs(log2(policy.batch_size / 16))

    assert qps(Coalescing(16, 16)) < 100
    drive(search, qps)
    assert search.best.policy == Coalescing(128, 1)


def test_a_ladder_made_finer_keeps_its_rungs_and_halves_its_steps():
    assert finer((1, 4, 16)) == (1, 2, 4, 8, 16)
    assert finer((1, 2, 3)) == (1, 2, 3), "there is no whole number between"
    assert set(SIZES) < set(finer(finer(SIZES)))


@pytest.mark.parametrize("kind", [Adaptive, Coalescing])
@pytest.mark.parametrize("top", [45, 76, 108])
def test_a_top_between_the_rungs_is_found_from_the_best_rung(kind, top):
    """As where the longest batch that a target allows lies between two rungs: beyond it there is nothing."""
    search = Chain(HillClimb(SIZES), [climb_of(kind, SIZES), between(SIZES, (Adaptive, Coalescing))])

    def qps(policy):
        finest = getattr(policy, "finest", policy.batch_size)
        better = 110.0 if isinstance(policy, kind) else 100.0
        return better * (policy.batch_size * finest) ** 0.1 if policy.batch_size <= top else 0.0

    asked = drive(search, qps)
    fine = finer(finer(SIZES))
    best = max(b for b in fine if b <= top)
    assert best not in SIZES
    assert search.best.policy == kind(best, best)
    assert len(asked) < 100


def test_from_a_policy_of_another_sort_there_is_nothing_between():
    told = Evaluation(Earliest(16, 32, 64), Score.exactly(1.0))
    assert between(SIZES, (Adaptive, Coalescing))(told) is None


def test_a_chain_in_which_nothing_meets_the_target_ends():
    search = chain()
    while (policy := search.ask()) is not None:
        search.tell(policy, UNREACHABLE)
    assert search.best is None
    assert search.ask() is None
