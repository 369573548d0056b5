"""Headroom: the share of a node's capacity at its target that is free now (docs/design/0026-headroom.md).

The load is that of the last seconds: the pace of the queries, and the mix of their sizes. The capacity is the
load of that mix at which the target is just met, by a formula for the waiting time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, exp, inf, log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.deadlines import Forecast
from deeprecsys.core.policy import CPU, GPU
from deeprecsys.core.target import Target

MEMORY_S, MEMORY_QUERIES = 5.0, 2000
"""How long a query counts: time constant of the pace in seconds, and number of queries in which its size
loses its weight in the mix. A tail at the 99th percentile needs hundreds, however slowly they come."""
REFRESH_S = 1.0
"""How long a capacity stands before it is computed anew, seconds; the pace is that of the moment."""
CELLS_PER_OCTAVE = 4
"""Cells of query sizes for each factor of two."""
QUANTILES = 8
"""Values that stand for the spread of batch times."""
STEPS = 64
"""Steps in which the distribution of the waiting time is computed, up to the longest target."""
Reals = NDArray[np.float64]


class OfferedMix:
    """The pace and the sizes of a model's queries as of late, refused ones included."""

    def __init__(self) -> None:
        self._cells: dict[int, list[float]] = {}  # -> [weight, items]
        self._weight = 1.0  # of the next query
        self._pace = self._last_s = 0.0
        self._began_s: float | None = None

    def add(self, items: int, now_s: float) -> None:
        """A query was offered; times must not fall."""
        if self._began_s is None:
            self._began_s = self._last_s = now_s
        self._pace = 1 + self._pace * exp((self._last_s - now_s) / MEMORY_S)
        self._last_s = now_s
        cell = self._cells.setdefault(int(CELLS_PER_OCTAVE * log2(items)), [0.0, 0.0])
        cell[0] += self._weight
        cell[1] += self._weight * items
        self._weight *= 1 + 1 / MEMORY_QUERIES
        if self._weight > 1e9:  # what is a billionth of the newest is forgotten
            kept = {i: [w / self._weight, n / self._weight] for i, (w, n) in self._cells.items() if w > 1}
            self._cells, self._weight = kept, 1.0

    def rate_qps(self, now_s: float) -> float:
        """Queries per second."""
        if self._began_s is None or now_s <= self._began_s:
            return 0.0
        seen_s = MEMORY_S * (1 - exp((self._began_s - now_s) / MEMORY_S))
        return self._pace * exp((self._last_s - now_s) / MEMORY_S) / max(seen_s, 1e-3)

    @property
    def sizes(self) -> list[tuple[int, float]]:
        """A size for each cell, in items, and its share of the queries."""
        total = sum(w for w, _ in self._cells.values())
        return [(round(n / w), w / total) for w, n in self._cells.values()]

    @property
    def mean_items(self) -> float:
        """Items of a query in the mean; 1 before the first."""
        total = sum(w for w, _ in self._cells.values())
        return sum(n for _, n in self._cells.values()) / total if total else 1.0


class Load(NamedTuple):
    """What is offered of one model, and what answering it takes."""

    mix: OfferedMix
    forecast: Forecast
    target: Target
    most_qps: float = inf
    """What the network face can carry."""


class Demand(NamedTuple):
    """A model's queries on one device, by size; times include the pace.

    Attributes:
        share: of the model's queries, each; work_s: worker-seconds; parts: batches; part_s: seconds of each.
        alone_s: from start to end where nothing else runs.
        spread: batch times over their mean, equally probable values, rising.
        target: of the model.
    """

    share: Reals
    work_s: Reals
    parts: Reals
    part_s: Reals
    alone_s: Reals
    spread: Reals
    target: Target

    @classmethod
    def of(cls, load: Load, device: str, workers: int) -> Demand | None:
        """The demand on a device with a number of workers; None where there is none."""
        forecast = load.forecast.on(device)
        sizes = [(n, share) for n, share in load.mix.sizes if load.forecast.device(n) == device]
        if not sizes:
            return None
        rows = []
        for items, share in sizes:
            parts, part_s = forecast.parts(items)
            work_s = forecast.pace * forecast.work_s(items)
            rows.append((share, work_s, parts, part_s, part_s * ceil(parts / workers)))
        share, work, count, seconds, alone = np.array(rows, np.float64).T
        return cls(share, work, count, seconds, alone, np.array(forecast.spread(QUANTILES)), load.target)

    @property
    def mean_work_s(self) -> float:
        """Worker-seconds on this device of one of the model's queries, in the mean over all of them."""
        return float(self.share @ self.work_s)


def most_utilisation(demands: Sequence[Demand], rates: Sequence[float], workers: int) -> float:
    """The utilisation of a device's workers, in [0, 1), at which every model on it just meets its target.

    Args:
        demands: one for each model; rates: of its queries, whose proportions count.
        workers: of the device.
    """
    rate = np.concatenate([r * d.share for d, r in zip(demands, rates, strict=True)])
    work_s, parts = (np.concatenate([getattr(d, k) for d in demands]) for k in ("work_s", "parts"))
    queue = _Queue(rate, work_s, parts, workers, max(d.target.latency_s for d in demands))
    low, high = 0.0, 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        exceeds = queue.tail(middle)
        if all(d.target.allows(_late(d, queue.at_s, exceeds, workers)) for d in demands):
            low = middle
        else:
            high = middle
    return low


