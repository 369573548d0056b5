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
from deeprecsys.core.events import (
    Command,
    Complete,
    Event,
    Fail,
    Finish,
    Lost,
    Ready,
    Retire,
    Shed,
    Start,
)
from deeprecsys.core.query import Batch, Query
from deeprecsys.node.runtime.mailbox import SliceAddress
from deeprecsys.node.runtime.workers import Down, News, Replied, Up, Workers

HUNG_TIMES = 20.0
"""A worker is suspect when its batch takes this many times what batches of its model took at most so far,
scaled to its items. A worker that a neighbour slows down takes 2 to 5 times as long."""
HUNG_S = 5.0
"""…but not before this many seconds: shorter stalls are the machine's (page faults, a late time slice, more
processes than cores), and a new process would come no sooner."""
FIRST_BATCH_S = 30.0
"""The same for a model of which no batch has ended: the first one may compile."""
HUNG_AGAIN_S = 0.2
"""How long a worker stays suspect before it is replaced. If all of the machine stood still, its reply comes
within that time."""


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


_NONE = (0.0, 0)


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
        lost: workers that died at their posts; hung: those that were replaced since they did not reply.
    """

    def __init__(
        self, dispatcher: Dispatcher, workers: Workers, queries: Queries, recording: Recording | None = None
    ) -> None:
        self.dispatcher, self.workers = dispatcher, workers
        self._queries, self._recording = queries, recording
        self._running: dict[tuple[str, int], tuple[Batch, float]] = {}  # with when it was posted
        self._in_use: list[tuple[int, Callable[[], None]]] = []
        self.origin_s = 0.0
        self.lost = self.hung = 0
        # By device and model version: the longest time of a batch, and its items.
        self._longest: dict[tuple[str, int], tuple[float, int]] = {}
        self._suspects: dict[int, float] = {}  # by batch, since when

    @property
    def running(self) -> bool:
        """Whether a worker has a batch."""
        return bool(self._running)

    def handle(self, event: Event, now_s: float) -> None:
        """Have the dispatcher decide on an event, and carry out what it commands."""
        commands = self.dispatcher.handle(event, now_s)
        if isinstance(event, Retire):
            self._longest = {kind: s for kind, s in self._longest.items() if kind[1] != event.version}
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
                kind = device, batch.slices[0].query.version
                if now_s - posted_s > self._longest.get(kind, _NONE)[0]:
                    self._longest[kind] = now_s - posted_s, batch.items
                if self._recording:
                    self._recording.batches.append((batch, posted_s, started_s, ended_s, now_s))
                self._queries.ran(batch, posted_s, started_s, ended_s, now_s)
                errors = tuple((batch.slices[k].query.id, why) for k, why in reply.errors)
                self.handle(Finish(batch, errors), now_s)
            case Down(device, worker, _, begun, killed):
                self.lost += 1
                self._running.pop((device, worker), None)
                self.handle(Lost(device, worker, begun, killed), now_s)
            case Up(device, worker):
                self.handle(Ready(device, worker), now_s)
        if self._in_use:
            self._give_back()

    def end_hung(self, now_s: float) -> list[News]:
        """End the workers whose batches take far too long; to be called a few times a second.

        Their deaths are news as any other: their batches run again elsewhere.
        """
        late = [
            (key, batch) for key, (batch, posted_s) in self._running.items()
            if now_s - posted_s > HUNG_S and now_s - posted_s > self._patience_s(batch)
        ]  # fmt: skip
        self._suspects = {batch.id: self._suspects.get(batch.id, now_s) for _, batch in late}
        news: list[News] = []
        for (device, worker), batch in late:
            if now_s >= self._suspects[batch.id] + HUNG_AGAIN_S:
                self.hung += 1
                took_s = now_s - self._running[device, worker][1]
                news += self.workers.replace(device, worker, f"no reply to a batch for {took_s:.1f} s")
        return news

    def _patience_s(self, batch: Batch) -> float:
        """How long a batch may take."""
        longest_s, items = self._longest.get((batch.device, batch.slices[0].query.version), _NONE)
        if not items:
            return FIRST_BATCH_S
        # Time grows at most in proportion to the items.
        return max(HUNG_S, HUNG_TIMES * longest_s * max(batch.items / items, 1.0))

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
