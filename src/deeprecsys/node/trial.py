"""One live trial: an open-loop load through the dispatcher onto the workers, on the wall clock."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf, isnan
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.dispatcher import (
    Arrive,
    Command,
    Complete,
    Dispatcher,
    Event,
    Fail,
    Finish,
    Lost,
    Ready,
    Shed,
    Start,
    Tick,
)
from deeprecsys.core.policy import CPU
from deeprecsys.core.query import Batch, Query
from deeprecsys.core.runlog import RunLog, Status, stalled_s
from deeprecsys.node.runtime.mailbox import SliceAddress
from deeprecsys.node.runtime.pool import Down, Replied, Up, WorkerPool
from deeprecsys.workload.stream import Stream

TICK_S = 0.25
ARRIVALS_PER_POLL = 16  # under overload, news from workers must not wait for all late arrivals
DRAIN_S = 2.0
LEAD_S = 0.02  # the first arrival is due this long after the clock starts


class Hooks(Protocol):
    """What an onlooker of a trial may hear."""

    def tick(self, share: float) -> None:
        """Called a few times a second with the share of queries that arrived."""
        ...

    def scores(self, query: Query, scores: NDArray[Any]) -> None:
        """Called with the scores of a completed query; the array is reused afterwards."""
        ...


@dataclass(slots=True)
class Recording:
    """What a trial kept besides the run log: every event with its time, and every batch's times."""

    events: list[tuple[float, Event]] = field(default_factory=list)
    commands: list[list[Command]] = field(default_factory=list)
    batches: list[tuple[Batch, float, float, float, float]] = field(default_factory=list)
    """Batch; when it was posted, started and ended by the worker, and when the node heard of it; in the
    order of the last."""

    @property
    def numbered(self) -> list[tuple[Batch, float, float, float, float]]:
        """`batches` by number, which is the order in which they were posted."""
        return sorted(self.batches, key=lambda b: b[0].id)


@dataclass(slots=True)
class DeviceUsage:
    """What the workers of one device did in a trial."""

    device: str
    workers: int
    items: list[int] = field(default_factory=list)
    """Of each batch."""
    occupied_s: list[float] = field(default_factory=list)
    """From posting each batch to hearing of its end."""
    busy_s: float = 0.0

    def add(self, batch: Batch, took_ns: int, occupied_s: float) -> None:
        self.items.append(batch.items)
        self.occupied_s.append(occupied_s)
        self.busy_s += took_ns * 1e-9

    @property
    def seconds_per_item(self) -> float:
        """Worker-seconds from dispatch to completion: what a profile's times are."""
        return sum(self.occupied_s) / max(sum(self.items), 1)

    @property
    def stalled_s(self) -> float:
        return stalled_s(np.asarray(self.items), np.asarray(self.occupied_s))

    def to_json(self) -> dict[str, float]:
        return {
            "workers": self.workers,
            "batches": len(self.items),
            "items": sum(self.items),
            "busy_s": self.busy_s,
        }


