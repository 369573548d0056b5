"""The compiled path against the reference driver: the same numbers, bit for bit, ties included."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprecsys.core.device import Limits
from deeprecsys.core.errors import InputError
from deeprecsys.core.events import Complete, Event, Finish, Start
from deeprecsys.core.policy import (
    CPU,
    GPU,
    Adaptive,
    Coalescing,
    DeepRecSched,
    Earliest,
    Offload,
    Placement,
    Policy,
    Static,
    UserFirst,
)
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.query import Query
from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.simulate.driver import VirtualTrial, simulate
from deeprecsys.simulate.fast import compiled_trial, run
from deeprecsys.simulate.table import Tabulated
from tests.simulate.compiled import recorded, simulate_fast

LARGEST = 40


def same(a: RunLog, b: RunLog) -> None:
    for name in ("arrival_s", "size", "issued_s", "start_s", "finish_s", "status"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype, name
        np.testing.assert_array_equal(x, y, err_msg=name, strict=True)
    assert (a.busy_s, a.workers, a.rate_qps, a.warmup_s) == (b.busy_s, b.workers, b.rate_qps, b.warmup_s)


# Times in eighths of a second add up exactly, so that ties are frequent and real.
GRID = st.integers(1, 24).map(lambda i: i / 8)
FREE = st.floats(1e-3, 3.0)


@st.composite
def profiles(draw: st.DrawFn, ties: bool) -> LatencyProfile:
    seconds = GRID if ties else FREE
    quantiles = draw(st.integers(1, 1 if ties else 4))
    busy_levels = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True))
    points = []
    levels = [(busy, False) for busy in sorted(busy_levels)]
    levels += [(busy, True) for busy in draw(st.lists(st.integers(1, 6), max_size=2, unique=True))]
    for busy, after_idle in levels:
        # From 1 to the largest, so that no time is extrapolated.
        middle = draw(st.lists(st.integers(2, LARGEST - 1), max_size=2, unique=True))
        batches = draw(st.sampled_from([[1], [1, *sorted(middle), LARGEST]]))
        for batch in batches:
            times = sorted(draw(st.lists(seconds, min_size=quantiles, max_size=quantiles)))
            points.append(Point(busy, batch, tuple(times), after_idle))
    ranks = draw(st.lists(st.floats(0, 1), max_size=5))
    return LatencyProfile("any", tuple(points), ranks=tuple(ranks))


@st.composite
def trials(draw: st.DrawFn) -> dict[str, Any]:
    ties = draw(st.booleans())
    n = draw(st.integers(0, 60))
    gap = st.integers(0, 6).map(lambda i: i / 8) if ties else st.floats(0, 1)
    gaps = draw(st.lists(gap, min_size=n, max_size=n))
    sizes = draw(st.lists(st.integers(1, LARGEST), min_size=n, max_size=n))
    batch_size = draw(st.integers(1, LARGEST + 5))
    threshold = draw(st.none() | st.integers(0, LARGEST))
    workers: dict[str, int] = {CPU: draw(st.integers(1, 6))}
    service: dict[str, LatencyProfile] = {CPU: draw(profiles(ties))}
    if threshold is not None or draw(st.booleans()):
        workers[GPU] = draw(st.integers(1, 3))
        service[GPU] = draw(profiles(ties))
    few = st.integers(1, 100)
    limits = draw(
        st.none()
        | st.builds(
            Limits,
            queries=few,
            items=few,
            bytes=st.integers(1, 800),
            bytes_per_item=st.integers(0, 9),
            slices=st.integers(1, 5),
        )
    )
    policy: Any = DeepRecSched(batch_size, threshold)
    if threshold is None:
        # Larger batches than the largest measured one would be extrapolated.
        coarsest, finest = min(batch_size, LARGEST), draw(st.integers(1, batch_size))
        late = [kind(coarsest, min(finest, coarsest)) for kind in (Adaptive, Coalescing)]
        policy = draw(st.sampled_from([policy, Static(batch_size), UserFirst(batch_size), *late]))
        if policy.user_first:
            stage_s, staged_s = draw(GRID if ties else FREE), draw(st.just(0.0) | (GRID if ties else FREE))
            service[CPU] = replace(service[CPU], stage_s=stage_s, staged_s=staged_s)
    else:
        merged = draw(st.integers(1, LARGEST))
        away = [kind(batch_size, threshold, merged) for kind in (Offload, Earliest)]
        policy = draw(st.sampled_from([policy, *away]))
    return {
        "policy": policy,
        "arrival_s": np.cumsum(np.array(gaps, dtype=np.float64)),
        "size": np.array(sizes, dtype=np.int32),
        "service": service,
        "workers": workers,
        "seed": draw(st.integers(0, 9)),
        "limits": limits,
    }


def observed(trial: dict[str, Any]) -> tuple[RunLog, list[tuple[Any, ...]]]:
    """The reference driver's log, and its batches by number."""
    batches: dict[int, list[Any]] = {}

    def watch(event: Event, now_s: float, commands: list[Any]) -> None:
        if isinstance(event, Finish):
            batches[event.batch.id].append(now_s)
        for command in commands:
            if isinstance(command, Start):
                b = command.batch
                batches[b.id] = [b.slices[0].query.id, b.items, [CPU, GPU].index(b.device), b.worker, now_s]

    log = simulate(**trial, observe=watch)
    return log, [tuple(batches[i]) for i in range(len(batches))]


