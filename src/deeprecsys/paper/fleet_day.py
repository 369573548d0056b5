"""A fleet over a day: machines of several kinds, a load that follows the hours, a router before them.

A day of a few hundred machines is some 10^11 queries. The load moves over hours, a node's queue within
milliseconds, so at any moment each machine is in the steady state of its rate. The day is therefore cut into
windows; in each, a span of every machine's own stream is run at the window's rate, query by query. Spans are
equally long in all windows, so each query of the sample stands for equally many of the day, and
percentiles are those of the sample, none estimated (docs/design/0015-fleet.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.core.policy import Policy
from deeprecsys.core.target import percentile
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.table import Tabulated
from deeprecsys.workload.arrivals import Diurnal

DAY_S = 86_400.0
SETTLE = 0.2
"""Share of a span that is run before anything is counted: it starts with an empty machine."""


@dataclass(frozen=True)
class MachineKind:
    """Machines that are alike.

    Attributes:
        service: batch times of the model on it; `workers` cores.
        weight: of the router: a machine's capacity, say.
    """

    name: str
    service: Tabulated
    workers: int
    policy: Policy
    machines: int
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Pool:
    """The machines that serve one model.

    Attributes:
        mean_qps: of the whole pool, over the day.
        size: [n] sizes to draw from, in order of a seeded sample.
        span_s: of each machine's stream in each window.
    """

    model: str
    kinds: tuple[MachineKind, ...]
    mean_qps: float
    size: NDArray[np.int32]
    span_s: float


@dataclass(frozen=True, eq=False)
class DayLog:
    """The queries of one pool in a day.

    Attributes:
        latency_s: [queries] after the start of each span.
        machine, window: [queries] that served it, in which it arrived.
        kinds: name of each machine's kind.
        utilisation: [machines, windows].
    """

    model: str
    latency_s: NDArray[np.float32]
    machine: NDArray[np.int32]
    window: NDArray[np.int16]
    kinds: tuple[str, ...]
    utilisation: NDArray[np.float64]

    def quantile_s(self, q: float, keep: NDArray[np.bool_] | None = None) -> float:
        """An observed latency, such that a share `q` of queries took no longer."""
        latency = self.latency_s if keep is None else self.latency_s[keep]
        return percentile(latency, q)


Reals = NDArray[np.float64]
Sizes = NDArray[np.int32]
Machines = NDArray[np.int64]
Split = Callable[[Reals, Sizes, Reals, np.random.Generator], Machines]
"""Router: arrivals, sizes and machines' weights to the machine of each query."""


def _random(at: Reals, size: Sizes, weight: Reals, rng: np.random.Generator) -> Machines:
    return rng.integers(0, len(weight), len(at))


def _weighted(at: Reals, size: Sizes, weight: Reals, rng: np.random.Generator) -> Machines:
    edges = np.cumsum(weight / weight.sum())
    return np.minimum(np.searchsorted(edges, rng.random(len(at))), len(weight) - 1)


def _least_loaded(at: Reals, size: Sizes, weight: Reals, rng: np.random.Generator) -> Machines:
    """Two machines are drawn by weight; the one with less outstanding work is chosen. The router counts that
    itself: items sent, less items that a machine of that weight can have done since."""
    from deeprecsys.paper.route import least_loaded  # loads numba

    first, second = (_weighted(at, size, weight, rng) for _ in range(2))
    mean = float(size.mean()) if len(size) else 1.0
    return least_loaded(at, size / mean, weight, first, second)


ROUTERS: Mapping[str, Split] = {"random": _random, "weighted": _weighted, "least-loaded": _least_loaded}