class LiveTrial:
    """Drives one dispatcher through one stream on a worker pool. Use once: `run()`.

    Args:
        pool: started workers.
        dispatcher: a fresh one, for as many workers.
        stream: arrivals, sizes and feature handles.
        scores: [slots, max_query, outputs], where workers write; one slot per open query.
        abandon_after_s: when the oldest open query has waited this long, the trial ends there; the
            queries that are open count as unserved. None waits for all of them.
        hooks: an onlooker; recording: filled with every event, command and batch.
    """

    def __init__(
        self,
        pool: WorkerPool,
        dispatcher: Dispatcher,
        stream: Stream,
        scores: NDArray[Any],
        *,
        abandon_after_s: float | None = None,
        hooks: Hooks | None = None,
        recording: Recording | None = None,
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._rate_qps = stream.rate_qps
        self._arrival = stream.arrival_s.tolist()
        self._size = stream.size.tolist()
        self._features = stream.features.tolist()
        self._scores = scores
        self._free = list(range(len(scores) - 1, -1, -1))
        self._slot: dict[int, int] = {}
        self._limbo: list[tuple[int, int]] = []  # (query, slot): failed, yet another slice of it runs
        self._abandon_after_s = abandon_after_s
        self._hooks = hooks
        self._recording = recording
        self._running: dict[int, tuple[Batch, float]] = {}  # worker -> batch, when it was posted
        n = len(self._arrival)
        self._issued = np.full(n, np.nan)
        self._start = np.full(n, np.nan)
        self._finish = np.full(n, np.nan)
        self._status = np.zeros(n, np.uint8)
        self._open = 0
        self._used = {device: DeviceUsage(device, count) for device, count in pool.workers.items()}
        self._failures: list[str] = []
        self._lost = 0
        self._origin = 0.0

    def run(self, warmup_s: float) -> RunLog:
        """Run the trial to its end, or to a Ctrl-C: `RunLog.interrupted` says which.

        Raises:
            NodeError: a worker could not be replaced.
        """
        cpu_before = time.process_time()
        abandoned = interrupted = False
        with no_collection():
            self._origin = time.monotonic() + LEAD_S
            try:
                abandoned = self._loop()
            except KeyboardInterrupt:
                interrupted = True
                self._drain()
            self._settle()
        elapsed = time.monotonic() - self._origin
        # What was interrupted keeps the queries that were offered until then.
        kept = ~np.isnan(self._issued) if interrupted else np.ones(len(self._arrival), np.bool_)
        if interrupted:
            warmup_s = min(warmup_s, elapsed / 3)
        return RunLog(
            rate_qps=self._rate_qps,
            arrival_s=np.asarray(self._arrival)[kept],
            size=np.asarray(self._size, np.int32)[kept],
            issued_s=self._issued[kept],
            start_s=self._start[kept],
            finish_s=self._finish[kept],
            status=self._status[kept],
            busy_s=sum(used.busy_s for used in self._used.values()),
            workers=len(self._pool),
            warmup_s=warmup_s,
            batches=sum(len(used.items) for used in self._used.values()),
            occupied_s=sum(sum(used.occupied_s) for used in self._used.values()),
            seconds_per_item=self._used[CPU].seconds_per_item,
            stalled_s=self._used[CPU].stalled_s,
            elapsed_s=elapsed,
            node_cpu_share=(time.process_time() - cpu_before) / max(elapsed, 1e-9),
            abandoned=abandoned,
            interrupted=interrupted,
            extra={
                "devices": {used.device: used.to_json() for used in self._used.values()},
                "workers_lost": self._lost,
                "failures": self._failures[:10],
            },
        )

    def _loop(self) -> bool:
        """Feed arrivals and news to the dispatcher until every query has ended; True if given up."""
        arrival, n, pool, origin = self._arrival, len(self._arrival), self._pool, self._origin
        clock = time.monotonic
        i = 0
        next_tick = clock() + TICK_S
        while i < n or self._open:
            now = clock() - origin
            burst = i + ARRIVALS_PER_POLL
            while i < n and arrival[i] <= now and i < burst:
                self._arrive(i, now)
                i += 1
                now = clock() - origin
            if now + origin > next_tick:
                next_tick = now + origin + TICK_S
                if self._hooks:
                    self._hooks.tick(i / n)
                oldest = next(iter(self._slot), i)  # slots are taken in order of arrival
                if self._abandon_after_s and oldest < i and now - arrival[oldest] > self._abandon_after_s:
                    return True
            due = min(arrival[i] if i < n else inf, self._dispatcher.wake_s) - (clock() - origin)
            if i < n or self._open:
                for news in pool.news(min(due, TICK_S)):
                    self._hear(news, clock() - origin)
                self._wake(clock() - origin)
        return False

    def _wake(self, now: float) -> None:
        """Tell the dispatcher that the time has come which it waits for."""
        if self._dispatcher.wake_s <= now:
            self._tell(Tick(), now)

    def _drain(self) -> None:
        """After an interruption, answer what is open, for a moment."""
        until = time.monotonic() + DRAIN_S
        while self._open and time.monotonic() < until:
            due = self._dispatcher.wake_s - (time.monotonic() - self._origin)
            for news in self._pool.news(min(due, TICK_S)):
                self._hear(news, time.monotonic() - self._origin)
            self._wake(time.monotonic() - self._origin)

    def _settle(self) -> None:
        """Wait for the batches that an abandoned trial left on the workers."""
        while self._running:
            for news in self._pool.news(TICK_S):
                if isinstance(news, Replied | Down):
                    self._running.pop(news.worker, None)

    def _arrive(self, i: int, now: float) -> None:
        query = Query(i, self._size[i], self._arrival[i], self._features[i])
        self._issued[i] = now
        self._open += 1
        self._slot[i] = self._free.pop()
        self._tell(Arrive(query), now)

    def _hear(self, news: Replied | Up | Down, now: float) -> None:
        match news:
            case Replied(worker, reply):
                batch, posted = self._running.pop(worker)
                self._used[batch.device].add(batch, reply.ended_ns - reply.started_ns, now - posted)
                if self._recording:
                    started, ended = (t * 1e-9 - self._origin for t in (reply.started_ns, reply.ended_ns))
                    self._recording.batches.append((batch, posted, started, ended, now))
                errors = tuple((batch.slices[k].query.id, why) for k, why in reply.errors)
                self._tell(Finish(batch, errors), now)
                self._release()
            case Down(worker, _):
                self._lost += 1
                self._running.pop(worker, None)
                self._tell(Lost(*self._pool.place(worker)), now)
            case Up(worker):
                self._tell(Ready(*self._pool.place(worker)), now)

    def _tell(self, event: Event, now: float) -> None:
        commands = self._dispatcher.handle(event, now)
        if self._recording:
            self._recording.events.append((now, event))
            self._recording.commands.append(commands)
        for command in commands:
            match command:
                case Start(batch):
                    self._post(batch, now)
                case Complete(query):
                    self._end(query, Status.SERVED, now)
                case Shed(query, _):
                    self._end(query, Status.SHED, now)
                case Fail(query, reason):
                    self._failures.append(f"query {query.id}: {reason}")
                    self._end(query, Status.FAILED, now)

    def _post(self, batch: Batch, now: float) -> None:
        slot = self._slot
        worker = self._pool.number(batch.device, batch.worker)
        self._pool.post(
            worker, [SliceAddress(slot[s.query.id], s.query.features, s.start, s.stop) for s in batch.slices]
        )
        self._running[worker] = (batch, now)
        for part in batch.slices:
            i = part.query.id
            if part.start == 0 and isnan(self._start[i]):  # not when it runs again
                self._start[i] = now

    def _end(self, query: Query, status: Status, now: float) -> None:
        i = query.id
        slot = self._slot.pop(i)
        if status is Status.SERVED:
            self._finish[i] = now
            if self._hooks:
                self._hooks.scores(query, self._scores[slot, : query.size])
        self._status[i] = status
        self._open -= 1
        if status is Status.FAILED:
            self._limbo.append((i, slot))
        else:
            self._free.append(slot)

    def _release(self) -> None:
        """Free the slots of failed queries that no worker writes to any more."""
        if self._limbo:
            written = {s.query.id for batch, _ in self._running.values() for s in batch.slices}
            self._free += [slot for i, slot in self._limbo if i not in written]
            self._limbo = [(i, slot) for i, slot in self._limbo if i in written]


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage collection put off: a collection stops the dispatcher for milliseconds."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
