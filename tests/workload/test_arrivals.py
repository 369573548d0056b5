"""Arrival processes: their laws, and the contract that all of them keep."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deeprecsys.core.errors import InputError
from deeprecsys.workload import arrivals
from deeprecsys.workload.arrivals import Arrivals, Bursts, Constant, Diurnal, Poisson, Replay
from deeprecsys.workload.trace import Trace

TRACE = Trace("t", np.array([5.0, 5.5, 5.5, 9.0]), np.array([1, 2, 3, 4], np.int32))
ALL: list[Arrivals] = [Poisson(), Constant(), Diurnal(), Diurnal(1000, 0.5), Bursts(), Bursts(50, 0.5, 0.1)]
ALL.append(Replay(TRACE))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def integrated(process: Arrivals, seed: int, t_s: np.ndarray) -> np.ndarray:
    """M(t), the integral of the rate profile."""
    if isinstance(process, Diurnal):
        w = 2 * np.pi / process.period_s
        return t_s - process.swing / w * np.sin(w * t_s)
    if isinstance(process, Bursts):
        switch_s, m = process.path(rng(seed).spawn(1)[0], 2 * t_s[-1] * max(process.factors))
        return np.interp(t_s, switch_s, m)
    return t_s


# --- contract ---


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.spec)
@given(seed=st.integers(0, 99), rate=st.floats(0.1, 1e6), n=st.integers(1, 300), more=st.integers(0, 300))
def test_more_queries_extend_and_never_change_the_first(
    process: Arrivals, seed: int, rate: float, n: int, more: int
) -> None:
    first, longer = (process.times(rng(seed), rate, k) for k in (n, n + more))
    np.testing.assert_array_equal(first, longer[:n])
    assert len(first) == n
    assert first[0] > 0
    assert (np.diff(longer) >= 0).all()


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.spec)
@given(seed=st.integers(0, 99), rate=st.floats(0.5, 500), factor=st.floats(0.1, 10))
def test_every_rate_sees_the_same_draws(process: Arrivals, seed: int, rate: float, factor: float) -> None:
    """Scaled in time, exactly, where the rate does not vary; through its integral where it does."""
    slow, fast = (process.times(rng(seed), r, 200) for r in (rate, rate * factor))
    np.testing.assert_allclose(
        integrated(process, seed, slow) * rate, integrated(process, seed, fast) * rate * factor, rtol=1e-7
    )


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.spec)
def test_a_horizon_is_a_prefix(process: Arrivals) -> None:
    whole = process.times(rng(3), 40.0, 3000)
    for horizon in (1e-6, 0.5, 7.0, 31.0):
        np.testing.assert_array_equal(
            arrivals.until(process, partial(rng, 3), 40.0, horizon), whole[whole <= horizon]
        )


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.spec)
def test_mean_rate_is_the_rate_asked_for(process: Arrivals) -> None:
    # 20,000 s are whole periods of all of them; the spread of a count is below 0.5 % (bursts: 1 %).
    n = len(arrivals.until(process, partial(rng, 1), 50.0, 20_000.0))
    assert n / 20_000 == pytest.approx(50.0, rel=0.02)


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.spec)
def test_the_spec_names_the_process(process: Arrivals) -> None:
    assert arrivals.parse(process.spec, TRACE) == process


# --- laws ---


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(Poisson().times(rng(), 40.0, 100_000), prepend=0.0)
    assert stats.kstest(gaps, stats.expon(scale=1 / 40).cdf).pvalue > 0.01
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.01


def test_the_artefacts_gaps_fail_that_test() -> None:
    """Integer-millisecond gaps, Poisson-distributed about 25 ms (facts §3), even in a small sample."""
    gaps = rng().poisson(25, 500) / 1e3
    assert stats.kstest(gaps, stats.expon(scale=1 / 40).cdf).pvalue < 1e-9
    assert gaps.std() / gaps.mean() == pytest.approx(0.2, rel=0.1)


def test_gaps_rounded_to_milliseconds_fail_it_too() -> None:
    gaps = np.round(np.diff(Poisson().times(rng(), 40.0, 100_000)), 3)
    assert stats.kstest(gaps, stats.expon(scale=1 / 40).cdf).pvalue < 1e-3


def test_constant_gaps_are_equal() -> None:
    np.testing.assert_allclose(Constant().times(rng(), 8.0, 5), [0.125, 0.25, 0.375, 0.5, 0.625])


@pytest.mark.parametrize("process", [Diurnal(2.5, 60), Diurnal(9, 7), Bursts(), Bursts(20, 0.3, 2)])
def test_varying_processes_are_poisson_on_their_own_clock(process: Arrivals) -> None:
    gaps = np.diff(integrated(process, 5, process.times(rng(5), 100.0, 100_000)))
    assert stats.kstest(gaps, stats.expon(scale=1 / 100).cdf).pvalue > 0.01


def test_diurnal_rate_follows_the_day() -> None:
    day = Diurnal(2.5, 24.0)
    phase = arrivals.until(day, partial(rng, 2), 500.0, 240.0) % 24.0
    seen, _ = np.histogram(phase, bins=24, range=(0, 24))
    hours = np.arange(25.0)
    expected = np.diff(integrated(day, 0, hours)) * 500.0 * 10
    assert stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 0.01
    assert day.profile(np.array([12.0]))[0] / day.profile(np.array([0.0]))[0] == pytest.approx(2.5)
    assert seen[11:13].sum() / (seen[0] + seen[23]) == pytest.approx(2.5, rel=0.05)


def test_diurnal_has_the_law_of_thinning() -> None:
    """The same law as candidates at the peak rate, each kept with probability m(t) / peak (facts §3)."""
    day = Diurnal(3.0, 10.0)
    draw, peak = rng(11), 200.0 * (1 + day.swing)
    candidates = np.cumsum(draw.exponential(1 / peak, 40_000))
    candidates = candidates[candidates < 100.0]
    kept = candidates[draw.random(len(candidates)) * (1 + day.swing) < day.profile(candidates)]
    ours = arrivals.until(day, partial(rng, 12), 200.0, 100.0)
    assert len(ours) == pytest.approx(len(kept), rel=0.03)
    assert stats.ks_2samp(ours % 10.0, kept % 10.0).pvalue > 0.01
    assert stats.ks_2samp(np.diff(ours), np.diff(kept)).pvalue > 0.01


def test_bursts_have_the_rates_and_the_duty_that_they_state() -> None:
    process = Bursts(ratio=4.0, duty=0.2, period_s=1.0)
    switch_s, m = process.path(rng(7), 20_000.0)
    stay, factor = np.diff(switch_s), np.diff(m) / np.diff(switch_s)
    calm, burst = process.factors
    assert burst / calm == pytest.approx(4.0)
    assert 0.8 * calm + 0.2 * burst == pytest.approx(1.0)
    in_burst = np.isclose(factor, burst)
    assert np.isclose(factor[~in_burst], calm).all()
    assert stay[in_burst].sum() / stay.sum() == pytest.approx(0.2, rel=0.02)
    for mine, mean_s in ((in_burst, 0.2), (~in_burst, 0.8)):
        assert stats.kstest(stay[mine], stats.expon(scale=mean_s).cdf).pvalue > 0.01


def test_bursts_start_in_a_burst_as_often_as_they_are_in_one() -> None:
    process = Bursts(ratio=4.0, duty=0.2, period_s=1.0)
    first = [np.diff(m)[0] / np.diff(t)[0] for t, m in (process.path(rng(s), 1.0) for s in range(1000))]
    assert np.isclose(first, process.factors[1]).mean() == pytest.approx(0.2, abs=0.04)


def test_a_replay_keeps_the_shape_and_meets_the_rate() -> None:
    replay = Replay(TRACE)
    recorded = replay.times(rng(), TRACE.rate_qps, 9)
    np.testing.assert_allclose(np.diff(recorded[:4]), [0.5, 0.0, 3.5])
    np.testing.assert_allclose(recorded[4:8] - recorded[:4], 4 / TRACE.rate_qps)  # repeated end to end
    twice = replay.times(rng(), 2 * TRACE.rate_qps, 9)
    np.testing.assert_allclose(twice, recorded / 2)


# --- bad input ---


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("poison", "unknown arrival process 'poison': did you mean 'poisson'? valid: "),
        ("poisson:3", "arrivals poisson: arguments: expected none, got '3'"),
        ("diurnal:x", "arrivals diurnal: ratio: expected a number, got 'x'"),
        ("diurnal:0.5", "arrivals diurnal: ratio: expected a number from 1 to 1000, got 0.5"),
        ("diurnal:2,0", "arrivals diurnal: period_s: expected a number from 0.001 to 1e+09, got 0"),
        ("bursts:2,1", "arrivals bursts: duty: expected a number from 0.001 to 0.999, got 1"),
        ("bursts:2,.1,nan", "arrivals bursts: period_s: expected a number, got 'nan'"),
        ("bursts:1,2,3,4", "arrivals bursts: arguments: expected at most 3 (ratio, duty, period_s), got "),
        ("trace", "arrivals trace: expected a trace file beside it (--trace FILE), got none"),
    ],
)
def test_bad_names_and_arguments_get_one_line(text: str, line: str) -> None:
    with pytest.raises(InputError) as e:
        arrivals.parse(text)
    assert str(e.value).startswith(line)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("times", [[4.0], [4.0, 4.0]])
def test_a_trace_without_a_rate_cannot_be_replayed(times: list[float]) -> None:
    with pytest.raises(InputError, match="trace t: arrival_s: expected at least two different times"):
        Replay(Trace("t", np.array(times), np.ones(len(times), np.int32)))
