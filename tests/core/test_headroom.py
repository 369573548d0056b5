"""Headroom: what is free by the formula is what a search in virtual time finds to be free."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.deadlines import Forecast, LateBudget, batch_seconds
from deeprecsys.core.headroom import (
    MEMORY_QUERIES,
    MEMORY_S,
    REFRESH_S,
    HeadroomMeter,
    Load,
    OfferedMix,
    headroom,
)
from deeprecsys.core.policy import CPU, GPU, DeepRecSched
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.target import Target
from deeprecsys.search.rank import Ranking, saturation_qps
from deeprecsys.simulate.table import Tabulated
from deeprecsys.simulate.trial import SamplePath
from deeprecsys.workload.sizes import parse

QUERIES = 40_000
SPREADS = ((1.0,), (0.8, 0.9, 1.0, 1.1, 1.2, 1.6))
SIZES = ("production", "lognormal", "fixed:64", "normal:100,40")


class Case:
    """A seeded mix, node, target and load.

    The target is at least 2.5 times what the 95th percentile of the sizes takes alone.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        first_s, per_item_s = 10 ** rng.uniform(-4, -2.5), 10 ** rng.uniform(-5.5, -4.3)
        spread = SPREADS[rng.integers(len(SPREADS))]
        points = tuple(
            Point(1, n, tuple((first_s + n * per_item_s) * f for f in spread)) for n in (1, 16, 128, 1024)
        )
        self.profile, self.rng = LatencyProfile("any", points), rng
        self.workers, self.batch = (
            int(rng.choice([1, 2, 4, 8, 16, 40])),
            int(rng.choice([8, 25, 64, 128, 256, 1000])),
        )
        self.sizes = parse(str(rng.choice(SIZES))).of(rng.random(QUERIES), np.zeros(QUERIES))
        self.seconds = batch_seconds(self.profile, self.workers, 1024)
        large = int(np.quantile(self.sizes, 0.95))
        alone_s = self.seconds[min(large, self.batch)] * max(1.0, np.ceil(large / self.batch) / self.workers)
        self.target = Target(
            latency_s=float(alone_s * rng.choice([2.5, 4, 8])), quantile=float(rng.choice([0.95, 0.99]))
        )
        self.share = float(rng.uniform(0.2, 1.1))

    def capacity_qps(self) -> tuple[float, float]:
        """By a search on one path of queries; and the rate at which all workers would be busy."""
        unit_s = np.cumsum(self.rng.exponential(size=QUERIES))
        times = Tabulated(self.profile)
        path = SamplePath(times, self.workers, lambda qps: (unit_s / qps, self.sizes), self.target)
        most = saturation_qps(self.profile, self.batch, self.sizes, self.workers)
        return Ranking(path, self.target, most).score(DeepRecSched(self.batch)).capacity_qps, most

    def load(self, qps: float) -> tuple[Load, float]:
        """What a node has seen of it after some seconds, at what time."""
        forecast = Forecast(self.seconds, self.batch, False, LateBudget(self.target.miss_rate))
        times = Tabulated(self.profile)
        for n in np.minimum(self.sizes[:300], self.batch).tolist():
            forecast.learn(forecast.batch_s(n), times(n, self.workers, float(self.rng.random())))
        mix, at_s = OfferedMix(), 0.0
        for n in self.sizes[: max(3 * MEMORY_QUERIES, min(QUERIES, int(4 * MEMORY_S * qps)))].tolist():
            at_s += self.rng.exponential() / qps
            mix.add(n, at_s)
        return Load(mix, forecast, self.target), at_s


def test_it_is_what_a_search_finds_to_be_free() -> None:
    """Over 50 mixes and loads, both as shares of the capacity. Left out is what has a capacity of less than a
    fifth of what the workers can do: there the target is hardly met by the longest queries alone."""
    errors: list[float] = []
    seed = 0
    while len(errors) < 50:
        seed += 1
        case = Case(seed)
        capacity, most = case.capacity_qps()
        if capacity < 0.2 * most:
            continue
        load, now_s = case.load(case.share * capacity)
        offered = load.mix.rate_qps(now_s)  # the last seconds' pace, which chance makes another one
        errors.append(abs(headroom([load], {CPU: case.workers}, now_s) - (1 - offered / capacity)))
    assert seed < 70
    assert max(errors) <= 0.1, sorted(errors)[-5:]


