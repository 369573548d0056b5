"""A load that could not go on is told from one that is merely heavy, or bursty, or too short to judge."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.device import Limits
from deeprecsys.core.policy import Coalescing, Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.trial import ENOUGH, stable
from deeprecsys.workload.stream import Workload

SECOND = LatencyProfile("m", (Point(1, 1, (1.0,)),))


def m_d_1(load: float, queries: int = 5000, seed: int = 0, **rest):
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / load, queries))
    return run(Static(1), arrivals, np.ones(queries), SECOND, 1, **rest)


@pytest.mark.parametrize("load", [0.1, 0.7, 0.9])
def test_a_load_that_lasts_is_stable(load):
    found = [m_d_1(load, seed=s) for s in range(10)]
    assert all(stable(f) for f in found)
    assert np.mean([f.load for f in found]) == pytest.approx(load, rel=0.02)


@pytest.mark.parametrize("load", [1.05, 1.3, 5.0])
def test_a_line_that_only_grows_is_not(load):
    found = [m_d_1(load, seed=s) for s in range(10)]
    assert [stable(f) for f in found] == [False] * 10
    assert np.mean([f.load for f in found]) == pytest.approx(load, rel=0.02)


def test_several_workers_and_batches_that_grow_with_the_line():
    """Alone each query takes a worker a second; sharing batches, the same load is light."""
    arrivals = np.cumsum(np.random.default_rng(1).exponential(0.1, 5000))
    alone = stable(run(Static(1), arrivals, np.ones(5000), SECOND, 4))
    shared = stable(run(Coalescing(100, 1), arrivals, np.ones(5000), SECOND, 4))
    assert (alone, shared) == (False, True)


def test_bursts_beyond_what_the_workers_can_do_pass():
    stream = Workload.parse("bursts:4,0.2,40", "fixed:1", seed=3).stream(0.6, queries=4000)
    found = stable(run(Static(1), stream.arrival_s, stream.size, SECOND, 1))
    assert found


def test_a_full_line_that_sheds_does_not_hide_an_overload():
    assert stable(m_d_1(3.0, limits=Limits(items=50))) is False
    everything = m_d_1(3.0, limits=Limits(queries=1))
    assert stable(everything) is False or everything.load < 1


@pytest.mark.parametrize("queries", [0, 1, ENOUGH - 1])
def test_a_few_queries_tell_nothing(queries):
    assert stable(m_d_1(5.0, queries)) is None
