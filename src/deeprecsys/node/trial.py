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

from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.events import Arrive, Tick
from deeprecsys.core.policy import CPU
from deeprecsys.core.query import Batch, Query, Slice
from deeprecsys.core.runlog import RunLog, Status, stalled_s
from deeprecsys.core.work import item_at
from deeprecsys.node.driver import Driver, Recording
from deeprecsys.node.runtime.mailbox import SliceAddress, stage_of
from deeprecsys.node.runtime.workers import Workers
from deeprecsys.workload.stream import Stream
from deeprecsys.workload.work import PoolWork

TICK_S = 0.25
ARRIVALS_PER_POLL = 16  # under overload, news from workers must not wait for all late arrivals
DRAIN_S = 2.0
LEAD_S = 0.02  # the first arrival is due this long after the clock starts


class Hooks(Protocol):
    """Called with the progress and the scores of a trial."""

    def tick(self, share: float) -> None:
        """Called a few times a second with the share of queries that arrived."""
        ...

    def scores(self, query: Query, scores: NDArray[Any]) -> None:
        """Called with the scores of a completed query; the array is reused afterwards."""
        ...


@dataclass(slots=True)
class DeviceUsage:
    """What the workers of one device did in a trial."""

    device: str
    workers: int
    items: list[int] = field(default_factory=list)
    """Items of each batch."""
    occupied_s: list[float] = field(default_factory=list)
    """Seconds of each batch from its posting to its reply."""
    busy_s: float = 0.0

    def add(self, batch: Batch, took_s: float, occupied_s: float) -> None:
        self.items.append(batch.items)
        self.occupied_s.append(occupied_s)
        self.busy_s += took_s

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
    """Drives one dispatcher through one stream on the workers of a node. Use once: `run()`.

    Args:
        workers: started.
        dispatcher: a fresh one, for the same number of workers.
        stream: arrivals, sizes and feature handles.
        slots: [slots, max_query, outputs], where workers write scores; one slot per open query.
        abandon_after_s: when the oldest open query has waited this long, the trial ends there; the
            queries that are open count as unserved. None waits for all of them.
        hooks: called as the trial goes on; recording: filled with every event, command and batch.
    """

    def __init__(
        self,
        workers: Workers,
        dispatcher: Dispatcher,
        stream: Stream,
        slots: NDArray[Any],
        *,
        abandon_after_s: float | None = None,
        hooks: Hooks | None = None,
        recording: Recording | None = None,
    ) -> None:
        self._workers = workers
        self._driver = Driver(dispatcher, workers, self, recording)
        self._rate_qps = stream.rate_qps
        self._arrival = stream.arrival_s.tolist()
        self._size = stream.size.tolist()
        self._items, self._work = stream.items.tolist(), stream.work
        self._features = stream.features.tolist()
        self._scores = slots
        self._free = list(range(len(slots) - 1, -1, -1))
        self._slot: dict[int, int] = {}
        self._abandon_after_s = abandon_after_s
        self._hooks = hooks
        n = len(self._arrival)
        self._issued = np.full(n, np.nan)
        self._start = np.full(n, np.nan)
        self._finish = np.full(n, np.nan)
        self._status = np.zeros(n, np.uint8)
        self._open = 0
        self._used = {device: DeviceUsage(device, count) for device, count in workers.counts.items()}
        self._failures: list[str] = []

    def run(self, warmup_s: float) -> RunLog:
        """Run the trial to its end, or to a Ctrl-C: `RunLog.interrupted` says which.

        Raises:
            NodeError: a worker could not be replaced.
        """
        cpu_before = time.process_time()
        abandoned = interrupted = False
        with no_collection():
            self._driver.origin_s = time.monotonic() + LEAD_S
            try:
                abandoned = self._loop()
            except KeyboardInterrupt:
                interrupted = True
                self._drain()
            self._settle()
        elapsed = self._now()
        # What ended early keeps the queries that were offered until then.
        early = interrupted or abandoned
        kept = ~np.isnan(self._issued) if early else np.ones(len(self._arrival), np.bool_)
        if early:
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
            workers=len(self._workers),
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
                "workers_lost": self._driver.lost,
                "failures": self._failures[:10],
            },
        )

    def _now(self) -> float:
        """Seconds since the trial's beginning."""
        return time.monotonic() - self._driver.origin_s

    def _loop(self) -> bool:
        """Feed arrivals and news to the dispatcher until every query has ended; True if given up."""
        arrival, n, origin = self._arrival, len(self._arrival), self._driver.origin_s
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
                self._workers.check_starts()
                for news in self._driver.end_hung(now):
                    self._driver.receive(news, now)
                oldest = next(iter(self._slot), i)  # slots are taken in order of arrival
                if self._abandon_after_s and oldest < i and now - arrival[oldest] > self._abandon_after_s:
                    return True
            if i < n or self._open:
                self._poll(arrival[i] if i < n else inf)
        return False

    def _poll(self, until: float) -> None:
        """Wait for news until a time, or until the dispatcher is to be woken, and handle what comes."""
        driver, origin, clock = self._driver, self._driver.origin_s, time.monotonic
        due = min(until, driver.dispatcher.wake_s) - (clock() - origin)
        for news in self._workers.news(min(due, TICK_S)):
            driver.receive(news, clock() - origin)
        if driver.dispatcher.wake_s <= (now := clock() - origin):
            driver.handle(Tick(), now)

    def _drain(self) -> None:
        """After an interruption, answer what is open, for a moment."""
        until = self._now() + DRAIN_S
        while self._open and self._now() < until:
            self._poll(until)

    def _settle(self) -> None:
        """Wait for the batches that an abandoned trial left on the workers."""
        while self._driver.running:
            self._driver.settle([*self._workers.news(TICK_S), *self._driver.end_hung(self._now())])

    def _arrive(self, i: int, now: float) -> None:
        query = Query(i, self._size[i], self._arrival[i], self._features[i])
        self._issued[i] = now
        self._open += 1
        self._slot[i] = self._free.pop()
        self._driver.handle(Arrive(query), now)

    # What the driver asks and reports (`driver.Queries`).
    def addresses(self, batch: Batch, now_s: float) -> list[SliceAddress]:
        slot, start = self._slot, self._start
        for part in batch.slices:
            i = part.query.id
            if part.start == 0 and isnan(start[i]):  # not when it runs again
                start[i] = now_s
        if self._work is not None:
            return [self._address(s, self._work) for s in batch.slices]
        return [
            SliceAddress(slot[s.query.id], s.query.features, s.start, s.stop, stage_of(s))
            for s in batch.slices
        ]

    def _address(self, s: Slice, work: PoolWork) -> SliceAddress:
        """Where a slice lies whose bounds are units of work."""
        query, first = s.query, work.first(s.query.features)
        items = self._items[query.id]
        start, stop = (item_at(work.before, first, items, at, query.size) for at in (s.start, s.stop))
        return SliceAddress(self._slot[query.id], query.features, start, stop, stage_of(s))

    def ran(self, batch: Batch, posted_s: float, started_s: float, ended_s: float, now_s: float) -> None:
        self._used[batch.device].add(batch, ended_s - started_s, now_s - posted_s)

    def complete(self, query: Query, now_s: float) -> None:
        slot = self._end(query, Status.SERVED)
        self._finish[query.id] = now_s
        if self._hooks:
            self._hooks.scores(query, self._scores[slot, : self._items[query.id]])
        self._free.append(slot)

    def shed(self, query: Query, reason: str, late: bool, now_s: float) -> None:
        self._free.append(self._end(query, Status.SHED))  # trials have no deadlines: nothing of it runs

    def fail(self, query: Query, reason: str, now_s: float) -> None:
        self._failures.append(f"query {query.id}: {reason}")
        slot = self._end(query, Status.FAILED)
        self._driver.when_unused(query.id, lambda: self._free.append(slot))

    def _end(self, query: Query, status: Status) -> int:
        """A query has ended; returns its slot."""
        self._status[query.id] = status
        self._open -= 1
        return self._slot.pop(query.id)


@contextmanager
def no_collection(clean: bool = True) -> Iterator[None]:
    """Put off garbage collection, which stops the dispatcher for milliseconds.

    Args:
        clean: collect once before, so that little is left to do after a long trial. That takes 10 ms or so.
    """
    enabled = gc.isenabled()
    if clean:
        gc.collect()
        gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if clean:
            gc.unfreeze()
        if enabled:
            gc.enable()
