"""Three times the load in virtual time: whom the dispatcher refuses, and what the others get."""

from __future__ import annotations

import heapq
from collections import Counter
from math import inf

import numpy as np
import pytest

from deeprecsys.core.deadlines import Forecast, LateBudget, batch_seconds
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.events import Adopt, Arrive, Complete, Finish, Lost, Ready, Shed, Start, Tick
from deeprecsys.core.policy import CPU, Adaptive, Coalescing, DeepRecSched, Policy
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.query import Query
from deeprecsys.core.runlog import summarise
from deeprecsys.core.target import Target
from deeprecsys.simulate.fast import run
from deeprecsys.workload.stream import Workload

TARGET = Target(latency_s=0.1)
QUANTILES = (0.0, 0.5, 1.0)
SPAN_S = 12.0


def profile(slower=1.0):
    """A batch costs a millisecond and an item 50 µs, give or take."""
    points = [(b, 1e-3 + 5e-5 * b) for b in (1, 100, 1000)]
    scale = np.array([0.7, 1.0, 1.6]) * slower
    return LatencyProfile("any", tuple(Point(1, b, tuple(s * scale)) for b, s in points))


def capacity_qps(policy, workers, times):
    """The highest rate of a production mix that meets the target with all served."""
    best = 0.0
    for rate in np.geomspace(80, 2000, 40) * workers / 2:
        stream = Workload.parse().stream(rate, queries=3000)
        s = summarise(run(policy, stream.arrival_s, stream.size, times, workers, rate_qps=rate), TARGET)
        if s.miss_rate > TARGET.miss_rate:
            return best
        best = float(rate)
    raise AssertionError("it never saturates")


def slower_of(times):
    """How much slower a profile is than the one of `profile()`."""
    return times.points[0].median_s / profile().points[0].median_s


class World:
    """Serves a stream by one dispatcher whose batches take what a profile says, drawn at random."""

    def __init__(
        self,
        policy: Policy,
        workers: int,
        believed: LatencyProfile,
        real: LatencyProfile,
        shed_late: bool = False,
    ) -> None:
        self.d = Dispatcher(policy, {CPU: workers})
        times = batch_seconds(believed, workers, 1000)
        forecast = Forecast(times, None, False, LateBudget(TARGET.miss_rate, shed_late))
        self.d.handle(Adopt(0, policy, forecast), 0.0)
        self.scale = np.array(real.points[0].seconds) / real.points[0].median_s * slower_of(real)
        self.rng = np.random.default_rng(0)
        self.latency: dict[int, float] = {}
        self.refused: Counter[int] = Counter()
        self.finishes: list[tuple[float, int, object]] = []
        self.now = 0.0

    def tell(self, event):
        for c in self.d.handle(event, self.now):
            match c:
                case Start(batch):
                    took = (1e-3 + 5e-5 * batch.items) * float(
                        np.interp(self.rng.random(), QUANTILES, self.scale)
                    )
                    heapq.heappush(self.finishes, (self.now + took, batch.id, batch))
                case Complete(query):
                    self.latency[query.id] = self.now - query.arrival_s
                case Shed(query):
                    self.refused[query.id] += 1

    def until(self, time_s):
        while True:
            due = self.finishes[0][0] if self.finishes else inf
            wake = self.d.wake_s
            if min(due, wake) > time_s:
                self.now = time_s
                return
            self.now = min(due, wake)
            self.tell(Finish(heapq.heappop(self.finishes)[2]) if due <= wake else Tick())

    def serve(self, stream, at=()):
        extra = sorted(at, key=lambda e: e[0])
        for i, (t, n) in enumerate(zip(stream.arrival_s.tolist(), stream.size.tolist(), strict=True)):
            while extra and extra[0][0] <= t:
                when, event = extra.pop(0)
                self.until(when)
                self.finishes = [
                    f for f in self.finishes if not (isinstance(event, Lost) and f[2].worker == event.worker)
                ]
                heapq.heapify(self.finishes)
                self.tell(event)
            self.until(t)
            self.tell(Arrive(Query(i, n, t, deadline_s=t + TARGET.latency_s)))
        self.until(1e9)

    def p95_s(self):
        return float(np.quantile(list(self.latency.values()), 0.95, method="inverted_cdf"))

    def goodput(self, span_s):
        return sum(x <= TARGET.latency_s for x in self.latency.values()) / span_s


