"""The reference virtual-time driver: feeds arrivals and finishes to the dispatcher, in order of time.

It decides nothing: the dispatcher, the same class that a live node drives, says what starts where. Here a
started batch finishes after the service time that a profile, or any callable, gives. `simulate.fast` runs
compiled policies faster, and must equal this driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush
from math import inf, nan
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.core.dispatcher import (
    Arrive,
    Command,
    Complete,
    Dispatcher,
    Event,
    Fail,
    Finish,
    Limits,
    Shed,
    Start,
    Tick,
)
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import CPU, Policy
from deeprecsys.core.profile import LatencyProfile, Point, slowdown
from deeprecsys.core.query import Batch, Query
from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.simulate.quantile_draws import QuantileDraws, ranks_of

AT_ONCE = 4096
"""Draws that are made at once."""


class ServiceTimes(Protocol):
    """How long a batch takes.

    The optional attribute `rested`, another service, has the times of a worker that was idle before; the
    optional attribute `ranks` the order in which quick and slow batches follow each other.
    """

    def __call__(self, batch_items: int, busy_workers: int, u: float, /) -> float:
        """Seconds for a batch that starts as `busy_workers` of its device, itself included, are busy.

        `u`, uniform in [0, 1), picks the quantile of the spread; a constant service ignores it.
        """
        ...


Observer = Callable[[Event, float, list[Command]], None]
"""Sees every event, its time in seconds, and the commands that followed."""


def simulate(
    policy: Policy,
    arrival_s: ArrayLike,
    size: ArrayLike,
    service: ServiceTimes | LatencyProfile | Mapping[str, ServiceTimes | LatencyProfile],
    workers: int | Mapping[str, int],
    *,
    seed: int = 0,
    warmup_s: float = 0.0,
    rate_qps: float | None = None,
    limits: Limits | None = None,
    observe: Observer | None = None,
) -> RunLog:
    """One trial in virtual time: every query is followed to its end.

    Ties are settled by rule: at one instant a finish comes before an arrival, so that the arrival finds
    the worker idle; finishes of one instant come in the order in which the batches started; a tick that a
    policy waits for comes after them; arrivals come last, in the order given. Batch number i takes the
    i-th draw (`simulate.quantile_draws`), whatever the events in between.

    Args:
        policy: how queries become batches.
        arrival_s: rising arrival times, seconds.
        size: items of each query.
        service: batch times, one for all devices or one for each.
        workers: of each device; a whole number means that many on the `cpu`.
        seed: of the spread of the service times.
        warmup_s: carried into the run log.
        rate_qps: the offered rate, by which the node's own process slows the workers on its cores
            (`LatencyProfile.host_s`); by default the number of arrivals over the time of the last.
        limits: of the waiting lines.
        observe: called with every event.

    Raises:
        InputError: arrivals that fall or sizes below 1, a device without a service time.
    """
    arrivals, sizes = checked_load(arrival_s, size)
    counts = {CPU: workers} if isinstance(workers, int) else dict(workers)
    rate_qps = offered_qps(arrivals) if rate_qps is None else rate_qps
    services = checked_services(at_rate(service, counts, rate_qps), counts)
    dispatcher = Dispatcher(policy, counts, limits)
    n = len(arrivals)
    world = _World(n, services, seed)
    times, items = arrivals.tolist(), sizes.tolist()
    next_query = 0
    while next_query < n or world.running or dispatcher.wake_s < inf:
        due_s = times[next_query] if next_query < n else inf
        wake_s = dispatcher.wake_s
        event: Event
        if world.running and world.running[0][0] <= min(due_s, wake_s):
            now_s, batch = world.finished()
            event = Finish(batch)
        elif wake_s <= due_s:
            now_s, event = wake_s, Tick()
        else:
            now_s = due_s
            event = Arrive(Query(next_query, items[next_query], due_s))
            next_query += 1
        commands = dispatcher.handle(event, now_s)
        if observe:
            observe(event, now_s, commands)
        world.carry_out(commands, now_s)

    return RunLog(
        rate_qps=rate_qps,
        arrival_s=arrivals,
        size=sizes,
        issued_s=arrivals.copy(),
        start_s=np.array(world.start, dtype=np.float64),
        finish_s=np.array(world.finish, dtype=np.float64),
        status=np.array(world.status, dtype=np.uint8),
        busy_s=world.busy_s,
        workers=sum(counts.values()),
        warmup_s=warmup_s,
    )


class _World:
    """The effect of the commands: which batches run, and the state of each query."""

    def __init__(self, queries: int, services: Mapping[str, ServiceTimes], seed: int) -> None:
        self.start: list[float | None] = [None] * queries
        self.finish = [nan] * queries
        self.status = [int(Status.OPEN)] * queries
        self.busy_s = 0.0
        self.running: list[tuple[float, int, Batch]] = []  # a heap by finish time, then by order of start
        self._busy = dict.fromkeys(services, 0)
        self._services, self._draws = services, _one_by_one(QuantileDraws(seed, ranks_of(services)))
        self._rested = {device: getattr(s, "rested", s) for device, s in services.items()}
        self._ended: dict[tuple[str, int], float] = {}  # when a worker's last batch did

    def finished(self) -> tuple[float, Batch]:
        """The batch that finishes next, and when."""
        now_s, _, batch = heappop(self.running)
        self._busy[batch.device] -= 1
        self._ended[batch.device, batch.worker] = now_s
        return now_s, batch

    def carry_out(self, commands: list[Command], now_s: float) -> None:
        for command in commands:
            match command:
                case Start(batch):
                    busy = self._busy[batch.device] = self._busy[batch.device] + 1
                    rested = self._ended.get((batch.device, batch.worker)) != now_s
                    services = self._rested if rested else self._services
                    took_s = services[batch.device](batch.items, busy, next(self._draws))
                    self.busy_s += took_s
                    heappush(self.running, (now_s + took_s, batch.id, batch))
                    for part in batch.slices:
                        if self.start[part.query.id] is None:
                            self.start[part.query.id] = now_s
                case Complete(query):
                    self.finish[query.id], self.status[query.id] = now_s, Status.SERVED
                case Shed(query):
                    self.status[query.id] = Status.SHED
                case Fail(query):
                    self.status[query.id] = Status.FAILED


class ProfileService:
    """A latency profile as a service time: `LatencyProfile.seconds`, cached per batch size."""

    def __init__(self, profile: LatencyProfile) -> None:
        self._profile = profile
        self._levels = profile.busy_levels
        self._curves = {level: profile.curve(level) for level in self._levels}
        self._rows: dict[tuple[int, int], list[float] | None] = {}
        self._nearest: dict[int, int] = {}
        self.ranks = profile.ranks
        self.rested = self if profile.rested is profile else ProfileService(profile.rested)

    def __call__(self, batch_items: int, busy_workers: int, u: float, /) -> float:
        level = self._nearest.get(busy_workers)
        if level is None:
            level = min(self._levels, key=lambda k: (abs(k - busy_workers), k))
            self._nearest[busy_workers] = level
        key = (level, batch_items)
        if key not in self._rows:
            (found,) = quantiles_at(self._curves[level], [batch_items])
            self._rows[key] = None if np.isnan(found).any() else found.tolist()
        row = self._rows[key]
        if row is None:
            return self._profile.seconds(batch_items, busy_workers, u)
        place = u * (len(row) - 1)
        i = int(place)
        return row[i] if i + 1 >= len(row) else row[i] + (place - i) * (row[i + 1] - row[i])


def quantiles_at(points: list[Point], batches: ArrayLike) -> NDArray[np.float64]:
    """[batches, quantiles] at batch sizes; nan where they do not follow linearly from the measured ones."""
    wanted = np.asarray(batches, np.int64)
    if len({len(p.seconds) for p in points}) > 1:
        return np.full((len(wanted), 1), np.nan)
    seconds = np.array([p.seconds for p in points])
    if len(points) == 1:
        return np.repeat(seconds, len(wanted), axis=0)
    sizes = np.array([p.batch for p in points])
    hi = np.clip(np.searchsorted(sizes, wanted), 1, len(points) - 1)
    share = (wanted - sizes[hi - 1]) / (sizes[hi] - sizes[hi - 1])
    rows: NDArray[np.float64] = seconds[hi - 1] + share[:, None] * (seconds[hi] - seconds[hi - 1])
    # Beyond the measured sizes `seconds` never goes to nothing; where that could bind, leave it to it.
    safe = (rows >= 0.1 * seconds.max(axis=0)).all(axis=1)
    rows[~(safe | ((share >= 0) & (share <= 1)))] = np.nan
    return rows


def checked_load(arrival_s: ArrayLike, size: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    arrivals = np.ascontiguousarray(arrival_s, dtype=np.float64)
    sizes = np.ascontiguousarray(size, dtype=np.int32)
    if arrivals.ndim != 1 or arrivals.shape != sizes.shape:
        raise InputError(f"load: expected as many sizes as arrivals, got {sizes.shape} and {arrivals.shape}")
    if len(sizes) and sizes.min() < 1:
        raise InputError(f"size: expected at least 1 item, got {sizes.min()}")
    if not np.isfinite(arrivals).all() or (np.diff(arrivals) < 0).any():
        raise InputError("arrivals: expected finite times in rising order")
    return arrivals, sizes


def offered_qps(arrivals: NDArray[np.float64]) -> float:
    """The number of arrivals over the time of the last."""
    return len(arrivals) / float(arrivals[-1]) if len(arrivals) and arrivals[-1] > 0 else 0.0


def at_rate(
    service: ServiceTimes | LatencyProfile | Mapping[str, ServiceTimes | LatencyProfile],
    workers: Mapping[str, int],
    rate_qps: float,
) -> ServiceTimes | LatencyProfile | Mapping[str, ServiceTimes | LatencyProfile]:
    """The batch times at an offered rate: those on the CPU are longer where the node shares its cores."""
    if isinstance(service, Mapping):
        cpu = service.get(CPU)
        return service if cpu is None else {**service, CPU: _slowed(cpu, workers.get(CPU, 1), rate_qps)}
    slowed: ServiceTimes = _slowed(service, workers.get(CPU, 1), rate_qps)
    return slowed


def _slowed(service: Any, workers: int, rate_qps: float) -> Any:
    host_s = getattr(service, "host_s", 0.0)
    return service.slowed(slowdown(host_s, rate_qps, workers)) if host_s else service


def checked_services(
    service: ServiceTimes | LatencyProfile | Mapping[str, ServiceTimes | LatencyProfile],
    workers: Mapping[str, int],
) -> dict[str, ServiceTimes]:
    given = service if isinstance(service, Mapping) else dict.fromkeys(workers, service)
    missing = [d for d in workers if d not in given]
    if missing:
        raise InputError(f"service times: expected one for each device, got none for {', '.join(missing)}")
    return {d: ProfileService(s) if isinstance(s, LatencyProfile) else s for d, s in given.items()}


def _one_by_one(draws: QuantileDraws) -> Iterator[float]:
    while True:
        yield from draws.take(AT_ONCE).tolist()