@settings(max_examples=400, deadline=None)
@given(trials())
def test_equal_to_the_reference_event_for_event(trial: dict[str, Any]) -> None:
    expected, batches = observed(trial)
    log, kept = recorded(**trial)
    same(log, expected)
    assert kept == batches
    same(simulate_fast(**trial), expected)
    same(run(**trial), expected)


@pytest.mark.parametrize("kind", [Adaptive, Coalescing])
def test_late_cuts_are_equal_to_the_reference_on_a_long_heavy_trial(kind: type) -> None:
    rng = np.random.default_rng(6)
    n = 10_000
    points = tuple(
        Point(busy, batch, tuple(f * (1e-3 + 1e-4 * batch) * (1 + busy / 16) for f in (0.8, 0.9, 1.5)))
        for busy in (1, 16)
        for batch in (1, 64, 1024)
    )
    trial: dict[str, Any] = {
        "policy": kind(256, 16),
        "arrival_s": np.cumsum(rng.exponential(1.6e-3, n)),
        "size": np.minimum(rng.lognormal(4.6, 0.9, n).astype(np.int32) + 1, 1000),
        "service": LatencyProfile("x", points),
        "workers": 16,
        "seed": 3,
    }
    same(simulate_fast(**trial), simulate(**trial))


@pytest.mark.parametrize(
    "policy",
    [DeepRecSched(32, 500), Offload(32, 200, 2000), Earliest(32, 100, 2000), UserFirst(32)],
    ids=lambda p: p.describe()["policy"],
)
def test_equal_to_the_reference_on_a_long_heavy_trial(policy: Any) -> None:
    rng = np.random.default_rng(5)
    n = 20_000
    points = tuple(
        Point(busy, batch, tuple(f * (1e-3 + 1e-4 * batch) * (1 + busy / 16) for f in (0.8, 0.9, 1.0, 1.5)))
        for busy in (1, 4, 16)
        for batch in (1, 16, 256, 1024)
    )
    profile = LatencyProfile("x", points, stage_s=2e-3, staged_s=9e-4)
    trial: dict[str, Any] = {
        "policy": policy,
        "arrival_s": np.cumsum(rng.exponential(1.6e-3, n)),
        "size": np.minimum(rng.lognormal(4.6, 0.9, n).astype(np.int32) + 1, 1000),
        "service": profile,
        "workers": {CPU: 16, GPU: 2},
        "seed": 3,
    }
    expected = simulate(**trial)
    same(simulate_fast(**trial), expected)
    tabulated = trial | {"service": Tabulated(profile)}
    same(simulate(**tabulated), expected)
    same(simulate_fast(**tabulated), expected)


def test_time_that_does_not_move_is_followed_in_the_order_of_events() -> None:
    """A batch so short that its finish rounds to its start: it is still running as the next slice starts."""
    profile = LatencyProfile("x", (Point(1, 1, (1e-9,)), Point(2, 1, (2e-9,))))
    trial: dict[str, Any] = {
        "policy": Static(1),
        "arrival_s": np.full(3, 1e9),
        "size": np.array([5, 1, 2]),
        "service": profile,
        "workers": 2,
    }
    expected, batches = observed(trial)
    log, kept = recorded(**trial)
    same(log, expected)
    assert kept == batches


def test_shed_queries_are_counted() -> None:
    profile = LatencyProfile("x", (Point(1, 1, (1.0,)),))
    log = simulate_fast(Static(1), np.zeros(5), np.ones(5), profile, 1, limits=Limits(items=2))
    assert log.status.tolist() == [Status.SERVED] * 3 + [Status.SHED] * 2
    assert np.isnan(log.start_s[3:]).all()


