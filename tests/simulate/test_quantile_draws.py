"""QuantileDraws: independent, or in the order in which a machine was seen to be slow."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.policy import CPU, GPU
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.simulate.driver import QuantileDraws, ranks_of
from deeprecsys.simulate.table import Tabulated

NONE = np.zeros(0)
RANKS = np.array([0.1, 0.9, 0.8, 0.2, 0.3])


def test_without_ranks_they_are_the_generator_s() -> None:
    assert (QuantileDraws(7, NONE).take(100) == np.random.default_rng(7).random(100)).all()


def test_with_ranks_they_follow_each_other_round_and_round_from_a_place_that_the_seed_chooses() -> None:
    firsts = set()
    for seed in range(20):
        taken = QuantileDraws(seed, RANKS).take(11)
        start = RANKS.tolist().index(taken[0])
        assert taken.tolist() == np.resize(np.roll(RANKS, -start), 11).tolist()
        firsts.add(taken[0])
    assert len(firsts) > 2
    assert (QuantileDraws(3, RANKS).take(11) == QuantileDraws(3, RANKS).take(11)).all()


@pytest.mark.parametrize("ranks", [NONE, RANKS])
def test_in_pieces_they_are_the_same(ranks: np.ndarray) -> None:
    whole, pieces = QuantileDraws(1, ranks).take(23), QuantileDraws(1, ranks)
    assert np.concatenate([pieces.take(n) for n in (4, 7, 12)]).tolist() == whole.tolist()


def test_the_cpu_s_profile_gives_them() -> None:
    profile = LatencyProfile("m", (Point(1, 1, (0.1, 0.2)),), ranks=(0.25, 0.5))
    plain = LatencyProfile("m", profile.points)
    for kind in (lambda p: p, Tabulated):
        assert ranks_of({CPU: kind(profile), GPU: kind(plain)}).tolist() == [0.25, 0.5]
        assert ranks_of({CPU: kind(plain), GPU: kind(profile)}).tolist() == []
    assert Tabulated(profile).slowed(2.0).ranks.tolist() == [0.25, 0.5]
    assert ranks_of({CPU: lambda items, busy, u: 0.1}).tolist() == []
