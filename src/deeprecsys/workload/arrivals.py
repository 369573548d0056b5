"""Arrival processes: when queries come. Never quantised, never dependent on completions (docs/facts.md §3).

Every process is a unit-rate one seen through a clock of its own. Draw the arrivals E₁ < E₂ < … of a
Poisson process of rate 1; the arrivals at a rate λ with profile m(t), whose mean is 1, are the times at
which λ·M(t) reaches them, M being the integral of m. Thinning gives the same law, but which candidates
it keeps changes with the rate; this way query i is the same draw at every rate, so that trials at
different rates share their random numbers, and the first n arrivals never depend on how many follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, at_most, unknown
from deeprecsys.workload.spec import Named, numbers, split
from deeprecsys.workload.trace import Trace

MOST_PERIODS = 1e7
"""Periods of bursts in one load: each takes memory."""


class Arrivals(Protocol):
    """When queries come."""

    @property
    def spec(self) -> str:
        """The text that `parse` turns into this."""

    def times(self, rng: np.random.Generator, rate_qps: float, queries: int) -> NDArray[np.float64]:
        """The first `queries` arrivals in seconds, [queries], above 0 and never decreasing.

        The mean rate in the long run is `rate_qps`. From a generator in the same state, more queries
        extend the answer and never change it.
        """


@dataclass(frozen=True, slots=True)
class Poisson(Named):
    """Independent exponential gaps."""

    def times(self, rng: np.random.Generator, rate_qps: float, queries: int) -> NDArray[np.float64]:
        return _unit(rng, queries) / rate_qps


@dataclass(frozen=True, slots=True)
class Constant(Named):
    """Equal gaps."""

    def times(self, rng: np.random.Generator, rate_qps: float, queries: int) -> NDArray[np.float64]:
        return np.arange(1, queries + 1) / rate_qps


@dataclass(frozen=True, slots=True)
class Diurnal(Named):
    """A Poisson process whose rate follows a day: m(t) = 1 - a·cos(2πt / period), from its trough.

    Attributes:
        ratio: peak rate over trough rate; a = (ratio - 1) / (ratio + 1). Published: 2 to 3.
        period_s: length of the day in seconds. A minute by default, so that a trial of some minutes
            sees whole days; 86400 is a real one. From a trough, the mean over any multiple of
            half a period is the rate asked for.
    """

    ranges = ((1, 1000), (1e-3, 1e9))

    ratio: float = 2.5
    period_s: float = 60.0

    @property
    def swing(self) -> float:
        """a, the amplitude of the rate as a share of its mean."""
        return (self.ratio - 1) / (self.ratio + 1)

    def profile(self, t_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """m(t), the rate at each time as a factor of the mean rate."""
        return 1 - self.swing * np.cos(2 * np.pi / self.period_s * t_s)

    def times(self, rng: np.random.Generator, rate_qps: float, queries: int) -> NDArray[np.float64]:
        to_angle = 2 * np.pi / self.period_s
        turns, y = np.divmod(_unit(rng, queries) * (to_angle / rate_qps), 2 * np.pi)
        return np.maximum.accumulate((turns * (2 * np.pi) + _kepler(y, self.swing)) / to_angle)


@dataclass(frozen=True, slots=True)
class Bursts(Named):
    """A two-state Markov-modulated Poisson process: calm, and bursts of a higher rate.

    Both states last exponentially long. When the bursts come depends on the seed alone and not on the
    rate. The mean rate is met over many periods, not within each.

    Attributes:
        ratio: rate in a burst over the rate when calm. The calm rate is 1 / (1 + duty·(ratio - 1)) of
            the mean: 5/6 by default, and 2.5 times the mean in a burst.
        duty: share of the time that is burst.
        period_s: mean length of one calm and one burst together, in seconds.
    """

    ranges = ((1, 1000), (0.001, 0.999), (1e-3, 1e9))

    ratio: float = 3.0
    duty: float = 0.1
    period_s: float = 5.0

    @property
    def factors(self) -> tuple[float, float]:
        """Rates when calm and in a burst, as factors of the mean rate."""
        calm = 1 / (1 + self.duty * (self.ratio - 1))
        return calm, calm * self.ratio

    def times(self, rng: np.random.Generator, rate_qps: float, queries: int) -> NDArray[np.float64]:
        (states,) = rng.spawn(1)
        unit = _unit(rng, queries) / rate_qps
        switch_s, passed = self.path(states, float(unit[-1]) if queries else 0.0)
        return np.interp(unit, passed, switch_s)

    def path(self, rng: np.random.Generator, until: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """When the state switches, from 0, and M there, as far as M = `until`: [switches + 1] each."""
        at_most(
            MOST_PERIODS, "arrivals bursts: periods of the load", until / self.period_s, "as memory allows"
        )
        calm, burst = self.factors
        order = [0, 1] if rng.random() >= self.duty else [1, 0]
        length_s = self.period_s * np.array([1 - self.duty, self.duty])[order]
        factor = np.array([calm, burst])[order]
        knots_s, knots_m = [np.zeros(1)], [np.zeros(1)]
        while knots_m[-1][-1] <= until:
            stays = rng.standard_exponential((256, 2)) * length_s
            for knots, steps in ((knots_s, stays), (knots_m, stays * factor)):
                knots.append(np.cumsum(np.concatenate([knots[-1][-1:], steps.ravel()]))[1:])
        return np.concatenate(knots_s), np.concatenate(knots_m)


@dataclass(frozen=True, slots=True)
class Replay:
    """The arrivals of a trace, its time scaled so that the rate is met; repeated when it is too short."""

    trace: Trace

    def __post_init__(self) -> None:
        self.trace.rate_qps  # noqa: B018 - a trace without a rate is refused here, not in a trial

    @property
    def spec(self) -> str:
        return "trace"

    def times(self, rng: np.random.Generator, rate_qps: float, queries: int) -> NDArray[np.float64]:
        rounds, row = np.divmod(np.arange(queries), len(self.trace))
        recorded_s = self.trace.since_start_s[row] + rounds * self.trace.period_s
        return recorded_s * (self.trace.rate_qps / rate_qps)


def _unit(rng: np.random.Generator, queries: int) -> NDArray[np.float64]:
    """The first arrivals of a Poisson process of rate 1, [queries]."""
    return np.cumsum(rng.standard_exponential(queries))


def _kepler(y: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """x such that x - a·sin(x) = y, for y in [0, 2π) and 0 ≤ a < 1, [n].

    Newton's method, from a start that is known to converge. Each value stops by itself, so that none
    depends on its neighbours.
    """
    x = y + 0.85 * a * np.sign(np.sin(y))
    left = np.arange(len(y))
    for _ in range(50):
        at = x[left]
        step = (at - a * np.sin(at) - y[left]) / (1 - a * np.cos(at))
        x[left] = at - step
        left = left[np.abs(step) > 1e-12]
        if not len(left):
            break
    return x


def until(
    arrivals: Arrivals, fresh: Callable[[], np.random.Generator], rate_qps: float, horizon_s: float
) -> NDArray[np.float64]:
    """All arrivals up to and including `horizon_s`; `fresh` returns a new generator in one state."""
    expected = rate_qps * horizon_s
    queries = int(expected + 6 * math.sqrt(expected)) + 16
    while (times := arrivals.times(fresh(), rate_qps, queries))[-1] <= horizon_s:
        queries *= 2
    return times[: int(np.searchsorted(times, horizon_s, side="right"))]


KINDS: dict[str, type[Poisson | Constant | Diurnal | Bursts]] = {
    "poisson": Poisson, "constant": Constant, "diurnal": Diurnal, "bursts": Bursts,
}  # fmt: skip


def parse(text: str, trace: Trace | None = None) -> Arrivals:
    """`poisson`, `constant`, `diurnal[:RATIO,PERIOD_S]`, `bursts[:RATIO,DUTY,PERIOD_S]` or `trace`.

    Raises:
        InputError: another name, or arguments that do not fit.
    """
    name, args = split(text)
    if kind := KINDS.get(name):
        return kind.of("arrivals", args)
    if name != "trace":
        raise unknown("arrival process", name, (*KINDS, "trace"))
    numbers("arrivals trace", args, {})
    if trace is None:
        raise InputError("arrivals trace: expected a trace file beside it (--trace FILE), got none")
    return Replay(trace)
