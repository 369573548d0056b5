"""The reference virtual-time driver: feeds arrivals and finishes to the dispatcher, in order of time.

It decides nothing: the dispatcher, the same class that a live node drives, says what starts where. Here a
started batch finishes after the service time that a profile, or any callable, gives. `simulate.fast` runs
compiled policies faster, and must equal this driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush
from math import inf, nan
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.errors import InputError
from deeprecsys.core.events import Arrive, Command, Complete, Event, Fail, Finish, Shed, Start, Tick
from deeprecsys.core.policy import CPU, Policy
from deeprecsys.core.profile import LatencyProfile, after_stage, slowdown
from deeprecsys.core.query import Batch, Query
from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.simulate.table import Tabulated

AT_ONCE = 4096
"""Draws that are made at once."""


class ServiceTimes(Protocol):
    """How long a batch takes.

    The optional attribute `rested`, another service, has the times of a worker that was idle before; the
    optional attribute `ranks` the order in which quick and slow batches follow each other. User stages need
    the attributes `stage_s` and `staged_s` of a `LatencyProfile`.
    """

    def __call__(self, batch_items: int, busy_workers: int, u: float, /) -> float:
        """Seconds for a batch that starts as `busy_workers` of its device, itself included, are busy.

        `u`, uniform in [0, 1), picks the quantile of the spread; a constant service ignores it.
        """


Services = ServiceTimes | LatencyProfile | Mapping[str, ServiceTimes | LatencyProfile]
"""Batch times, one for all devices or one for each."""
Observer = Callable[[Event, float, list[Command]], None]
"""Sees every event, its time in seconds, and the commands that followed."""


class VirtualTrial(NamedTuple):
    """A load, and the node that it is offered to.

    Attributes:
        arrivals: [n] rising, seconds.
        sizes: [n] items.
        services: batch times of each device, at this rate.
    """

    arrivals: NDArray[np.float64]
    sizes: NDArray[np.int32]
    services: Mapping[str, ServiceTimes | LatencyProfile]
    workers: Mapping[str, int]
    rate_qps: float

    @classmethod
    def of(
        cls,
        arrival_s: ArrayLike,
        size: ArrayLike,
        service: Services,
        workers: int | Mapping[str, int],
        rate_qps: float | None = None,
    ) -> VirtualTrial:
        """The trial; arguments and errors as of `simulate`."""
        arrivals = np.ascontiguousarray(arrival_s, dtype=np.float64)
        sizes = np.ascontiguousarray(size, dtype=np.int32)
        if arrivals.ndim != 1 or arrivals.shape != sizes.shape:
            raise InputError(
                f"load: expected as many sizes as arrivals, got {sizes.shape} and {arrivals.shape}"
            )
        if len(sizes) and sizes.min() < 1:
            raise InputError(f"size: expected at least 1 item, got {sizes.min()}")
        if not np.isfinite(arrivals).all() or (np.diff(arrivals) < 0).any():
            raise InputError("arrivals: expected finite times in rising order")
        if rate_qps is None:
            rate_qps = len(arrivals) / float(arrivals[-1]) if len(arrivals) and arrivals[-1] > 0 else 0.0
        counts = {CPU: workers} if isinstance(workers, int) else dict(workers)
        services: dict[str, ServiceTimes | LatencyProfile]
        if isinstance(service, Mapping):
            services = dict(service)
            if CPU in services:
                services[CPU] = _slowed(services[CPU], counts, rate_qps)
        else:
            services = dict.fromkeys(counts, _slowed(service, counts, rate_qps))
        if missing := [d for d in counts if d not in services]:
            raise InputError(
                f"service times: expected one for each device, got none for {', '.join(missing)}"
            )
        return cls(arrivals, sizes, services, counts, rate_qps)

    def log(
        self,
        start_s: NDArray[np.float64],
        finish_s: NDArray[np.float64],
        status: NDArray[np.uint8],
        busy_s: float,
        warmup_s: float,
    ) -> RunLog:
        """The run log, of what became of each query."""
        return RunLog(
            rate_qps=self.rate_qps,
            arrival_s=self.arrivals,
            size=self.sizes,
            issued_s=self.arrivals,
            start_s=start_s,
            finish_s=finish_s,
            status=status,
            busy_s=busy_s,
            workers=sum(self.workers.values()),
            warmup_s=warmup_s,
        )


def simulate(
    policy: Policy,
    arrival_s: ArrayLike,
    size: ArrayLike,
    service: Services,
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
    i-th draw (`QuantileDraws`), whatever the events in between.

    Args:
        arrival_s: rising arrival times, seconds.
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
    trial = VirtualTrial.of(arrival_s, size, service, workers, rate_qps)
    dispatcher = Dispatcher(policy, trial.workers, limits)
    check_stage(policy, trial.services)
    n = len(trial.arrivals)
    world = _World(n, trial.services, seed)
    times, items = trial.arrivals.tolist(), trial.sizes.tolist()
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
    start_s, finish_s = np.array(world.start, np.float64), np.array(world.finish, np.float64)
    return trial.log(start_s, finish_s, np.array(world.status, np.uint8), world.busy_s, warmup_s)


class _World:
    """The effect of the commands: which batches run, and the state of each query."""

    def __init__(self, queries: int, given: Mapping[str, ServiceTimes | LatencyProfile], seed: int) -> None:
        services = {d: Tabulated(s) if isinstance(s, LatencyProfile) else s for d, s in given.items()}
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
                    took_s = _batch_s(services[batch.device], batch, busy, next(self._draws))
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


class QuantileDraws:
    """One number in [0, 1) for each batch, in order of start.

    They are independent by default. A profile that was measured under load holds the order in which quick and
    slow batches followed each other (`LatencyProfile.ranks`): batches take these in order, from a place that
    the seed chooses, and from the first again after the last.
    """

    def __init__(self, seed: int, ranks: NDArray[np.float64]) -> None:
        self._rng = np.random.default_rng(seed)
        self._ranks = ranks
        self._next = int(self._rng.integers(len(ranks))) if len(ranks) else 0

    def take(self, count: int) -> NDArray[np.float64]:
        """[count] the next numbers."""
        if not len(self._ranks):
            return self._rng.random(count)
        places = (self._next + np.arange(count)) % len(self._ranks)
        self._next = (self._next + count) % len(self._ranks)
        return self._ranks[places]


def check_stage(policy: Policy, services: Mapping[str, Any]) -> None:
    """Raise InputError if a policy runs user stages and nothing says how long these take."""
    if policy.user_first and not getattr(services[CPU], "stage_s", 0.0):
        raise InputError(
            f"policy {policy.name}: expected a profile with stage_s, of a model with a user stage, got none"
        )


def _batch_s(service: Any, batch: Batch, busy: int, u: float) -> float:
    """Seconds of a batch: of one query's user stage, of items after it, or of items that need none."""
    first = batch.slices[0]
    if first.start == first.stop:
        return float(service.stage_s)
    seconds: float = service(batch.items, busy, u)
    return after_stage(seconds, service.staged_s) if first.staged else seconds


def _slowed(service: Any, workers: Mapping[str, int], rate_qps: float) -> Any:
    """Batch times at an offered rate: longer where the node's own process shares the CPU's cores."""
    host_s = getattr(service, "host_s", 0.0)
    return service.slowed(slowdown(host_s, rate_qps, workers.get(CPU, 1))) if host_s else service


def ranks_of(services: Mapping[str, Any]) -> NDArray[np.float64]:
    """The ranks of the CPU's batch times; empty where they have none."""
    return np.asarray(getattr(services.get(CPU), "ranks", ()), dtype=np.float64)


def _one_by_one(draws: QuantileDraws) -> Iterator[float]:
    while True:
        yield from draws.take(AT_ONCE).tolist()