class _Queue:
    """Work that comes at random, as one Poisson stream, and workers that share it.

    The tail of the waiting time is that of M/G/1 (the renewal equation of Pollaczek and Khinchine), the pool
    being one server that is `workers` times as fast, times Erlang's probability that all workers are busy
    over the utilisation. A query cut into many parts takes many workers at once: Erlang's formula counts
    groups of as many.

    Attributes:
        at_s: [STEPS + 1] waiting times from 0 to `longest_s`.
    """

    def __init__(self, rate: Reals, work_s: Reals, parts: Reals, workers: int, longest_s: float) -> None:
        self.at_s = np.linspace(0.0, longest_s, STEPS + 1)
        share, y = rate / rate.sum(), work_s / workers
        # The distribution of what is left of the work of a query that is met by chance.
        self._left = (share @ np.minimum(y[:, None], self.at_s)) / float(share @ y)
        self._steps = np.diff(self._left)
        both = (self._steps + np.append(self._steps[1:], 0.0)) / 2  # each step by the mean of its ends
        self._kernel: Reals = both[::-1]
        together = float(rate @ (work_s * np.minimum(parts, workers))) / float(rate @ work_s)
        self._groups = workers / together

    def tail(self, utilisation: float) -> Reals:
        """P(wait > t) for each of `at_s`."""
        rho, steps = utilisation, self._steps
        found: Reals = rho * (1 - self._left)
        for i in range(1, STEPS + 1):
            known = self._kernel[STEPS + 1 - i :] @ found[1:i] + found[0] * steps[i - 1] / 2
            found[i] = (found[i] + rho * known) / (1 - rho * steps[0] / 2)
        found *= _all_busy(self._groups, rho) / rho
        return found


def _all_busy(groups: float, utilisation: float) -> float:
    """Erlang's probability that a query waits; between whole numbers of servers, by interpolation."""
    whole = int(groups)
    part = groups - whole
    least = _erlang(whole, utilisation)
    return least if part < 1e-9 else float(least ** (1 - part) * _erlang(whole + 1, utilisation) ** part)


def _erlang(servers: int, utilisation: float) -> float:
    blocked = 1.0
    for n in range(1, servers + 1):
        offered = utilisation * servers * blocked
        blocked = offered / (n + offered)
    return blocked / (1 - utilisation * (1 - blocked))


def _late(demand: Demand, at_s: Reals, exceeds: Reals, workers: int) -> float:
    """The share of a model's queries that miss their target on a device, by the tail of the wait."""
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    ranks = levels ** (1 / np.minimum(demand.parts, workers))[:, None]  # the slowest of several parts
    last_s = demand.part_s[:, None] * np.interp(ranks, levels, demand.spread)
    rounds_s = demand.part_s * np.maximum(demand.parts - workers, 0) / workers
    slack_s = demand.target.latency_s - rounds_s[:, None] - last_s
    never = (demand.alone_s - demand.part_s)[:, None] + last_s > demand.target.latency_s
    late = np.where(never, 1.0, np.interp(slack_s, at_s, exceeds))
    return float(demand.share @ late.mean(axis=1))


def headroom(loads: Sequence[Load], workers: Mapping[str, int], now_s: float) -> float:
    """The share of the capacity that is free: 1 where nothing is offered, 0 at capacity, below 0 above it.

    It is that of the busiest device, or of the network face. Without a live worker, and where the mix cannot
    meet its target at any load, there is none.
    """
    return HeadroomMeter(loads).headroom(workers, now_s)


class HeadroomMeter:
    """`headroom` for every answer: the capacity is kept for `REFRESH_S`, or until workers come or go."""

    def __init__(self, loads: Sequence[Load]) -> None:
        self._loads = loads
        self._workers: Mapping[str, int] = {}
        self._until_s = 0.0
        # Of each device: for each model, the utilisation that one query/s of it takes, over that at capacity.
        self._per_qps: list[list[float]] = []

    def headroom(self, workers: Mapping[str, int], now_s: float) -> float:
        """The headroom at a time."""
        rates = self.rates(now_s)
        if sum(rates) < 1e-6:
            return 1.0 if workers.get(CPU) else 0.0
        if now_s >= self._until_s or workers != self._workers:
            self._per_qps = [
                self._shares(device, workers, rates) for device in (CPU, GPU) if workers.get(device)
            ]
            self._workers, self._until_s = dict(workers), now_s + REFRESH_S
        if not workers.get(CPU):
            return 0.0
        face = [1 / load.most_qps for load in self._loads]
        return 1.0 - max(sum(r * u for r, u in zip(rates, of, strict=True)) for of in (face, *self._per_qps))

    def rates(self, now_s: float) -> list[float]:
        """Queries per second of each model."""
        return [load.mix.rate_qps(now_s) for load in self._loads]

    def _shares(self, device: str, workers: Mapping[str, int], rates: Sequence[float]) -> list[float]:
        count = workers[device]
        demands = [Demand.of(load, device, count) for load in self._loads]
        used = [(d, r) for d, r in zip(demands, rates, strict=True) if d and r > 0]
        if not used:
            return [0.0] * len(rates)
        most = most_utilisation([d for d, _ in used], [r for _, r in used], count)
        if not most:  # it has no capacity: all of it is used, whatever the load
            return [1 / sum(rates)] * len(rates)
        return [d.mean_work_s / count / most if d else 0.0 for d in demands]