class Halves(Policy):
    """Half of the query at a time: a policy that is not compiled."""

    def place(self, query: Query, view: Any, now_s: float) -> Placement:
        return Placement(CPU, max(1, query.size // 2))

    def describe(self) -> dict[str, Any]:
        return {"policy": "halves"}


def test_the_front_takes_the_reference_where_nothing_is_compiled() -> None:
    profile = LatencyProfile("x", (Point(1, 1, (0.5,)), Point(1, 10, (1.0,))))
    load = (np.arange(20) / 4, np.arange(20) % 7 + 1)
    for policy, service in [(Halves(), profile), (Static(2), lambda items, busy, u: 0.25 * items)]:
        same(run(policy, *load, service, 2), simulate(policy, *load, service, 2))
        assert compiled_trial(policy, VirtualTrial.of(*load, service, 2)) is None
    seen: list[Any] = []
    log = run(Static(2), *load, profile, 2, observe=lambda event, now_s, commands: seen.extend(commands))
    same(log, run(Static(2), *load, profile, 2))
    assert sum(isinstance(c, Complete) for c in seen) == 20


def test_quantiles_that_differ_in_number_are_left_to_the_reference() -> None:
    profile = LatencyProfile("x", (Point(1, 1, (0.5, 0.6)), Point(1, 10, (1.0, 1.1, 1.5))))
    load = (np.arange(50) / 4, np.arange(50) % 10 + 1)
    assert compiled_trial(Static(10), VirtualTrial.of(*load, profile, 2)) is None
    same(run(Static(10), *load, profile, 2), simulate(Static(10), *load, profile, 2))


def test_a_table_with_gaps_serves_the_batches_that_it_has() -> None:
    """Below the least measured batch the time may not be linear in the quantiles."""
    profile = LatencyProfile("x", (Point(1, 10, (0.5, 0.6)), Point(1, 20, (1.2, 1.5))))
    assert np.isnan(Tabulated(profile).quantiles(20)).any()
    arrivals = np.arange(50) / 4
    for sizes, batch_size in ((np.full(50, 20), 10), (np.arange(50) % 9 + 1, 10)):
        same(
            run(Static(batch_size), arrivals, sizes, profile, 2),
            simulate(Static(batch_size), arrivals, sizes, profile, 2),
        )
    simulate_fast(Static(10), arrivals, np.full(50, 20), profile, 2)
    assert compiled_trial(Static(10), VirtualTrial.of(arrivals, np.arange(50) % 9 + 1, profile, 2)) is None


@pytest.mark.parametrize("call", [run, simulate_fast])
def test_bad_input_is_refused_as_by_the_reference(call: Any) -> None:
    profile = LatencyProfile("x", (Point(1, 1, (0.5,)),))
    with pytest.raises(InputError, match="size"):
        call(Static(1), [0.0], [0], profile, 1)
    with pytest.raises(InputError, match="rising"):
        call(Static(1), [1.0, 0.0], [1, 1], profile, 1)
    with pytest.raises(InputError, match="gpu"):
        call(DeepRecSched(1, 5), [0.0], [1], profile, 1)
    with pytest.raises(InputError, match="service times"):
        call(DeepRecSched(1, 5), [0.0], [1], {CPU: profile}, {CPU: 1, GPU: 1})


def test_an_empty_load() -> None:
    profile = LatencyProfile("x", (Point(1, 1, (0.5,)),))
    same(simulate_fast(Static(1), [], [], profile, 3), simulate(Static(1), [], [], profile, 3))


def test_read_only_arrays_do_not_compile_again() -> None:
    from deeprecsys.simulate import kernel

    profile = LatencyProfile("x", (Point(1, 1, (0.5,)),))
    arrivals, sizes = np.arange(3.0), np.ones(3, np.int32)
    simulate_fast(Static(1), arrivals, sizes, profile, 1)
    before = len(kernel.run.signatures)  # type: ignore[attr-defined]
    arrivals.flags.writeable = sizes.flags.writeable = False
    simulate_fast(Static(1), arrivals, sizes, profile, 1)
    assert len(kernel.run.signatures) == before == 1  # type: ignore[attr-defined]


def test_numba_is_loaded_only_when_it_runs() -> None:
    code = (
        "import sys, deeprecsys.core, deeprecsys.simulate, deeprecsys.simulate.fast, deeprecsys.bounds;"
        "assert not {'numba', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_node_that_shares_its_workers_cores_slows_them_with_the_rate():
    arrivals = np.arange(1, 101) * 0.01
    sizes = np.full(100, 10)
    alone = LatencyProfile("m", (Point(1, 10, (0.002, 0.004)),))
    shared = replace(alone, host_s=2e-3)
    rested = replace(shared, points=(*shared.points, Point(1, 10, (0.003, 0.005), after_idle=True)))
    for profile in (shared, rested):
        busy = [simulate(Static(10), arrivals, sizes, profile, 2, rate_qps=r).busy_s for r in (0.0, 100.0)]
        assert busy[1] / busy[0] == pytest.approx(1 / 0.9), "100 queries/s x 2 ms are a tenth of two cores"
        for service in (profile, Tabulated(profile)):
            fast = simulate_fast(Static(10), arrivals, sizes, service, 2, rate_qps=100.0)
            assert fast.busy_s == pytest.approx(busy[1])
            assert run(Static(10), arrivals, sizes, {CPU: service}, 2, rate_qps=100.0).busy_s == fast.busy_s
