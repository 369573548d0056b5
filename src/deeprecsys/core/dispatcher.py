"""The dispatcher: events in, commands out. A pure state machine; its driver owns time.

A live node and a simulator drive the same class. Nothing here reads a clock or touches a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from deeprecsys.core.deadlines import DeadlineTracker, Forecast
from deeprecsys.core.device import Device, Limits, Line
from deeprecsys.core.errors import InputError
from deeprecsys.core.events import (
    Adopt,
    Arrive,
    Cancel,
    Command,
    Complete,
    Event,
    Fail,
    Finish,
    Lost,
    Ready,
    Refused,
    Retire,
    Shed,
    Start,
    Tick,
)
from deeprecsys.core.policy import CPU, Defer, Hold, Policy, PolicyState
from deeprecsys.core.policy.base import WHOLE
from deeprecsys.core.query import Batch, Query, Slice, cut

MAX_KILLS = 2
"""A slice that was running on this many workers when they died fails, or is refused if they were killed."""


class Dispatcher:
    """Applies a policy to a stream of events (paper §IV; the vocabulary is in docs/glossary.md).

    Args:
        policy: how queries of model version 0 become batches; other versions come by `Adopt`.
        workers: how many workers each device has.
        limits: bounds of each device's waiting line.

    Raises:
        InputError: the policy needs a device that the node does not have.
    """

    def __init__(self, policy: Policy, workers: Mapping[str, int], limits: Limits | None = None) -> None:
        missing = [d for d in policy.devices if workers.get(d, 0) < 1]
        if missing:
            raise InputError(
                f"policy {policy.name}: expected a node with the devices "
                f"{', '.join(policy.devices)}, got one without {', '.join(missing)}"
            )
        self.policy = policy
        self.limits = limits or Limits()
        self._devices = {name: Device(name, count) for name, count in workers.items()}
        self._states: dict[int, PolicyState] = {0: policy.begin()}
        self._cpu_batch = {0: policy.batch_size or WHOLE}  # by version, the most items of a batch on the CPU
        self._deadlines = DeadlineTracker()
        self._open: dict[int, int] = {}  # query id -> items not yet scored
        self._running: dict[tuple[str, int], tuple[Batch, float]] = {}  # with the time of its start
        self._kills: dict[tuple[int, int], int] = {}  # (query id, start) -> workers lost while running it
        self._next_batch = 0
        self.arrived = self.completed = self.failed = self.shed = self.cancelled = 0

    # core.policy.View
    def workers(self, device: str) -> int:
        return len(self._devices[device].alive)

    def idle(self, device: str) -> int:
        return len(self._devices[device].idle)

    def waiting_items(self, device: str) -> int:
        return self._devices[device].waiting_items

    def line_items(self, version: int) -> int:
        """Items of one model version that no worker has begun."""
        return sum(device.lines[version].items for device in self._devices.values())

    def has(self, version: int) -> bool:
        """Whether anything of a model version waits or runs."""
        return any(s.query.version == version for s in self._unscored())

    @property
    def open(self) -> int:
        """Queries that arrived and have not ended."""
        return len(self._open)

    @property
    def wake_s(self) -> float:
        """When a `Tick` is due, as batches are held back until then; infinite where none is."""
        return min(device.wake_s for device in self._devices.values())

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Apply an event at `now_s`, and return the commands that follow. Nothing else changes the state."""
        match event:
            case Arrive(query):
                return self._arrive(query, now_s)
            case Finish(batch, errors):
                return self._finish(batch, errors, now_s)
            case Lost(device, worker, begun, killed):
                return self._lost(device, worker, begun, killed, now_s)
            case Ready(device, worker):
                return self._ready(device, worker, now_s)
            case Tick():
                return self._start_all(now_s)
            case Cancel(query):
                return self._cancel(query, now_s)
            case Adopt(version, policy, forecast):
                return self._adopt(version, policy, forecast, now_s)
            case Retire(version):
                return self._retire(version)
            case Refused(query):
                self._deadlines.refused(query)
                return []

    def late_by_s(self, query: Query, now_s: float) -> float:
        """By how much a query that arrives now is predicted to miss its deadline, seconds; below 0: not.

        Above 0 it is refused, unless it `may_be_late`.
        """
        return self._deadlines.late_by_s(query, self._alive, self._running.values(), now_s)

    def may_be_late(self, query: Query, late_s: float) -> bool:
        """Whether the target's quantile leaves room for the query to be late, by `late_s`."""
        return self._deadlines.may_be_late(query, late_s)

    @property
    def _alive(self) -> dict[str, int]:
        """Live workers of each device."""
        return {name: len(device.alive) for name, device in self._devices.items()}

    def _arrive(self, query: Query, now_s: float) -> list[Command]:
        self.arrived += 1
        place, batch_size, due_s, user_first = self._states[query.version].place(query, self, now_s)
        device = self._devices.get(place)
        if device is None or batch_size < 1:
            raise InputError(
                f"policy: Placement: expected a device of {', '.join(self._devices)} and a batch size of at "
                f"least 1, got {place} and {batch_size}"
            )
        if not device.alive and place != CPU:
            device, batch_size = self._devices[CPU], self._cpu_batch[query.version]
        if len(self._open) >= self.limits.queries:
            return self._refuse(query, f"{self.limits.queries} queries are open")
        if full := device.refusal(query, self.limits):
            return self._refuse(query, full)
        if query.deadline_s < inf and (late_s := self.late_by_s(query, now_s)) > 0:
            if not self.may_be_late(query, late_s):
                return self._refuse(query, f"it would miss its deadline by {1e3 * late_s:.0f} ms", late=True)
            self._deadlines.tolerate_late(query)
        self._open[query.id] = query.size
        self._deadlines.count(query, query.size)
        line, slices = device.lines[query.version], cut(query, batch_size)
        (line.put_staged if user_first and len(slices) > 1 else line.put)(slices, due_s)
        return self._start(device, now_s)

    def _refuse(self, query: Query, reason: str, late: bool = False) -> list[Command]:
        self.shed += 1
        self._deadlines.refused(query)
        return [Shed(query, reason, late)]

    def _start_all(self, now_s: float) -> list[Command]:
        return [c for device in self._devices.values() for c in self._start(device, now_s)]

    def _start(self, device: Device, now_s: float) -> list[Command]:
        """Start batches while a worker is idle, a line is not empty, and the policy does not hold it."""
        commands: list[Command] = []
        device.wake_s = inf
        device.held.clear()
        again, idle = device.again, device.idle
        while idle:
            if again:
                parts: tuple[Slice, ...] = (again.popleft(),)
            else:
                line = device.next_line()
                if line is None:
                    break
                if dropped := self._drop_late(line.head.query, now_s):
                    commands += dropped
                    continue
                wanted = self._states[line.version].form(line, self, now_s)
                if isinstance(wanted, Hold):
                    assert wanted.until_s > now_s, "held until a time that has passed"
                    device.wake_s = min(wanted.until_s, device.wake_s)
                    device.held.add(line.version)
                    continue
                if isinstance(wanted, Defer):
                    line.defer()
                    continue
                parts = line.take(wanted, self.limits.slices)
            batch = Batch(self._next_batch, device.name, idle.pop(), parts)
            self._next_batch += 1
            self._running[device.name, batch.worker] = (batch, now_s)
            commands.append(Start(batch))
        return commands

    def _drop_late(self, query: Query, now_s: float) -> list[Command]:
        """Drop a query whose turn it is, if it would be late and may not be."""
        if query.deadline_s == inf:
            return []
        late_s = self._deadlines.cannot_meet_by_s(query, self._open[query.id], self._alive, now_s)
        if late_s <= 0:
            return []
        if self.may_be_late(query, late_s):
            self._deadlines.tolerate_late(query)
            return []
        why = f"it waited too long to meet its deadline: {1e3 * late_s:.0f} ms"
        return self._drop(query, why, late=True)

    def _drop(self, query: Query, reason: str, late: bool = False) -> list[Command]:
        """Refuse an open query."""
        self._close(query)
        self._forget(query.id)
        return self._refuse(query, reason, late)

    def _finish(self, batch: Batch, errors: tuple[tuple[int, str], ...], now_s: float) -> list[Command]:
        key = (batch.device, batch.worker)
        running, started_s = self._running.get(key, (None, now_s))
        if running is None or running.id != batch.id:
            return []  # from a worker that counts as dead: the batch runs elsewhere
        del self._running[key]
        device = self._devices[batch.device]
        device.idle.append(batch.worker)
        version = batch.slices[0].query.version
        if not errors:  # else it ran again slice by slice: its time says nothing about batches
            self._states[version].finished(batch, now_s - started_s)
            self._deadlines.learn(batch, now_s - started_s)
        failed = {query_id for query_id, _ in errors}
        for part in batch.slices:
            if part.start == part.stop and part.query.id not in failed:
                device.lines[version].release(part.query.id)
        commands = self._start(device, now_s)
        for query_id, reason in errors:
            query = next(s.query for s in batch.slices if s.query.id == query_id)
            commands += self._fail(query, reason)
        for part in batch.slices:
            commands += self._scored(part, now_s)
        return commands

    def _scored(self, part: Slice, now_s: float) -> list[Command]:
        query = part.query
        left = self._open.get(query.id)
        if self._kills:
            self._kills.pop((query.id, part.start), None)
        if left is None:
            return []  # the query failed through another slice, or through this one
        items = part.stop - part.start
        if left > items:
            self._open[query.id] = left - items
            self._deadlines.count(query, -items)
            return []
        self._deadlines.answered(query, now_s)
        self._close(query)
        self.completed += 1
        return [Complete(query)]

    def _close(self, query: Query) -> None:
        """Remove the query from those that are open."""
        self._deadlines.count(query, -self._open.pop(query.id))
        self._deadlines.ended(query)

    def _forget(self, query_id: int) -> None:
        """Drop the slices of a query that no worker has begun, and its record of lost workers."""
        if self._kills:
            self._kills = {key: kills for key, kills in self._kills.items() if key[0] != query_id}
        for device in self._devices.values():
            device.drop(query_id)

    def _fail(self, query: Query, reason: str) -> list[Command]:
        if query.id not in self._open:
            return []
        self._close(query)
        self.failed += 1
        self._forget(query.id)
        return [Fail(query, reason)]

    def _cancel(self, query: Query, now_s: float) -> list[Command]:
        if query.id not in self._open:
            return []
        self._close(query)
        self.cancelled += 1
        self._forget(query.id)
        return self._start_all(now_s)

    def _adopt(self, version: int, policy: Policy, forecast: Forecast | None, now_s: float) -> list[Command]:
        unknown = [d for d in policy.devices if d not in self._devices]
        assert not unknown, f"policy needs devices that the node does not have: {unknown}"
        self._states[version] = policy.begin()
        self._cpu_batch[version] = policy.batch_size or WHOLE
        for device in self._devices.values():
            device.lines.setdefault(version, Line(device.name, version))
        waits = [s for s in self._open_slices() if s.query.version == version]
        self._deadlines.adopt(version, policy, forecast, waits)
        return self._start_all(now_s)

    def _unscored(self) -> list[Slice]:
        """Every slice that waits or runs."""
        running = [s for batch, _ in self._running.values() for s in batch.slices]
        lines = [s for d in self._devices.values() for line in d.lines.values() for s in line]
        return [*running, *lines, *(s for d in self._devices.values() for s in d.again)]

    def _open_slices(self) -> list[Slice]:
        """Every slice of an open query that waits or runs."""
        return [s for s in self._unscored() if s.query.id in self._open]

    def _retire(self, version: int) -> list[Command]:
        assert not self.has(version), "its batches must have ended"
        for device in self._devices.values():
            del device.lines[version]
        del self._states[version], self._cpu_batch[version]
        self._deadlines.retire(version)
        return []

    def _lost(self, name: str, worker: int, begun: bool, killed: bool, now_s: float) -> list[Command]:
        """Scoring is pure: what ran on the worker runs again, on the CPU if no other is left."""
        device = self._devices[name]
        device.lost(worker)
        batch, _ = self._running.pop((name, worker), (None, now_s))
        commands: list[Command] = []
        for part in reversed(batch.slices if batch else ()):
            if part.query.id not in self._open:
                continue  # it failed through another slice
            key = (part.query.id, part.start)
            kills = self._kills[key] = self._kills.get(key, 0) + begun
            if kills < MAX_KILLS:
                device.again.appendleft(part)
            elif killed:  # the machine may be the cause, not the query
                commands += self._drop(part.query, f"{kills} workers were lost while they scored it")
            else:
                commands += self._fail(part.query, f"{kills} workers died while scoring it")
        if not device.alive and name != CPU:
            return commands + self._fall_back(device, now_s)
        return commands + self._start(device, now_s)

    def _fall_back(self, device: Device, now_s: float) -> list[Command]:
        """Have the CPU run what waits for a device that has no worker left, cut as its own work is."""
        cpu = self._devices[CPU]
        for version, line in device.lines.items():
            for due_s, part in line.clear():
                cpu.lines[version].put(self._cut_for_cpu(part), due_s)
        for part in device.again:
            cpu.again += self._cut_for_cpu(part)
        device.again.clear()
        self._deadlines.offload(False, self._open_slices())
        return self._start_all(now_s)

    def _cut_for_cpu(self, part: Slice) -> list[Slice]:
        return cut(part.query, self._cpu_batch[part.query.version], part.start, part.stop)

    def _ready(self, name: str, worker: int, now_s: float) -> list[Command]:
        device = self._devices[name]
        if not device.alive and name != CPU:
            self._deadlines.offload(True, self._open_slices())
        if worker not in device.alive:
            device.alive.add(worker)
            device.idle.append(worker)
        return self._start(device, now_s)

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken (docs/architecture.md); for tests."""
        assert self.arrived == self.completed + self.failed + self.shed + self.cancelled + self.open
        for device in self._devices.values():
            device.check()
            slices = [*device.again, *(s for line in device.lines.values() for s in line)]
            busy = {w for d, w in self._running if d == device.name}
            assert busy | set(device.idle) == device.alive
            assert not busy & set(device.idle)
            assert all(s.query.id in self._open for s in slices)
        self._check_items()
        self._deadlines.check(self._open, self._open_slices())

    def _check_items(self) -> None:
        left = dict.fromkeys(self._open, 0)
        for part in self._unscored():
            if part.query.id in left:
                left[part.query.id] += part.items
        assert left == self._open, "items of an open query are neither waiting nor running, or are so twice"
        for batch, _ in self._running.values():
            assert len({s.query.version for s in batch.slices}) == 1, "a batch of two versions"
