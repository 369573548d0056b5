"""No policy exceeds its bound; and how far `o_fcfs` is one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from deeprecsys.bounds.bounds import Bound, BoundKind, two_pools
from deeprecsys.bounds.path import Path, bounds_of, o_drop, o_fcfs
from deeprecsys.bounds.work import least_span, least_work, pmf_of
from deeprecsys.core.device import Limits
from deeprecsys.core.policy import CPU, GPU, Coalescing, DeepRecSched, Policy, Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.core.target import Target, percentile
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.table import Tabulated
from tests.core.policies import BY_NAME, OFFLOADING, SIZES
from tests.simulate.compiled import simulate_fast

P95 = 0.95


def profile_of(times_s: ArrayLike, **stage: float) -> Tabulated:
    times = np.asarray(times_s, dtype=np.float64).tolist()
    return Tabulated(LatencyProfile("x", tuple(Point(1, b, (s,)) for b, s in enumerate(times, 1)), **stage))


class Case(NamedTuple):
    times_s: NDArray[np.float64]
    cores: int
    batch_size: int
    target: Target
    arrival_s: NDArray[np.float64]
    size: NDArray[np.int64]

    def log(self, speed: float) -> RunLog:
        times = profile_of(self.times_s)
        return simulate_fast(Static(self.batch_size), self.arrival_s / speed, self.size, times, self.cores)

    def meets(self, log: RunLog) -> bool:
        return percentile(log.latency_s, self.target.quantile) <= self.target.latency_s

    @property
    def rate_qps(self) -> float:
        return len(self.size) / float(self.arrival_s[-1])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    largest = draw(st.integers(1, 60))
    if draw(st.booleans()):  # affine
        times = draw(st.sampled_from([0.0, 0.3, 2.0])) + draw(st.floats(0.02, 1)) * np.arange(1, largest + 1)
    else:  # steps, and not always rising
        times = 0.05 + np.abs(np.cumsum(rng.normal(0.2, 1, largest) * (rng.random(largest) < 0.3)))
    n = draw(st.sampled_from([1, 19, 20, 300, 1500, 1500]))
    big = rng.random(n) < draw(st.sampled_from([0.0, 0.02, 0.045, 0.3, 1.0]))
    size = np.where(big, largest, rng.integers(1, largest // 4 + 2, n)).clip(max=largest)
    target = Target(
        latency_s=float(times.max() * draw(st.floats(0.3, 6))),
        quantile=draw(st.sampled_from([0.5, 0.95, 0.99])),
    )
    arrival_s = np.cumsum(rng.exponential(1, n))
    return Case(times, draw(st.integers(1, 16)), draw(st.integers(1, largest)), target, arrival_s, size)


RATES = st.floats(0.3, 3)


@settings(max_examples=250, deadline=None)
@given(cases(), RATES)
def test_no_fixed_batch_size_exceeds_o_drop_on_any_path(case: Case, share: float) -> None:
    bounds = bounds_of(case.times_s, case.cores, case.target, case.arrival_s, case.size)
    mixed = bounds_of(case.times_s, case.cores, case.target, case.arrival_s, case.size, coalescing=True)
    bound = bounds[BoundKind.O_DROP].rate_qps
    assert bound <= mixed[BoundKind.O_DROP].rate_qps * (1 + 1e-3)
    anywhere = share * case.cores / float(case.times_s[case.size - 1].mean())
    for rate in {anywhere, bound * 1.0001} - {0.0, np.inf}:  # the second is where it is hardest
        if case.meets(case.log(rate / case.rate_qps)):
            event("the target is met")
            assert rate <= bound


@settings(max_examples=200, deadline=None)
@given(cases(), st.floats(0.5, 1.1))
def test_no_fixed_batch_size_exceeds_capacity(case: Case, share: float) -> None:
    """A path that ends within one target of its last arrival has run all its work by then."""
    capacity = bounds_of(case.times_s, case.cores, case.target, case.arrival_s, case.size)[BoundKind.CAPACITY]
    speed = max(share * capacity.rate_qps, 1e-9) / case.rate_qps
    log = case.log(speed)
    within_s = float(case.arrival_s[-1]) / speed + case.target.latency_s
    if case.meets(log) and log.finish_s.max() <= within_s:
        event("the target is met")
        assert len(case.size) / within_s <= capacity.rate_qps * (1 + 1e-9)


@settings(max_examples=250, deadline=None)
@given(cases())
def test_no_fixed_batch_size_exceeds_o_fcfs_by_more_than_its_longest_batch(case: Case) -> None:
    """The theorem behind `o_fcfs`: work may still run, of earlier queries, when a query ends."""
    lengths = np.minimum(case.size, case.batch_size)
    longest_s = float(case.times_s[: lengths.max()].max())
    slack_s = longest_s * (case.cores - 1) / case.cores
    work, span = least_work(case.times_s), least_span(case.times_s, case.cores)
    path = Path.of(case.arrival_s, case.size, work, span)
    looser = Target(latency_s=case.target.latency_s + slack_s, quantile=case.target.quantile)
    bound = o_fcfs(path, case.cores, looser)
    if 0 < bound < np.inf:
        event("bounded")
        assert not case.meets(case.log(bound * 1.0001 / case.rate_qps))


@settings(max_examples=100, deadline=None)
@given(cases())
def test_bounds_are_in_order(case: Case) -> None:
    """Leave to abandon queries never hurts; one core that runs every query whole is the server itself."""
    work = least_work(case.times_s, case.target.latency_s)
    path = Path.of(case.arrival_s, case.size, work, least_span(case.times_s, case.cores))
    drop, fcfs = (b(path, case.cores, case.target) for b in (o_drop, o_fcfs))
    assert fcfs <= drop * (1 + 2e-4)


# Every kind of policy. `o_fcfs` is left out on purpose: see the two examples below.
SLICES, LARGEST, LONGEST = 4, 30, 120
"""The most slices of a batch, the most items of a query, the most items of a batch by both."""
ON_CPU = {n: p for n, p in BY_NAME.items() if n not in OFFLOADING}
ON_CPU["deeprecsched"] = st.builds(DeepRecSched, SIZES)


class AnyPolicy(NamedTuple):
    policy: Policy
    times_s: NDArray[np.float64]
    cores: int
    target: Target
    arrival_s: NDArray[np.float64]
    size: NDArray[np.int64]
    stage: dict[str, float]

    def bounds(self) -> dict[BoundKind, Bound]:
        """With mixed batches only where the policy mixes: without, the bounds are tighter."""
        mixes = self.policy.merges_queries
        times = self.times_s if mixes else self.times_s[:LARGEST]
        return bounds_of(
            times, self.cores, self.target, self.arrival_s, self.size, coalescing=mixes, **self.stage
        )

    def log(self, rate_qps: float) -> RunLog:
        arrival_s = self.arrival_s * (self.rate_qps / rate_qps)
        limits = Limits(slices=SLICES)
        service = profile_of(self.times_s, **self.stage)
        return run(self.policy, arrival_s, self.size, service, self.cores, limits=limits)

    def meets(self, log: RunLog) -> bool:
        assert (log.status == Status.SERVED).all()
        return percentile(log.latency_s, self.target.quantile) <= self.target.latency_s

    @property
    def rate_qps(self) -> float:
        return len(self.size) / float(self.arrival_s[-1])


@st.composite
def any_policies(draw: st.DrawFn, name: str) -> AnyPolicy:
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    if draw(st.booleans()):  # affine
        times = draw(st.sampled_from([0.0, 0.3, 5.0])) + draw(st.floats(0.02, 1)) * np.arange(1, LONGEST + 1)
    else:  # steps, and not always rising
        times = 0.05 + np.abs(np.cumsum(rng.normal(0.2, 1, LONGEST) * (rng.random(LONGEST) < 0.3)))
    n = draw(st.sampled_from([1, 20, 120, 300]))
    big = rng.random(n) < draw(st.sampled_from([0.0, 0.045, 0.3]))
    size = np.where(big, LARGEST, rng.integers(1, LARGEST // 4 + 2, n))
    target_s = float(times[:LARGEST].max() * draw(st.floats(0.3, 4)))
    target = Target(latency_s=1e-3 * target_s, quantile=draw(st.sampled_from([0.5, 0.95])))
    arrival_s = np.cumsum(rng.exponential(1e-3, n))
    policy, stage = draw(ON_CPU[name]), {}
    if policy.user_first:
        user_s = 1e-3 * float(times[0]) * draw(st.floats(0.05, 1.2))
        stage = {"stage_s": user_s * draw(st.floats(0.5, 2)), "staged_s": user_s}
    return AnyPolicy(policy, 1e-3 * times, draw(st.integers(1, 8)), target, arrival_s, size, stage)


@pytest.mark.parametrize("name", ON_CPU)
@settings(max_examples=40, deadline=None)
@given(st.data(), RATES)
def test_no_policy_exceeds_its_o_drop_nor_its_capacity(name: str, data: st.DataObject, share: float) -> None:
    case = data.draw(any_policies(name))
    bounds = case.bounds()
    drop, capacity = bounds[BoundKind.O_DROP].rate_qps, bounds[BoundKind.CAPACITY].rate_qps
    anywhere = share * case.cores / float(case.times_s[case.size - 1].mean())
    for rate in {anywhere, drop * 1.0001} - {0.0, np.inf}:  # the second is where it is hardest
        log = case.log(rate)
        if not case.meets(log):
            continue
        event("the target is met")
        assert rate <= drop
        # What ends within one target of the last arrival has run all its work by then.
        within_s = float(log.arrival_s[-1]) + case.target.latency_s
        if log.finish_s.max() <= within_s:
            assert len(case.size) / within_s <= capacity * (1 + 1e-9)


def test_a_policy_that_mixes_exceeds_the_bounds_of_those_that_do_not() -> None:
    """Or there would be no need for two kinds of bounds."""
    times = 1e-3 * (5.0 + 0.02 * np.arange(1, LONGEST + 1))
    arrival_s = np.cumsum(np.random.default_rng(1).exponential(1e-3, 300))
    case = AnyPolicy(Coalescing(120, 1), times, 1, Target(latency_s=0.03), arrival_s, np.ones(300, int), {})
    alone = bounds_of(times, 1, case.target, arrival_s, case.size)
    rate = 1.5 * alone[BoundKind.O_DROP].rate_qps
    assert case.meets(case.log(rate))
    assert rate <= case.bounds()[BoundKind.O_DROP].rate_qps


def test_one_core_and_one_size_reach_o_fcfs_exactly() -> None:
    rng = np.random.default_rng(1)
    case = Case(
        np.full(1, 0.01),
        1,
        1,
        Target(latency_s=0.05),
        np.cumsum(rng.exponential(1, 5000)),
        np.ones(5000, int),
    )
    bounds = bounds_of(case.times_s, 1, case.target, case.arrival_s, case.size)
    rate = bounds[BoundKind.O_FCFS].rate_qps
    assert case.meets(case.log(rate * (1 - 2e-4) / case.rate_qps))
    assert not case.meets(case.log(rate * (1 + 2e-4) / case.rate_qps))


def test_overtaking_a_long_batch_beats_o_fcfs() -> None:
    """Two cores, three long queries, then thirty short ones. The long batches of two queries still run
    as the short ones pass; one fast server would have had to finish them."""
    times = 0.001 * np.arange(1, 1001)
    arrival_s = np.array([0, 0.4, 0.45, *[0.5] * 30])
    case = Case(times, 2, 1000, Target(latency_s=1.0), arrival_s, np.array([1000] * 3 + [1] * 30))
    assert case.meets(case.log(1.0))
    bounds = bounds_of(times, 2, case.target, case.arrival_s, case.size)
    assert bounds[BoundKind.O_FCFS].rate_qps < case.rate_qps <= bounds[BoundKind.O_DROP].rate_qps


def test_a_late_query_in_batches_longer_than_the_target_beats_o_fcfs() -> None:
    """One query in 25 takes 2 s whole, and 3 s in two batches that a target of 1.6 s allows."""
    times = 1 + 0.001 * np.arange(1, 1001)
    size = np.where(np.arange(500) % 25 == 24, 1000, 1)
    case = Case(times, 1, 1000, Target(latency_s=1.6), 1.55 * np.arange(1, 501), size)
    assert case.meets(case.log(1.0))
    bounds = bounds_of(times, 1, case.target, case.arrival_s, size)
    assert bounds[BoundKind.O_FCFS].rate_qps < 0.95 * case.rate_qps
    assert case.rate_qps <= bounds[BoundKind.O_DROP].rate_qps
    assert case.rate_qps <= bounds[BoundKind.CAPACITY].rate_qps


def test_an_accelerator_stays_within_the_two_pools() -> None:
    rng = np.random.default_rng(2)
    n = 20_000
    size = rng.integers(1, 501, n)
    cpu, gpu = 1e-3 + 1e-4 * np.arange(1, 501), 3e-3 + 4e-6 * np.arange(1, 501)
    best = two_pools(cpu, gpu, pmf_of(size), 8)
    assert best.offload_above is not None
    service = {CPU: profile_of(cpu), GPU: profile_of(gpu)}
    reached = {}
    for threshold in (best.offload_above // 2, best.offload_above, best.offload_above * 2):
        # All work at once: how fast it goes is the pools' capacity under this threshold.
        policy, workers = DeepRecSched(500, threshold), {CPU: 8, GPU: 1}
        log = simulate_fast(policy, np.zeros(n), size, service, workers, limits=Limits(items=1 << 40))
        reached[threshold] = n / float(np.nanmax(log.finish_s))
        assert reached[threshold] <= best.rate_qps * (1 + 1e-9)
    assert reached[best.offload_above] > 0.97 * best.rate_qps
    assert max(reached, key=reached.__getitem__) == best.offload_above


@pytest.mark.parametrize("coalescing", [False, True])
def test_targets_out_of_reach_and_paths_that_nothing_binds(coalescing: bool) -> None:
    arrival_s, size = np.arange(1.0, 41.0), np.full(40, 4)
    none = bounds_of([1.0, 1.0, 1.0, 1.0], 2, Target(latency_s=0.5), arrival_s, size, coalescing=coalescing)
    assert none[BoundKind.O_FCFS].rate_qps == none[BoundKind.O_DROP].rate_qps == 0
    free = bounds_of([1e-3] * 4, 2, Target(latency_s=0.5), arrival_s, size, coalescing=coalescing)
    assert free[BoundKind.O_FCFS].rate_qps == free[BoundKind.O_DROP].rate_qps == np.inf
    at_once = np.full(40, 1.0)
    burst = bounds_of([1.0] * 4, 2, Target(latency_s=1.5), at_once, size, coalescing=coalescing)
    assert burst[BoundKind.O_FCFS].rate_qps == burst[BoundKind.O_DROP].rate_qps == 0
