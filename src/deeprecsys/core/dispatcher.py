"""The dispatcher: events in, commands out. A pure state machine; whoever drives it owns time.

A live node and a simulator both drive this very class. Nothing here reads a clock or touches a device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from deeprecsys.core.errors import InputError
from deeprecsys.core.line import Line
from deeprecsys.core.policy import Defer, Hold, Policy
from deeprecsys.core.query import Batch, Query, Slice, cut

MAX_KILLS = 2
"""A slice that was running on this many workers as they died is not tried again."""


# Events: what happened.
class Arrive(NamedTuple):
    """A query arrived."""

    query: Query


class Finish(NamedTuple):
    """A worker finished a batch; `errors` names the queries of it that could not be scored."""

    batch: Batch
    errors: tuple[tuple[int, str], ...] = ()


class Lost(NamedTuple):
    """A worker died, with whatever it was running."""

    device: str
    worker: int


class Ready(NamedTuple):
    """A worker that had died is replaced."""

    device: str
    worker: int


class Tick(NamedTuple):
    """Nothing but time: `Dispatcher.wake_s` has come."""


Event = Arrive | Finish | Lost | Ready | Tick


# Commands: what to do, or what has become true.
class Start(NamedTuple):
    """Have `batch.worker` of `batch.device` run the batch."""

    batch: Batch


class Complete(NamedTuple):
    """All items of the query are scored."""

    query: Query


class Fail(NamedTuple):
    """The query cannot be answered."""

    query: Query
    reason: str


class Shed(NamedTuple):
    """The query was refused on arrival: the line is full."""

    query: Query
    reason: str


Command = Start | Complete | Fail | Shed


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be open, and wait in one device's line, before queries are shed."""

    queries: int = 1_000_000
    items: int = 1_000_000
    bytes: int = 1 << 32
    bytes_per_item: int = 0
    slices: int = 256
    """The most slices that one batch may hold."""


class _Device:
    """A pool of like workers with one waiting line."""

    __slots__ = ("again", "alive", "idle", "line", "name", "wake_s")

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.line = Line(name)
        self.again: deque[Slice] = deque()
        """Slices whose worker died: each runs again first of all, and alone, so that a bad one shows."""
        self.wake_s = inf
        self.alive = set(range(workers))
        self.idle = list(range(workers - 1, -1, -1))  # a stack: the worker that was last busy is warm

    @property
    def waiting_items(self) -> int:
        return self.line.items + sum(s.items for s in self.again)


