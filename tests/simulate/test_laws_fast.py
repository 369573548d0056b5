"""Laws of queueing, through the compiled path, with a million queries each."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import t as student

from deeprecsys.core.policy import Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import RunLog
from deeprecsys.workload.sizes import Discrete, parse
from tests.simulate.compiled import simulate_fast

QUERIES = 1_000_000
WARM = QUERIES // 20
GROUPS = 50
WHOLE = Static(1 << 20)


def exponential(mean_s: float, points: int = 4097) -> LatencyProfile:
    """Exponential times, as the quantiles of a profile; the greatest makes the mean exact."""
    u = np.linspace(0, 1, points)[:-1]
    q = -mean_s * np.log1p(-u)
    q[0] = 1e-9 * mean_s
    last = 2 * ((points - 1) * mean_s - np.trapezoid(q)) - q[-1]
    return LatencyProfile("exponential", (Point(1, 1, (*q.tolist(), float(last))),))


def constant(time_s: float) -> LatencyProfile:
    return LatencyProfile("constant", (Point(1, 1, (time_s,)),))


def trial(
    profile: LatencyProfile, rate_qps: float, workers: int, seed: int, sizes: Discrete | None = None
) -> RunLog:
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / rate_qps, QUERIES))
    n = sizes.of(rng.random(QUERIES), arrival_s) if sizes else np.ones(QUERIES)
    return simulate_fast(WHOLE, arrival_s, n, profile, workers, seed=seed, rate_qps=rate_qps)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 99.9 % confidence interval of the mean, by the means of successive groups."""
    means = values[WARM:].reshape(GROUPS, -1).mean(axis=1)
    half = student.ppf(0.9995, GROUPS - 1) * means.std(ddof=1) / math.sqrt(GROUPS)
    return float(means.mean() - half), float(means.mean() + half)


def agrees(values: NDArray[np.float64], expected: float, within: float) -> None:
    """`expected` lies in the interval, and the interval is no wider than a share of it either way."""
    low, high = interval(values)
    assert low <= expected <= high
    assert high - low <= 2 * within * expected, "too wide to say anything"


def p95_agrees(log: RunLog, p95_s: float) -> None:
    agrees((log.latency_s > p95_s).astype(float), 0.05, 0.15)


def erlang_c(workers: int, load: float) -> float:
    """The probability that a query waits in M/M/c."""
    blocked = 1.0
    for i in range(1, workers + 1):
        blocked = load * blocked / (i + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))


@pytest.mark.parametrize(("workers", "rho"), [(1, 0.7), (4, 0.8), (16, 0.9)])
def test_m_m_c(workers: int, rho: float) -> None:
    mu, rate = 1.0, rho * workers
    log = trial(exponential(1 / mu), rate, workers, seed=workers)
    waits, spare = erlang_c(workers, rate / mu), workers * mu - rate

    def later(t: float) -> float:
        """P(latency > t): the wait is 0 or exponential at the spare rate, the service exponential."""
        if math.isclose(spare, mu):
            both = (1 + mu * t) * math.exp(-mu * t)
        else:
            both = (spare * math.exp(-mu * t) - mu * math.exp(-spare * t)) / (spare - mu)
        return (1 - waits) * math.exp(-mu * t) + waits * both

    agrees(log.latency_s, waits / spare + 1 / mu, 0.05)
    p95_agrees(log, float(brentq(lambda t: later(t) - 0.05, 0.1, 100)))


def test_m_m_1_is_exponential() -> None:
    """Its latency is exponential at the spare rate, which the general formula above must agree with."""
    log = trial(exponential(1.0), 0.7, 1, seed=11)
    agrees(log.latency_s, 1 / 0.3, 0.05)
    p95_agrees(log, math.log(20) / 0.3)


def crommelin(rate: float, service_s: float, t: float) -> float:
    """P(wait at most t) in M/D/1."""
    terms = [
        math.exp(-rate * (i * service_s - t)) * (rate * (i * service_s - t)) ** i / math.factorial(i)
        for i in range(int(t / service_s) + 1)
    ]
    return (1 - rate * service_s) * sum(terms)


