"""Wall-clock driver of the dispatcher on an event loop: what happens goes in, batches go to workers.

News of workers come through descriptors that the loop watches, time through its timers: nothing waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from math import inf, isnan

from deeprecsys.core.dispatcher import (
    Cancel,
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
from deeprecsys.core.query import Batch
from deeprecsys.node.runtime.mailbox import SliceAddress
from deeprecsys.node.runtime.processes import Down, News, Replied, Up
from deeprecsys.node.service.backend import BatchRecord, Reason
from deeprecsys.node.service.crew import Crew
from deeprecsys.node.service.hosted_model import Reservation
from deeprecsys.node.service.open_queries import OpenQueries

RETRY_S = 30.0
"""How long after workers could not start it is tried once more."""


class Driver:
    """Moves a dispatcher, its crew and the ledger of queries; `begin` it, `close` it."""

    def __init__(self, dispatcher: Dispatcher, crew: Crew, ledger: OpenQueries) -> None:
        self._dispatcher, self._crew, self._ledger = dispatcher, crew, ledger
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, tuple[Batch, float]] = {}  # worker -> batch, when it was posted
        self._wake: asyncio.TimerHandle | None = None
        self._wake_s = inf
        self._retry: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Watch for news, start the workers."""
        for fd in self._crew.listen:
            self._loop.add_reader(fd, self._on_news)
        self._crew.begin()

    def close(self) -> None:
        """Watch no more."""
        for fd in self._crew.listen:
            self._loop.remove_reader(fd)
        for timer in (self._wake, self._retry):
            if timer:
                timer.cancel()

    # What happens to queries.
    def tell(self, event: Event) -> None:
        """Have the dispatcher decide on an event, and do what it says."""
        now, places = time.monotonic(), self._ledger.places
        for command in self._dispatcher.handle(event, now):
            match command:
                case Start(batch):
                    self._post(batch, now)
                case Complete(query):
                    self._ledger.complete(places[query.id])
                case Fail(query, reason):
                    self._ledger.fail(places[query.id], reason)
                case Shed(query, why, late):
                    self._ledger.refuse(places[query.id], Reason.LATE if late else Reason.OVERLOAD, why)
        self._set_timer(now)

    def _post(self, batch: Batch, now: float) -> None:
        parts = []
        for s in batch.slices:
            place = self._ledger.places[s.query.id]
            parts.append(SliceAddress(place.slot, place.row, s.start, s.stop))
            place.parts += 1
            if isnan(place.start_s):
                place.start_s = now
        for place in self._places_of(batch):
            place.running += 1
        self._running[batch.worker] = (batch, now)
        self._crew.post(batch.worker, parts, batch.slices[0].query.version)

    def _set_timer(self, now: float) -> None:
        """Have the loop wake us when the dispatcher wants to be."""
        wake_s = self._dispatcher.wake_s
        if wake_s != self._wake_s:
            if self._wake:
                self._wake.cancel()
            self._wake_s = wake_s
            self._wake = self._loop.call_later(max(wake_s - now, 0), self._tick) if wake_s < inf else None

    def _tick(self) -> None:
        self._wake, self._wake_s = None, inf
        if time.monotonic() < self._dispatcher.wake_s:  # the loop's clock may be coarser than ours
            self._set_timer(time.monotonic())
        else:
            self.tell(Tick())

    # What happens to workers.
    def reconcile(self) -> None:
        """Have the crew be what it should be."""
        for news in self._crew.reconcile():
            self._hear(news)

    def _on_news(self) -> None:
        for news in self._crew.news():
            self._hear(news)
        if self._crew.problem and self._retry is None:
            self._retry = self._loop.call_later(RETRY_S, self.try_again)
            if not self._crew.alive:
                self._fail_all(self._crew.problem)
        self._ledger.happened.announce()

    def try_again(self) -> None:
        """Start once more the workers that could not be started."""
        self._retry = None
        self._crew.retry()
        self.reconcile()

    def _hear(self, news: News) -> None:
        match news:
            case Replied(worker, reply):
                batch, posted_s = self._running.pop(worker)
                started_s, ended_s = reply.started_ns * 1e-9, reply.ended_ns * 1e-9
                places = self._places_of(batch)
                for place in places:
                    place.running -= 1
                    place.compute_s += ended_s - started_s
                errors = tuple((batch.slices[k].query.id, why) for k, why in reply.errors)
                self.tell(Finish(batch, errors))
                for place in places:
                    self._ledger.free(place)
                if self._ledger.heard:
                    name, cut = places[0].served.name, len(batch.slices)
                    self._ledger.batch_ended(
                        BatchRecord(name, worker, batch.items, cut, posted_s, started_s, ended_s)
                    )
            case Down(worker):
                lost = self._running.pop(worker, None)
                places = self._places_of(lost[0]) if lost else []
                for place in places:
                    place.running -= 1
                self.tell(Lost(CPU, worker))
                for place in places:
                    self._ledger.free(place)
            case Up(worker):
                self.tell(Ready(CPU, worker))

    def _places_of(self, batch: Batch) -> Sequence[Reservation]:
        """The places of a batch's queries, each once."""
        return [self._ledger.places[i] for i in dict.fromkeys(s.query.id for s in batch.slices)]

    def _fail_all(self, why: str) -> None:
        """Nobody is left to score what is open."""
        for place in self._ledger.open:
            self._ledger.abandon(place, why, f"{place.served.name}: {why}")
            self.tell(Cancel(place.query))
