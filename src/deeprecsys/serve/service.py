"""The live service: the dispatcher on an asyncio loop, over worker processes that hold every model.

It is `serve.backend.Backend`. Everything runs on one loop, and nothing blocks it: news of workers come
through descriptors that the loop watches, time through its timers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import inf, isnan, nan
from typing import Any

from numpy.typing import NDArray

from deeprecsys.core.dispatcher import (
    Adopt,
    Arrive,
    Cancel,
    Complete,
    Dispatcher,
    Event,
    Fail,
    Finish,
    Limits,
    Lost,
    Ready,
    Retire,
    Shed,
    Start,
    Tick,
)
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.policy import CPU, Policy
from deeprecsys.core.query import Batch, Query
from deeprecsys.node.mailbox import MAX_SLICES, Part
from deeprecsys.node.processes import Down, News, Replied, Up
from deeprecsys.serve.arena import EditionSpec, Weights, load_tables
from deeprecsys.serve.backend import (
    BatchRecord,
    Listener,
    OperatingPoint,
    Outcome,
    QueryRecord,
    Reason,
    RefusedError,
    Seat,
    ServedModel,
    UnscoredError,
)
from deeprecsys.serve.crew import Crew
from deeprecsys.serve.served import (
    Edition,
    ModelConfig,
    Place,
    Served,
    State,
    bad_id,
    checked_items,
    point_of,
)

log = logging.getLogger("deeprecsys.serve")

START_TIMEOUT_S = 120.0
RETRY_S = 30.0
"""How long after workers could not start it is tried once more."""
SOON_S, LATER_S = 0.05, 10.0
"""The shortest and the longest time that a client is asked to wait before it comes again."""


@dataclass(frozen=True)
class ServiceConfig:
    """A service, before it is started.

    Attributes:
        models: to be served. cores: that each worker is pinned to; its length is their number.
        threads: compute threads per worker; spares: started workers that stand by.
    """

    models: tuple[ModelConfig, ...]
    cores: tuple[list[int], ...]
    threads: int = 1
    spares: int = 1


class Service:
    """Scores queries of several models on one event loop. Start it by `await Service.start(…)`."""

    def __init__(self, config: ServiceConfig, served: Mapping[str, Served]) -> None:
        self.config = config
        self._served = served
        self._loop = asyncio.get_running_loop()
        self._ids, self._edition_ids = count(), count(len(served))
        first = next(iter(served.values()))
        queries = sum(len(s.slots) for s in served.values())
        limits = Limits(queries=queries, items=1 << 40, slices=MAX_SLICES)
        self._dispatcher = Dispatcher(first.policy, {CPU: len(config.cores)}, limits)
        for s in served.values():
            self._dispatcher.handle(Adopt(s.current.id, s.policy, s.forecast), 0.0)
        self._crew = Crew(config.cores, self._specs, config.threads, config.spares)
        self._places: dict[int, Place] = {}
        self._running: dict[int, tuple[Batch, float]] = {}  # worker -> batch, when it was posted
        self._listeners: list[Listener] = []
        self._draining = False
        self._happened = asyncio.Event()
        self._wake: asyncio.TimerHandle | None = None
        self._wake_s = inf
        self._retry: asyncio.TimerHandle | None = None
        self._swapping = asyncio.Lock()
        self._closed = False

    @classmethod
    async def start(
        cls, config: ServiceConfig, progress: Callable[[str, float], None] | None = None
    ) -> Service:
        """A service whose tables are filled and whose workers are ready.

        Raises:
            InputError: tables that do not fit, or an engine that refuses its arguments.
            NodeError: a worker cannot start.
        """
        say = progress or (lambda _what, _share: None)
        served: dict[str, Served] = {}
        try:
            for i, m in enumerate(config.models):
                served[m.name] = await asyncio.to_thread(
                    Served.create, m, i, len(config.cores), time.monotonic(), say
                )
            service = cls(config, served)
        except BaseException:
            for s in served.values():
                s.close()
            raise
        try:
            await service._begin(say)
        except BaseException:
            service.close()
            raise
        return service

    async def _begin(self, say: Callable[[str, float], None]) -> None:
        for fd in self._crew.listen:
            self._loop.add_reader(fd, self._on_news)
        self._crew.begin()
        async with asyncio.timeout(START_TIMEOUT_S):
            while self._crew.alive < len(self._crew) and not self._crew.problem:
                say("starting workers", self._crew.alive / len(self._crew))
                await self._change()
        if problem := self._crew.problem:
            _, _, refusal = problem.partition("InputError: ")
            raise InputError(refusal) if refusal else NodeError(problem)

    # What the network face asks.
    @property
    def models(self) -> Mapping[str, ServedModel]:
        ready = self._ready
        return {name: s.describe(ready) for name, s in self._served.items()}

    @property
    def ready(self) -> bool:
        return self._ready and not self._crew.problem

    @property
    def _ready(self) -> bool:
        """Whether queries are taken."""
        return not self._draining and self._crew.alive > 0

    @property
    def problem(self) -> str:
        """Why workers are missing that cannot be started; empty when all is well."""
        return self._crew.problem

    @property
    def workers(self) -> Mapping[str, int]:
        return {CPU: self._crew.alive}

    @property
    def worker_pids(self) -> list[int]:
        """The processes that score."""
        return self._crew.pids

    def waiting(self, model: str) -> tuple[int, int]:
        s = self._served[model]
        return s.open, sum(self._dispatcher.line_items(e.id) for e in s.editions)

    def point(self, model: str) -> OperatingPoint:
        return self._served[model].point

    def admit(self, model: str, items: int, *, arrival_s: float, deadline_s: float | None = None) -> None:
        self._admitted(self._served[model], items, arrival_s, deadline_s, 0)

    def reserve(
        self, model: str, items: int, *, arrival_s: float, deadline_s: float | None = None, priority: int = 0
    ) -> Place:
        served = self._served[model]
        query = self._admitted(served, items, arrival_s, deadline_s, priority)
        served.offered.append((arrival_s, items))
        row, slot = served.take(items)
        inputs = served.arena.seat(row, slot, items)
        place = Place(query._replace(features=row), served, served.current, row, slot, inputs)
        self._places[place.id] = place
        return place

    def _admitted(
        self, served: Served, items: int, arrival_s: float, deadline_s: float | None, priority: int
    ) -> Query:
        """A query that would be taken now.

        Raises:
            RefusedError: it would not; recorded as shed. InputError: it has too many items, or none.
        """
        checked_items(served, items)
        due_s = arrival_s + served.config.target.latency_s if deadline_s is None else deadline_s
        firm, edition = deadline_s is not None, served.current
        query = Query(next(self._ids), items, arrival_s, 0, edition.id, due_s, firm, priority)
        if self._draining:
            raise self._refused(served, query, Reason.DRAINING, "the server is stopping", LATER_S)
        if not self._crew.alive:
            why = self._crew.problem or "its workers are being started"
            raise self._refused(served, query, Reason.NOT_READY, f"{served.name}: {why}", LATER_S)
        late_s = self._dispatcher.late_by_s(query, time.monotonic())
        if late_s > 0 and not self._dispatcher.may_be_late(query):
            why = f"{served.name}: the query would miss its deadline by {1e3 * late_s:.0f} ms"
            raise self._refused(served, query, Reason.LATE, why, late_s)
        if not served.has_room(items):
            why = f"{served.name}: {served.open} queries are open, no room for one of {items} items"
            raise self._refused(served, query, Reason.OVERLOAD, why, served.config.target.latency_s)
        return query

    def _refused(
        self, served: Served, query: Query, reason: Reason, why: str, again_s: float
    ) -> RefusedError:
        now = time.monotonic()
        served.offered.append((query.arrival_s, query.size))
        self._record(
            QueryRecord(
                query.id, served.name, query.size, query.arrival_s, nan, now, 0.0, 0, Outcome.SHED, reason
            )
        )
        return RefusedError(reason, why, min(max(again_s, SOON_S), LATER_S))

    async def score(self, seat: Seat) -> NDArray[Any]:
        place = self._places.get(seat.id)
        if place is None or place.state is not State.RESERVED:
            raise ValueError(f"seat {seat.id}: expected one that was neither scored nor released")
        answer = place.answer = self._loop.create_future()
        place.state = State.OPEN
        place.served.open += 1
        timer, query = None, place.query
        if query.firm:
            timer = self._loop.call_later(max(query.deadline_s - time.monotonic(), 0), self._late, place)
        self._tell(Arrive(query))
        try:
            await answer
        except asyncio.CancelledError:
            if place.state is State.OPEN:
                self._end(place, Outcome.CANCELLED, "cancelled")
                self._tell(Cancel(query))
            raise
        finally:
            if timer:
                timer.cancel()
        return place.scores

    def _late(self, place: Place) -> None:
        """A firm deadline has passed: what has not been begun of the query is dropped."""
        if place.state is State.OPEN:
            self._refuse_open(place, Reason.LATE, "the query's deadline has passed")
            self._tell(Cancel(place.query))

    def release(self, seat: Seat) -> None:
        place = self._places.get(seat.id)
        if place is None:
            return  # released before
        if place.state is State.OPEN:
            self._end(place, Outcome.CANCELLED, "released")
            self._tell(Cancel(place.query))
        place.state = State.ENDED
        place.released = True
        self._free(place)

    def _free(self, place: Place) -> None:
        """Give a place back once nobody needs it: not the face, and no worker."""
        if place.released and not place.running and place.id in self._places:
            del self._places[place.id]
            place.served.give(place)
            if self._draining or not place.edition.seats:
                self._announce()

    def listen(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # The dispatcher and its workers.
    def _specs(self) -> Sequence[EditionSpec]:
        return [s.spec(e) for s in self._served.values() for e in s.editions]

    def _on_news(self) -> None:
        for news in self._crew.news():
            self._hear(news)
        if self._crew.problem and self._retry is None:
            self._retry = self._loop.call_later(RETRY_S, self._try_again)
            if not self._crew.alive:
                self._fail_all(self._crew.problem)
        self._announce()

    def _try_again(self) -> None:
        self._retry = None
        self._crew.retry()
        for news in self._crew.reconcile():
            self._hear(news)

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
                self._tell(Finish(batch, errors))
                for place in places:
                    self._free(place)
                self._tell_listeners_of(batch, places, worker, posted_s, started_s, ended_s)
            case Down(worker):
                lost = self._running.pop(worker, None)
                places = self._places_of(lost[0]) if lost else []
                for place in places:
                    place.running -= 1
                self._tell(Lost(CPU, worker))
                for place in places:
                    self._free(place)
            case Up(worker):
                self._tell(Ready(CPU, worker))

    def _places_of(self, batch: Batch) -> list[Place]:
        """The places of a batch's queries, each once."""
        return [self._places[i] for i in dict.fromkeys(s.query.id for s in batch.slices)]

    def _tell_listeners_of(
        self,
        batch: Batch,
        places: Sequence[Place],
        worker: int,
        posted_s: float,
        start_s: float,
        end_s: float,
    ) -> None:
        if self._listeners:
            record = BatchRecord(
                places[0].served.name, worker, batch.items, len(batch.slices), posted_s, start_s, end_s
            )
            for listener in self._listeners:
                listener.batch_ended(record)

    def _tell(self, event: Event) -> None:
        now = time.monotonic()
        for command in self._dispatcher.handle(event, now):
            match command:
                case Start(batch):
                    self._post(batch, now)
                case Complete(query):
                    place = self._places[query.id]
                    self._end(place, Outcome.SERVED, "")
                    _resolve(place, None)
                case Fail(query, reason):
                    self._failed(self._places[query.id], reason)
                case Shed(query, why, late):
                    reason = Reason.LATE if late else Reason.OVERLOAD
                    self._refuse_open(self._places[query.id], reason, why)
        self._set_timer(now)

    def _post(self, batch: Batch, now: float) -> None:
        parts = []
        for s in batch.slices:
            place = self._places[s.query.id]
            parts.append(Part(place.slot, place.row, s.start, s.stop))
            place.parts += 1
            if isnan(place.start_s):
                place.start_s = now
        for place in self._places_of(batch):
            place.running += 1
        self._running[batch.worker] = (batch, now)
        self._crew.post(batch.worker, parts, batch.slices[0].query.model)

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
            self._tell(Tick())

    # How queries end.
    def _failed(self, place: Place, reason: str) -> None:
        bad = bad_id(place.served.arena.schema, place.inputs)
        self._end(place, Outcome.FAILED, bad or reason)
        _resolve(place, UnscoredError(f"{place.served.name}: {bad or reason}", bad is not None))

    def _refuse_open(self, place: Place, reason: Reason, why: str) -> None:
        self._end(place, Outcome.SHED, reason)
        _resolve(place, RefusedError(reason, f"{place.served.name}: {why}", SOON_S))

    def _fail_all(self, why: str) -> None:
        """Nobody is left to score what is open."""
        for place in [p for p in self._places.values() if p.state is State.OPEN]:
            self._end(place, Outcome.FAILED, why)
            self._tell(Cancel(place.query))
            _resolve(place, UnscoredError(f"{place.served.name}: {why}", bad_input=False))

    def _end(self, place: Place, outcome: Outcome, reason: str) -> None:
        place.state = State.ENDED
        place.served.open -= 1
        query = place.query
        self._record(
            QueryRecord(
                query.id, place.served.name, query.size, query.arrival_s, place.start_s, time.monotonic(),
                place.compute_s, place.parts, outcome, reason,
            )
        )  # fmt: skip

    def _record(self, record: QueryRecord) -> None:
        for listener in self._listeners:
            listener.query_ended(record)

    # What is changed while it runs.
    def adopt(self, model: str, policy: Policy, why: str, capacity_qps: float | None = None) -> None:
        """Serve a model under another policy from now on; no query is lost."""
        s = self._served[model]
        changed = policy != s.policy
        s.policy = policy
        s.point = point_of(policy, capacity_qps, time.monotonic(), why, s.point.pinned)
        if changed:
            for edition in s.editions:
                self._tell(Adopt(edition.id, policy))
        log.info("operating point of %s: %s (%s)", model, policy.describe(), why)
        for listener in self._listeners:
            listener.point_changed(model, s.point)

    def estimate(self, model: str, capacity_qps: float) -> None:
        """Another estimate of what a model's policy carries, as its mix of sizes is another."""
        s = self._served[model]
        s.point = replace(s.point, capacity_qps=capacity_qps)

    def pin(self, model: str, pinned: bool = True) -> None:
        """Have live retuning leave a model's policy alone, or no longer."""
        s = self._served[model]
        s.point = replace(s.point, pinned=pinned)

    @property
    def retunable(self) -> list[Served]:
        """The models whose policy live retuning may change."""
        return [s for s in self._served.values() if s.config.split and not s.point.pinned]

    async def swap(self, model: str, version: str, weights: Weights) -> None:
        """Serve other weights. Queries that are here by then are answered by the old ones, none is lost.

        Raises:
            InputError: the new tables do not fit in memory beside the old ones.
            NodeError: workers cannot start with them; the old weights stay.
        """
        s = self._served[model]
        async with self._swapping:
            tables = await asyncio.to_thread(load_tables, s.arena.plan, weights, lambda _what, _share: None)
            new = Edition(next(self._edition_ids), version, weights, tables)
            s.editions.append(new)
            self._crew.renew()
            self._reconcile()
            while not self._crew.renewed and not self._crew.problem:
                await self._change()
            if problem := self._crew.problem:
                s.editions.remove(new)
                self._crew.keep()
                self._reconcile()
                tables.close()
                raise NodeError(f"{model} version {version}: {problem}; version {s.current.version} stays")
            self._tell(Adopt(new.id, s.policy, s.forecast))
            old, s.current = s.current, new
            log.info("%s: version %s serves, after version %s", model, version, old.version)
            while old.seats:
                await self._change()
            self._tell(Retire(old.id))
            s.editions.remove(old)
            self._crew.drop(old.id)
            old.tables.close()

    def _announce(self) -> None:
        """Let those who wait for a change look again."""
        self._happened.set()
        self._happened = asyncio.Event()

    async def _change(self) -> None:
        await self._happened.wait()

    def _reconcile(self) -> None:
        for news in self._crew.reconcile():
            self._hear(news)

    async def drain(self, timeout_s: float = 30.0) -> bool:
        """Take no new query and answer those that are here; returns whether all were, within the time."""
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._places:
                    await self._change()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End the workers and give the memory back. What is still open fails."""
        if self._closed:
            return
        self._closed = self._draining = True
        for fd in self._crew.listen:
            self._loop.remove_reader(fd)
        for timer in (self._wake, self._retry):
            if timer:
                timer.cancel()
        for place in [p for p in self._places.values() if p.state is State.OPEN]:
            self._end(place, Outcome.FAILED, "stopped")
            _resolve(place, UnscoredError("the server has stopped", bad_input=False))
        self._crew.close()
        for s in self._served.values():
            s.close()


def _resolve(place: Place, error: Exception | None) -> None:
    """Let whoever awaits the answer go on."""
    answer = place.answer
    if answer is None or answer.done():
        return
    if error:
        answer.set_exception(error)
    else:
        answer.set_result(None)