def steady(qps: float, items: int = 64, seconds: float = 30.0) -> OfferedMix:
    mix = OfferedMix()
    for i in range(int(qps * seconds)):
        mix.add(items, i / qps)
    return mix


def milliseconds(gpu: Forecast | None = None) -> Forecast:
    """A millisecond a query, whatever its size."""
    return Forecast([0.001] * 3, None, False, LateBudget(0.05), gpu)


TARGET = Target(latency_s=0.05)


def test_pace_and_mix_are_those_of_the_last_seconds() -> None:
    mix = steady(100)
    assert mix.rate_qps(30.0) == pytest.approx(100, rel=0.01)
    for i in range(8 * MEMORY_QUERIES):
        mix.add(8, 30.0 + i / 100)
    last_s = 30.0 + 0.01 * 8 * MEMORY_QUERIES
    assert mix.rate_qps(last_s) == pytest.approx(100, rel=0.01)
    assert mix.mean_items == pytest.approx(8, rel=0.02)
    assert mix.rate_qps(last_s + 10 * MEMORY_S) < 0.01
    for i in range(25 * MEMORY_QUERIES):  # weights are scaled down before they overflow
        mix.add(16, last_s + i)
    assert max(mix.sizes, key=lambda cell: cell[1]) == (16, pytest.approx(1.0))


def test_its_limits() -> None:
    nothing = Load(OfferedMix(), milliseconds(), TARGET)
    assert headroom([nothing], {CPU: 2}, 1.0) == 1.0
    assert headroom([nothing], {CPU: 0}, 1.0) == 0.0
    load = Load(steady(500), milliseconds(), TARGET)
    half, twice = (headroom([load], {CPU: n}, 30.0) for n in (1, 2))
    assert 0.4 < half < 0.5
    assert twice == pytest.approx((1 + half) / 2, abs=0.02), "half as much is used of twice as many workers"
    assert headroom([load], {CPU: 0}, 30.0) == 0.0
    assert headroom([Load(steady(2000), milliseconds(), TARGET)], {CPU: 1}, 30.0) < -0.9
    assert headroom([load._replace(most_qps=520)], {CPU: 8}, 30.0) == pytest.approx(1 - 500 / 520, abs=0.01)
    never = Load(steady(5), milliseconds(), Target(latency_s=0.0005))
    assert headroom([never], {CPU: 1}, 30.0) <= 0.0


def test_models_share_the_workers_and_the_strictest_target_holds() -> None:
    one, other = Load(steady(300), milliseconds(), TARGET), Load(steady(300), milliseconds(), TARGET)
    both = headroom([one, other], {CPU: 1}, 30.0)
    assert both == pytest.approx(2 * headroom([one], {CPU: 1}, 30.0) - 1, abs=0.02)
    strict = other._replace(target=Target(latency_s=0.002))
    assert headroom([one, strict], {CPU: 1}, 30.0) < both - 0.2


def test_it_is_that_of_the_busiest_device() -> None:
    gpu = Forecast([0.004] * 3, None, False, LateBudget(0.05))
    forecast = milliseconds(gpu)
    forecast.adopt(None, False, offload_above=50)
    load = Load(steady(200), forecast, TARGET)
    assert headroom([load], {CPU: 4, GPU: 1}, 30.0) == pytest.approx(0.13, abs=0.05)
    forecast.adopt(None, False, offload_above=100)
    assert headroom([load], {CPU: 4, GPU: 1}, 30.0) == pytest.approx(0.95, abs=0.02)


def test_a_slower_machine_has_less_of_it_and_the_pace_shows_that() -> None:
    forecast = milliseconds()
    load = Load(steady(300), forecast, TARGET)
    meter = HeadroomMeter([load])
    before = meter.headroom({CPU: 1}, 30.0)
    for _ in range(500):
        forecast.learn(0.001, 0.002)
    assert meter.headroom({CPU: 1}, 30.0 + REFRESH_S / 2) == pytest.approx(before, abs=0.1), (
        "it is kept for a while"
    )
    assert meter.headroom({CPU: 1}, 30.0 + REFRESH_S) < before - 0.2
    assert meter.headroom({CPU: 2}, 30.0 + REFRESH_S) > before - 0.1, "but not beyond a change of workers"
