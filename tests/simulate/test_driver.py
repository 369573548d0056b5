"""The reference driver: order of events, ties, spread, contention, replay, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.errors import InputError
from deeprecsys.core.events import Arrive, Finish
from deeprecsys.core.policy import CPU, GPU, DeepRecSched, Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import Status, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.simulate.driver import simulate
from deeprecsys.simulate.table import Tabulated
from deeprecsys.simulate.trial import VirtualNode


def second(items, busy, u):
    return 1.0


def per_item(items, busy, u):
    return 0.001 * items


def test_a_finish_comes_before_an_arrival_of_the_same_instant():
    log = simulate(Static(1), [0.0, 1.0], [1, 1], second, 1, limits=Limits(items=0))
    assert log.status.tolist() == [Status.SERVED] * 2, "the worker was idle when the second came"
    assert log.start_s.tolist() == [0.0, 1.0]


def test_finishes_of_one_instant_come_in_the_order_of_their_starts():
    seen = []
    simulate(
        Static(5),
        [0.0, 0.0],
        [10, 10],
        second,
        4,
        observe=lambda event, now, commands: seen.append(event),
    )
    assert [e.batch.id for e in seen if isinstance(e, Finish)] == [0, 1, 2, 3]
    assert [type(e) for e in seen[:2]] == [Arrive, Arrive]


def test_a_query_ends_with_its_last_slice_and_starts_with_its_first():
    log = simulate(Static(100), [0.0], [250], per_item, 2)  # 84 + 83 at once, then 83
    assert log.start_s.tolist() == [0.0]
    assert log.finish_s.tolist() == [pytest.approx(0.166)]
    assert log.busy_s == pytest.approx(0.25)


def test_contention_counts_the_busy_workers_of_the_device_that_starts():
    asked = []

    def service(items, busy, u):
        asked.append((items, busy))
        return 1.0

    simulate(DeepRecSched(10, offload_above=50), [0.0, 0.1, 0.2], [20, 60, 10], service, {CPU: 4, GPU: 1})
    assert asked == [(10, 1), (10, 2), (60, 1), (10, 3)]


def test_the_spread_is_seeded_and_follows_the_order_of_starts():
    drawn = []

    def service(items, busy, u):
        drawn.append(u)
        return 1.0 + u

    arrivals, sizes = np.arange(50) * 0.3, np.full(50, 30)
    a = simulate(Static(10), arrivals, sizes, service, 4, seed=5)
    assert drawn == np.random.default_rng(5).random(150).tolist()
    b = simulate(Static(10), arrivals, sizes, service, 4, seed=5)
    c = simulate(Static(10), arrivals, sizes, service, 4, seed=6)
    assert (a.finish_s == b.finish_s).all()
    assert (a.finish_s != c.finish_s).any()


def test_a_full_line_sheds():
    log = simulate(Static(10), [0.0, 0.1, 0.2], [10, 10, 10], second, 1, limits=Limits(items=10))
    assert log.status.tolist() == [Status.SERVED, Status.SERVED, Status.SHED]
    assert np.isinf(log.latency_s[2])
    assert np.isnan(log.start_s[2])


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 100)), min_size=1, max_size=40),
    st.integers(1, 60),
    st.none() | st.integers(0, 100),
    st.integers(1, 4),
)
def test_recorded_events_replayed_give_the_same_commands(load, batch, above, cpus):
    gaps, sizes = zip(*load, strict=True)
    policy, workers, limits = DeepRecSched(batch, above), {CPU: cpus, GPU: 1}, Limits(items=150)
    steps = []
    simulate(
        policy,
        np.cumsum(gaps),
        sizes,
        per_item,
        workers,
        limits=limits,
        observe=lambda *step: steps.append(step),
    )
    fresh, started = Dispatcher(policy, workers, limits), {}
    for event, now, commands in steps:
        again = Finish(started[event.batch.id]) if isinstance(event, Finish) else event
        got = fresh.handle(again, now)
        fresh.check()
        started.update({c.batch.id: c.batch for c in got if hasattr(c, "batch")})
        assert got == commands


POINTS = st.lists(st.lists(st.floats(1e-4, 1.0), min_size=3, max_size=3), min_size=1, max_size=4)


@settings(max_examples=60)
@given(POINTS, st.integers(1, 700), st.integers(1, 9), st.floats(0, 0.999999))
def test_a_profile_as_service_is_what_the_profile_says(rows, batch, busy, u):
    points = [Point(k, 4**i * 2, tuple(sorted(row))) for k in (1, 4) for i, row in enumerate(rows)]
    profile = LatencyProfile("m", tuple(points))
    assert Tabulated(profile)(batch, busy, u) == pytest.approx(profile.seconds(batch, busy, u), rel=1e-9)


def test_quantiles_of_unequal_number_fall_back_to_the_profile():
    profile = LatencyProfile("m", (Point(1, 1, (0.1,)), Point(1, 9, (0.2, 0.4))))
    assert Tabulated(profile)(5, 1, 0.5) == pytest.approx(profile.seconds(5, 1, 0.5))


def test_a_virtual_node_is_a_trial():
    def load(rate_qps, duration_s, seed):
        arrivals = np.arange(0, duration_s, 1 / rate_qps)
        return arrivals, np.full(len(arrivals), 10, dtype=np.int32)

    node = VirtualNode(LatencyProfile("m", (Point(1, 10, (0.01, 0.02)),)), 2, load, Target(latency_s=0.1))
    log = node(Static(10), 50.0, 4.0, 3)
    assert log.rate_qps == 50.0
    assert log.warmup_s == warmup_s(4.0, Target(latency_s=0.1))
    assert len(log.arrival_s) == 200
    assert (log.finish_s == node(Static(10), 50.0, 4.0, 3).finish_s).all()


@pytest.mark.parametrize(
    ("arrivals", "sizes", "words"),
    [
        ([0.0, 1.0], [1], "as many sizes"),
        ([1.0, 0.5], [1, 1], "rising order"),
        ([0.0, np.nan], [1, 1], "finite"),
        ([0.0], [0], "at least 1 item"),
    ],
)
def test_a_load_that_cannot_be_is_refused(arrivals, sizes, words):
    with pytest.raises(InputError, match=words):
        simulate(Static(1), arrivals, sizes, second, 1)


def test_a_device_without_service_times_is_refused():
    with pytest.raises(InputError, match="none for gpu"):
        simulate(Static(1), [0.0], [1], {CPU: second}, {CPU: 1, GPU: 1})
