"""The driver of the dispatcher: events go in, batches go to workers, and what workers report comes back.

There is one for trials and for a service. The caller owns time: it passes `now`, hands over the news of
workers, and sends a `Tick` at the dispatcher's `wake_s`. A trial does so in a loop that polls, a service by
readers and timers of an event loop. The queries, and where their rows lie, are the caller's (`Queries`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.events import Command, Complete, Event, Fail, Finish, Lost, Ready, Shed, Start
from deeprecsys.core.query import Batch, Query
from deeprecsys.node.runtime.mailbox import SliceAddress
from deeprecsys.node.runtime.workers import Down, News, Replied, Up, Workers


@dataclass(slots=True)
class Recording:
    """What a driver kept of a run: every event with its time, and every batch's times."""

    events: list[tuple[float, Event]] = field(default_factory=list)
    commands: list[list[Command]] = field(default_factory=list)
    batches: list[tuple[Batch, float, float, float, float]] = field(default_factory=list)
    """Batch; when it was posted, started and ended by the worker, and when its reply was received; in the
    order of the last."""

    @property
    def numbered(self) -> list[tuple[Batch, float, float, float, float]]:
        """`batches` by number, which is the order in which they were posted."""
        return sorted(self.batches, key=lambda b: b[0].id)


class Queries(Protocol):
    """The queries of a driver: where they lie in memory, and what becomes of them."""

    def addresses(self, batch: Batch, now_s: float) -> Sequence[SliceAddress]:
        """Where the slices of a batch lie that is posted now."""

    def ran(self, batch: Batch, posted_s: float, started_s: float, ended_s: float, now_s: float) -> None:
        """A worker ran a batch; called before what follows for its queries."""

    def complete(self, query: Query, now_s: float) -> None:
        """All of a query is scored."""

    def fail(self, query: Query, reason: str, now_s: float) -> None:
        """A query cannot be answered; other slices of it may still be running."""

    def shed(self, query: Query, reason: str, late: bool, now_s: float) -> None:
        """A query was refused; if `late`, slices of it may still be running."""


class Driver:
    """Moves a dispatcher and the workers of a node.

    Args:
        recording: filled with every event, command and batch.

    Attributes:
        origin_s: 0 of the driver's times, on the monotonic clock.
        lost: workers that died at their posts.
    """

    def __init__(
        self, dispatcher: Dispatcher, workers: Workers, queries: Queries, recording: Recording | None = None
    ) -> None:
        self.dispatcher, self.workers = dispatcher, workers
        self._queries, self._recording = queries, recording
        self._running: dict[tuple[str, int], tuple[Batch, float]] = {}  # with when it was posted
        self._in_use: list[tuple[int, Callable[[], None]]] = []
        self.origin_s = 0.0
        self.lost = 0

    @property
    def running(self) -> bool:
        """Whether a worker has a batch."""
        return bool(self._running)

    def handle(self, event: Event, now_s: float) -> None:
        """Have the dispatcher decide on an event, and carry out what it commands."""
        commands = self.dispatcher.handle(event, now_s)
        if self._recording:
            self._recording.events.append((now_s, event))
            self._recording.commands.append(commands)
        queries = self._queries
        for command in commands:
            match command:
                case Start(batch):
                    addresses = queries.addresses(batch, now_s)
                    self._running[batch.device, batch.worker] = (batch, now_s)
                    version = batch.slices[0].query.version
                    self.workers.post(batch.device, batch.worker, addresses, version)
                case Complete(query):
                    queries.complete(query, now_s)
                case Shed(query, reason, late):
                    queries.shed(query, reason, late, now_s)
                case Fail(query, reason):
                    queries.fail(query, reason, now_s)

    def receive(self, news: News, now_s: float) -> None:
        """Turn what a worker reports into events."""
        match news:
            case Replied(device, worker, reply):
                batch, posted_s = self._running.pop((device, worker))
                started_s = reply.started_ns * 1e-9 - self.origin_s
                ended_s = reply.ended_ns * 1e-9 - self.origin_s
                if self._recording:
                    self._recording.batches.append((batch, posted_s, started_s, ended_s, now_s))
                self._queries.ran(batch, posted_s, started_s, ended_s, now_s)
                errors = tuple((batch.slices[k].query.id, why) for k, why in reply.errors)
                self.handle(Finish(batch, errors), now_s)
            case Down(device, worker, _, begun):
                self.lost += 1
                self._running.pop((device, worker), None)
                self.handle(Lost(device, worker, begun), now_s)
            case Up(device, worker):
                self.handle(Ready(device, worker), now_s)
        if self._in_use:
            self._give_back()

    def settle(self, news: Iterable[News]) -> None:
        """Let batches end without telling the dispatcher: their queries are given up."""
        for one in news:
            if not isinstance(one, Up):
                self._running.pop((one.device, one.worker), None)

    def when_unused(self, query_id: int, give_back: Callable[[], None]) -> None:
        """Call `give_back` once no worker reads or writes the rows of a query that has ended."""
        if query_id in self._used():
            self._in_use.append((query_id, give_back))
        else:
            give_back()

    def _used(self) -> set[int]:
        """The queries of running batches."""
        return {s.query.id for batch, _ in self._running.values() for s in batch.slices}

    def _give_back(self) -> None:
        used, ended = self._used(), self._in_use
        self._in_use = [e for e in ended if e[0] in used]
        for query_id, give_back in ended:
            if query_id not in used:
                give_back()
