"""Batches of a trial over what a profile says of like ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deeprecsys.core.policy import Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.search.profiler import Ran, ratios
from tests.simulate.compiled import trial

POINTS = (
    Point(1, 1, (0.010,)),
    Point(1, 100, (0.040,)),
    Point(2, 1, (0.015,)),
    Point(2, 100, (0.060,)),
    Point(1, 1, (0.012,), after_idle=True),
    Point(1, 100, (0.050,), after_idle=True),
)
PROFILE = LatencyProfile("m", POINTS)


def test_alike_are_size_busy_workers_and_whether_the_worker_was_idle() -> None:
    batches = [
        Ran(0.000, 0.012, worker=0, items=1),  # after idleness
        Ran(0.012, 0.052, worker=0, items=100),  # at once: 40 ms alone
        Ran(0.020, 0.120, worker=1, items=100),  # after idleness; that is known at one level alone
        Ran(0.052, 0.082, worker=0, items=1),  # at once, two busy: twice 15 ms
    ]
    assert ratios(batches, PROFILE) == pytest.approx([1, 1, 2, 2])
    assert len(ratios([], PROFILE)) == 0


def test_batches_of_the_simulator_take_what_it_was_given() -> None:
    rng = np.random.default_rng(0)
    arrival_s, size = np.cumsum(rng.exponential(0.02, 500)), rng.integers(1, 300, 500)
    # All but constant: what ends at one instant would be told apart by the order of events alone.
    points = tuple(replace(p, seconds=(1.3 * p.mean_s, 1.30001 * p.mean_s)) for p in POINTS)
    _, kept = trial(Static(80), arrival_s, size, LatencyProfile("m", points), 2).recorded()
    ran = map(Ran, kept.start_s.tolist(), kept.finish_s.tolist(), kept.worker.tolist(), kept.items.tolist())
    found = ratios(ran, PROFILE)
    assert len(found) == len(kept.items)
    assert found == pytest.approx(1.3, rel=1e-4)