@pytest.mark.parametrize("slower", [1.0, 1.5], ids=["as measured", "half as slow again"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "policy",
    [DeepRecSched(256), Adaptive(256, 32), Coalescing(512, 64)],
    ids=lambda p: p.describe()["policy"],
)
def test_at_three_times_the_capacity_answers_are_in_time_and_as_many_as_at_capacity(policy, workers, slower):
    real = profile(slower)
    capacity = capacity_qps(policy, workers, real)
    stream = Workload.parse(seed=3).stream(3 * capacity, duration_s=SPAN_S)
    world = World(policy, workers, profile(), real, shed_late=True)  # or all that was saved is spent first
    world.serve(stream)
    assert world.p95_s() <= TARGET.latency_s
    assert world.goodput(SPAN_S) >= 0.9 * capacity
    assert len(world.latency) + len(world.refused) == len(stream)


def test_at_the_capacity_hardly_anything_is_refused():
    policy, workers = DeepRecSched(256), 4
    capacity = capacity_qps(policy, workers, profile())
    world = World(policy, workers, profile(), profile())
    stream = Workload.parse(seed=4).stream(0.8 * capacity, queries=4000)
    world.serve(stream)
    assert len(world.refused) < 0.002 * len(stream)
    assert world.p95_s() <= TARGET.latency_s


def exact_capacity_qps(policy, workers, unit):
    """The rate at which the allowed share of a stream (given at 1 query/s) is late if all are served."""
    low, high = 80.0 * workers, 200.0 * workers
    while high - low > 0.1:
        rate = (low + high) / 2
        log = run(policy, unit.arrival_s / rate, unit.size, profile(), workers, rate_qps=rate)
        low, high = (rate, high) if summarise(log, TARGET).miss_rate <= TARGET.miss_rate else (low, rate)
    return low


class Faster:
    """A stream at `times` its rate."""

    def __init__(self, unit, times):
        self.arrival_s, self.size = unit.arrival_s / times, unit.size

    def __len__(self):
        return len(self.size)


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("policy", [DeepRecSched(256), Coalescing(512, 64)], ids=lambda p: p.name)
def test_up_to_the_capacity_late_queries_are_answered_and_not_refused(policy, seed):
    """At its capacity one query in twenty is late. A budget that ends within a burst refuses, but few."""
    workers, unit = 2, Workload.parse(seed=seed).stream(1.0, queries=20_000)
    capacity = exact_capacity_qps(policy, workers, unit)
    refused, late = {}, {}
    for times, shed_late in ((0.95, False), (1.0, False), (1.0, True)):
        world = World(policy, workers, profile(), profile(), shed_late)
        world.serve(Faster(unit, times * capacity))
        refused[times, shed_late] = len(world.refused) / len(unit)
        late[times, shed_late] = sum(x > TARGET.latency_s for x in world.latency.values()) / len(unit)
    assert refused[0.95, False] == 0
    assert refused[1.0, False] <= 0.003
    assert refused[1.0, False] < refused[1.0, True] / 2, "where late queries are shed at once"
    assert 0.02 < late[1.0, False] < 0.06


@pytest.mark.parametrize("times", [1.5, 3.0])
@pytest.mark.parametrize("policy", [DeepRecSched(256), Coalescing(512, 64)], ids=lambda p: p.name)
def test_in_a_lasting_overload_goodput_is_that_of_shedding_at_once(policy, times):
    workers, unit = 2, Workload.parse(seed=5).stream(1.0, queries=20_000)
    rate = times * exact_capacity_qps(policy, workers, unit)
    goodput = {}
    for shed_late in (False, True):
        world = World(policy, workers, profile(), profile(), shed_late)
        world.serve(Faster(unit, rate))
        goodput[shed_late] = world.goodput(float(unit.arrival_s[-1]) / rate)
        assert world.p95_s() <= TARGET.latency_s
        assert max(world.latency.values()) < TARGET.latency_s + 0.5, "late, but not for long"
    assert goodput[False] > 0.96 * goodput[True]


def test_after_a_burst_the_server_is_soon_in_time_again():
    """Two seconds at five times the capacity: what comes from a second after it on is in time."""
    policy, workers, base = DeepRecSched(256), 2, 0.6
    unit = Workload.parse(seed=6).stream(1.0, queries=6000)
    capacity = exact_capacity_qps(policy, workers, unit)
    gaps = np.diff(unit.arrival_s, prepend=0.0) / (base * capacity)
    first = int(5 * base * capacity)
    gaps[first : first + int(10 * capacity)] *= base / 5
    unit.arrival_s[:] = np.cumsum(gaps)
    world = World(policy, workers, profile(), profile())
    world.serve(unit)
    ended_s = float(unit.arrival_s[first + int(10 * capacity)])
    since = {i: t - ended_s for i, t in enumerate(unit.arrival_s.tolist()) if t > ended_s}
    later = [world.latency.get(i, inf) for i, s in since.items() if s > 1.0]
    assert len(later) > 500
    assert np.mean(np.array(later) <= TARGET.latency_s) > 0.99
    assert max(world.latency.values()) < TARGET.latency_s + 0.5


def test_a_dead_worker_at_forty_percent_costs_no_query():
    policy, workers = DeepRecSched(256), 2
    capacity = capacity_qps(policy, workers, profile())
    stream = Workload.parse(seed=5).stream(0.4 * capacity, duration_s=26.0)
    kills = [(5.0 + 2 * k, Lost(CPU, k % 2)) for k in range(10)]
    backs = [(t + 0.05, Ready(CPU, e.worker)) for t, e in kills]
    world = World(policy, workers, profile(), profile())
    world.serve(stream, [*kills, *backs])
    assert not world.refused
    assert len(world.latency) == len(stream)