class Dispatcher:
    """Applies a policy to a stream of events (paper §IV; the vocabulary is in docs/glossary.md).

    Args:
        policy: how queries become batches.
        workers: how many workers each device has.
        limits: bounds of each device's waiting line.

    Raises:
        InputError: the policy wants a device that the node does not have.
    """

    def __init__(self, policy: Policy, workers: Mapping[str, int], limits: Limits | None = None) -> None:
        missing = [d for d in policy.devices if workers.get(d, 0) < 1]
        if missing:
            raise InputError(
                f"policy {policy.describe()['policy']}: expected a node with the devices "
                f"{', '.join(policy.devices)}, got one without {', '.join(missing)}"
            )
        self.policy = policy
        self.limits = limits or Limits()
        self._devices = {name: _Device(name, count) for name, count in workers.items()}
        self._rules = policy.begin()
        self._open: dict[int, int] = {}  # query id -> items not yet scored
        self._running: dict[tuple[str, int], tuple[Batch, float]] = {}  # with the time of its start
        self._kills: dict[tuple[int, int], int] = {}  # (query id, start) -> workers lost while running it
        self._next_batch = 0
        self.arrived = self.completed = self.failed = self.shed = 0

    # What a policy may see (core.policy.View).
    def workers(self, device: str) -> int:
        return len(self._devices[device].alive)

    def idle(self, device: str) -> int:
        return len(self._devices[device].idle)

    def waiting_items(self, device: str) -> int:
        return self._devices[device].waiting_items

    @property
    def open(self) -> int:
        """Queries that arrived and are neither completed, failed nor shed."""
        return len(self._open)

    @property
    def wake_s(self) -> float:
        """When a `Tick` is due, as batches are held back until then; infinite where none is."""
        return min(device.wake_s for device in self._devices.values())

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """The commands that follow from an event at `now_s`. The only way in which state changes."""
        match event:
            case Arrive(query):
                return self._arrive(query, now_s)
            case Finish(batch, errors):
                return self._finish(batch, errors, now_s)
            case Lost(device, worker):
                return self._lost(device, worker, now_s)
            case Ready(device, worker):
                return self._ready(device, worker, now_s)
            case Tick():
                return [c for device in self._devices.values() for c in self._start(device, now_s)]

    def _arrive(self, query: Query, now_s: float) -> list[Command]:
        self.arrived += 1
        place, batch_size, due_s = self._rules.place(query, self, now_s)
        device = self._devices[place]
        limits = self.limits
        if len(self._open) >= limits.queries:
            return self._refuse(query, f"{limits.queries} queries are open")
        waiting = device.waiting_items + query.size
        # A query that finds a worker idle and nothing in line never waits, however large it is.
        if device.line or not device.idle:
            if waiting > limits.items:
                return self._refuse(query, f"line of {place} full: {limits.items} items")
            if waiting * limits.bytes_per_item > limits.bytes:
                return self._refuse(query, f"line of {place} full: {limits.bytes} bytes")
        slices = cut(query, batch_size)
        self._open[query.id] = query.size
        device.line.put(slices, due_s)
        return self._start(device, now_s)

    def _refuse(self, query: Query, reason: str) -> list[Command]:
        self.shed += 1
        return [Shed(query, reason)]

    def _start(self, device: _Device, now_s: float) -> list[Command]:
        """Start batches while a worker is idle, something waits, and the policy does not hold it back."""
        commands: list[Command] = []
        device.wake_s = inf
        line, again, idle = device.line, device.again, device.idle
        while idle and (again or line):
            if again:
                parts: tuple[Slice, ...] = (again.popleft(),)
            else:
                wanted = self._rules.form(line, self, now_s)
                if isinstance(wanted, Hold):
                    assert wanted.until_s > now_s, "held until a time that has passed"
                    device.wake_s = wanted.until_s
                    break
                if isinstance(wanted, Defer):
                    line.defer()
                    continue
                parts = line.take(wanted, self.limits.slices)
            batch = Batch(self._next_batch, device.name, idle.pop(), parts)
            self._next_batch += 1
            self._running[device.name, batch.worker] = (batch, now_s)
            commands.append(Start(batch))
        return commands

    def _finish(self, batch: Batch, errors: tuple[tuple[int, str], ...], now_s: float) -> list[Command]:
        key = (batch.device, batch.worker)
        running, started_s = self._running.get(key, (None, now_s))
        if running is None or running.id != batch.id:
            return []  # reported by a worker that was given up for dead: the batch runs elsewhere
        del self._running[key]
        device = self._devices[batch.device]
        device.idle.append(batch.worker)
        self._rules.finished(batch, now_s - started_s)
        commands = self._start(device, now_s)
        for query_id, reason in errors:
            query = next(s.query for s in batch.slices if s.query.id == query_id)
            commands += self._fail(query, reason)
        for part in batch.slices:
            commands += self._scored(part)
        return commands

    def _scored(self, part: Slice) -> list[Command]:
        query = part.query
        left = self._open.get(query.id)
        if self._kills:
            self._kills.pop((query.id, part.start), None)
        if left is None:
            return []  # the query failed through another slice, or through this one
        left -= part.stop - part.start
        if left > 0:
            self._open[query.id] = left
            return []
        del self._open[query.id]
        self.completed += 1
        return [Complete(query)]

    def _fail(self, query: Query, reason: str) -> list[Command]:
        if self._open.pop(query.id, None) is None:
            return []
        self.failed += 1
        self._kills = {key: kills for key, kills in self._kills.items() if key[0] != query.id}
        for device in self._devices.values():
            device.line.drop(query.id)
            device.again = deque(s for s in device.again if s.query.id != query.id)
        return [Fail(query, reason)]

    def _lost(self, name: str, worker: int, now_s: float) -> list[Command]:
        """Scoring is pure, so what ran on the worker runs again."""
        device = self._devices[name]
        device.alive.discard(worker)
        if worker in device.idle:
            device.idle.remove(worker)
        batch, _ = self._running.pop((name, worker), (None, now_s))
        commands: list[Command] = []
        for part in reversed(batch.slices if batch else ()):
            if part.query.id not in self._open:
                continue  # it failed through another slice
            key = (part.query.id, part.start)
            kills = self._kills[key] = self._kills.get(key, 0) + 1
            if kills < MAX_KILLS:
                device.again.appendleft(part)
            else:
                commands += self._fail(part.query, f"{kills} workers died while scoring it")
        return commands + self._start(device, now_s)

    def _ready(self, name: str, worker: int, now_s: float) -> list[Command]:
        device = self._devices[name]
        if worker not in device.alive:
            device.alive.add(worker)
            device.idle.append(worker)
        return self._start(device, now_s)

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken (docs/architecture.md); for tests."""
        assert self.arrived == self.completed + self.failed + self.shed + self.open
        for device in self._devices.values():
            waits = [*device.again, *device.line]
            held = device.wake_s < inf and not device.again
            assert not (waits and device.idle) or held, f"{device.name}: a worker idles beside a line"
            assert device.line.items == sum(s.items for s in device.line)
            busy = {w for d, w in self._running if d == device.name}
            assert busy | set(device.idle) == device.alive
            assert not busy & set(device.idle)
            assert all(s.query.id in self._open for s in waits)
        left = dict.fromkeys(self._open, 0)
        running = [s for batch, _ in self._running.values() for s in batch.slices]
        for part in [*running, *(s for d in self._devices.values() for s in (*d.again, *d.line))]:
            if part.query.id in left:
                left[part.query.id] += part.items
        assert left == self._open, "items of an open query are neither waiting nor running, or are so twice"