def test_m_d_1() -> None:
    rate, service_s = 0.8, 1.0
    log = trial(constant(service_s), rate, 1, seed=2)
    agrees(log.latency_s, service_s + rate * service_s**2 / (2 * (1 - rate * service_s)), 0.05)
    p95_agrees(log, service_s + float(brentq(lambda t: crommelin(rate, service_s, t) - 0.95, 0.5, 15)))


def m_g_1_p95_s(ticks: NDArray[np.int64], pmf: NDArray[np.float64], rho: float, tick_s: float) -> float:
    """p95 of the latency in M/G/1, for service times that are whole numbers of ticks.

    The wait is a geometric number of residual services (Pollaczek and Khinchine), whose density is level
    within a tick; the sum is a product of transforms.
    """
    room = 1 << 15
    service = np.zeros(room)
    service[ticks] = pmf
    longer = 1 - np.cumsum(service)  # P(service > i ticks): the residual's density in the tick after i
    residual = (longer + np.roll(longer, 1)) / 2 / longer.sum()
    wait = (1 - rho) / (1 - rho * np.fft.rfft(residual))
    latency = np.fft.irfft(wait * np.fft.rfft(service), room)
    return tick_s * float(np.interp(0.95, np.cumsum(latency), np.arange(room) + 0.5))


def test_m_g_1() -> None:
    """Sizes of production, batch times that rise with the size; Pollaczek and Khinchine's formulas."""
    sizes = parse("production")
    assert isinstance(sizes, Discrete)
    profile = LatencyProfile("affine", (Point(1, 1, (0.35e-3,)), Point(1, 1000, (50.3e-3,))))
    s = 0.3e-3 + 0.05e-3 * np.arange(1, 1001)
    mean, square = float(sizes.pmf @ s), float(sizes.pmf @ s**2)
    rate = 0.7 / mean
    log = trial(profile, rate, 1, seed=3, sizes=sizes)
    agrees(log.latency_s, mean + rate * square / (2 * (1 - rate * mean)), 0.05)
    p95_agrees(log, m_g_1_p95_s(6 + np.arange(1, 1001), sizes.pmf, 0.7, 0.05e-3))


def test_the_p95_of_m_g_1_is_that_of_m_m_1_and_m_d_1_where_these_apply() -> None:
    ticks = np.arange(1, 20_000)
    geometric = 0.001 * 0.999 ** (ticks - 1)
    found = m_g_1_p95_s(ticks, geometric / geometric.sum(), 0.7, 1e-3)
    assert found == pytest.approx(math.log(20) / 0.3, rel=1e-3)
    one = m_g_1_p95_s(np.array([1000]), np.ones(1), 0.8, 1e-3)
    assert one == pytest.approx(1 + float(brentq(lambda t: crommelin(0.8, 1.0, t) - 0.95, 0.5, 15)), rel=1e-3)


@pytest.mark.parametrize("workers", [1, 16])
def test_littles_law_and_utilisation(workers: int) -> None:
    """Poisson arrivals see the time average, so what they find in the system is rate × latency."""
    sizes = parse("production")
    assert isinstance(sizes, Discrete)
    profile = LatencyProfile("affine", (Point(1, 1, (0.35e-3,)), Point(1, 1000, (50.3e-3,))))
    mean_s = float(sizes.pmf @ (0.3e-3 + 0.05e-3 * np.arange(1, 1001)))
    rate = 0.8 * workers / mean_s
    log = trial(profile, rate, workers, seed=4 + workers, sizes=sizes)
    ended = np.searchsorted(np.sort(log.finish_s), log.arrival_s, side="right")
    found = np.arange(QUERIES) - ended
    low, high = interval(found - rate * log.latency_s)
    assert low <= 0 <= high
    assert high - low < 0.1 * found.mean(), "too wide to say anything"
    utilisation = log.busy_s / (workers * log.duration_s)
    assert utilisation == pytest.approx(rate * mean_s / workers, rel=0.005)