def day(
    pool: Pool,
    *,
    windows: int = 24,
    diurnal: Diurnal | None = None,
    router: str = "weighted",
    variation: float = 0.0,
    seed: int = 0,
) -> DayLog:
    """A day of one pool.

    Args:
        windows: of the day, equally long; the load in one is that of its middle.
        diurnal: the day's shape; by default a peak of 2.5 times the trough.
        router: of `ROUTERS`. None looks into a machine, so streams are known before they are run.
        variation: relative standard deviation of the machines' speeds.
        seed: of arrivals, routes, speeds. Policies that share it see the same queries on the same machines.

    Raises:
        InputError: no machine, no window, an unknown router.
    """
    machines = [k for k in pool.kinds for _ in range(k.machines)]
    if not machines or windows < 1:
        raise InputError("fleet: expected at least one machine and one window")
    if router not in ROUTERS:
        raise unknown("router", router, ROUTERS)
    rng = np.random.default_rng(seed)
    slow = np.exp(rng.normal(0.0, variation, len(machines)))
    weight = np.array([k.weight for k in machines])
    shape = (diurnal or Diurnal(period_s=DAY_S)).profile((np.arange(windows) + 0.5) * DAY_S / windows)
    parts: list[tuple[NDArray[np.float32], int, int]] = []
    utilisation = np.zeros((len(machines), windows))
    for w, factor in enumerate(shape):
        at, size = _window(pool, factor, rng)
        where = ROUTERS[router](at, size, weight, rng)
        order = np.argsort(where, kind="stable")
        bounds = np.searchsorted(where[order], np.arange(len(machines) + 1))
        for m, kind in enumerate(machines):
            mine = order[bounds[m] : bounds[m + 1]]
            latency, utilisation[m, w] = _machine(kind, at[mine], size[mine], float(slow[m]), pool.span_s, w)
            parts.append((latency, m, w))
    return DayLog(
        pool.model,
        np.concatenate([p[0] for p in parts]),
        np.repeat(np.array([p[1] for p in parts], np.int32), [len(p[0]) for p in parts]),
        np.repeat(np.array([p[2] for p in parts], np.int16), [len(p[0]) for p in parts]),
        tuple(k.name for k in machines),
        utilisation,
    )


def _window(pool: Pool, factor: float, rng: np.random.Generator) -> tuple[Reals, Sizes]:
    """Arrivals of the whole pool over one span, and sizes."""
    n = int(rng.poisson(pool.mean_qps * factor * pool.span_s))
    at = np.sort(rng.random(n)) * pool.span_s
    return at, pool.size[rng.integers(0, len(pool.size), n)]


def _machine(
    kind: MachineKind, at: Reals, size: Sizes, slow: float, span_s: float, seed: int
) -> tuple[NDArray[np.float32], float]:
    """Latencies after the start of the span, and utilisation. A machine `slow` times as slow is the usual one
    with a slower clock: its arrivals are closer together, and its latencies are multiplied."""
    if not len(at):
        return np.zeros(0, np.float32), 0.0
    log = run(kind.policy, at / slow, size, kind.service, kind.workers, seed=seed)
    keep = at >= SETTLE * span_s
    return (log.latency_s[keep] * slow).astype(np.float32), log.busy_s * slow / (kind.workers * span_s)


def handfuls(log: DayLog, machines: int, q: float, draws: int, seed: int = 0) -> NDArray[np.float64]:
    """[draws] the quantile of some machines, kinds in proportion, over that of all, less 1."""
    rng = np.random.default_rng(seed)
    whole = log.quantile_s(q)
    by_kind = {kind: [m for m, k in enumerate(log.kinds) if k == kind] for kind in dict.fromkeys(log.kinds)}
    order = np.argsort(log.machine, kind="stable")
    bounds = np.searchsorted(log.machine[order], np.arange(len(log.kinds) + 1))
    found = []
    for _ in range(draws):
        chosen = _stratified(by_kind, machines, rng)
        sample = np.concatenate([log.latency_s[order[bounds[m] : bounds[m + 1]]] for m in chosen])
        found.append(percentile(sample, q) / whole - 1)
    return np.array(found)


def _stratified(by_kind: Mapping[str, Sequence[int]], machines: int, rng: np.random.Generator) -> list[int]:
    total = sum(len(v) for v in by_kind.values())
    chosen: list[int] = []
    for members in by_kind.values():
        n = min(max(1, round(machines * len(members) / total)), len(members))
        chosen += [int(m) for m in rng.choice(members, n, replace=False)]
    return chosen
