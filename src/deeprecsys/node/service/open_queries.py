"""The queries that a service holds: their places, how they end, and who hears of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from deeprecsys.node.service.backend import (
    BatchRecord,
    OperatingPoint,
    QueryListener,
    QueryOutcome,
    QueryRecord,
    Reason,
    RefusedError,
    UnscoredError,
)
from deeprecsys.node.service.hosted_model import Reservation, State, bad_id

SOON_S, LATER_S = 0.05, 10.0
"""The shortest and the longest time that a client is asked to wait before it comes again."""


class Signal:
    """Lets those who wait for a change look again."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None

    def announce(self) -> None:
        if self._event is not None:  # somebody waits
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        if self._event is None:
            self._event = asyncio.Event()
        await self._event.wait()


class OpenQueries:
    """Attributes:
    places: of queries, from `reserve` until neither the face nor a worker needs them.
    happened: announced when the last place of all, or of an edition, is given back.
    """

    def __init__(self, happened: Signal) -> None:
        self.places: dict[int, Reservation] = {}
        self.happened = happened
        self._listeners: list[QueryListener] = []

    def listen(self, listener: QueryListener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    @property
    def open(self) -> list[Reservation]:
        """Places of queries that wait or run."""
        return [p for p in self.places.values() if p.state is State.OPEN]

    def free(self, place: Reservation) -> None:
        """Give a place back once nobody needs it: not the face, and no worker."""
        if place.released and not place.running and place.id in self.places:
            del self.places[place.id]
            place.served.give(place)
            if not self.places or not place.edition.seats:
                self.happened.announce()

    # How queries end.
    def complete(self, place: Reservation) -> None:
        self.end(place, QueryOutcome.SERVED, "")
        _resolve(place, None)

    def fail(self, place: Reservation, reason: str) -> None:
        """A query could not be scored; where its ids are at fault, that is the reason."""
        bad = bad_id(place.served.arena.schema, place.inputs)
        self.end(place, QueryOutcome.FAILED, bad or reason)
        _resolve(place, UnscoredError(f"{place.served.name}: {bad or reason}", bad is not None))

    def abandon(self, place: Reservation, reason: str, why: str) -> None:
        """Nobody is left to score a query."""
        self.end(place, QueryOutcome.FAILED, reason)
        _resolve(place, UnscoredError(why, bad_input=False))

    def refuse(self, place: Reservation, reason: Reason, why: str) -> None:
        """A query that was taken is not scored after all."""
        self.end(place, QueryOutcome.SHED, reason)
        _resolve(place, RefusedError(reason, f"{place.served.name}: {why}", SOON_S))

    def end(self, place: Reservation, outcome: QueryOutcome, reason: str) -> None:
        place.state = State.ENDED
        place.served.open -= 1
        query = place.query
        self.record(
            QueryRecord(
                query.id, place.served.name, query.size, query.arrival_s, place.start_s, time.monotonic(),
                place.compute_s, place.parts, outcome, reason,
            )
        )  # fmt: skip

    # Who hears of it.
    def record(self, record: QueryRecord) -> None:
        for listener in self._listeners:
            listener.query_ended(record)

    def batch_ended(self, record: BatchRecord) -> None:
        for listener in self._listeners:
            listener.batch_ended(record)

    def point_changed(self, model: str, point: OperatingPoint) -> None:
        for listener in self._listeners:
            listener.point_changed(model, point)


def _resolve(place: Reservation, error: Exception | None) -> None:
    """Let whoever awaits the answer go on."""
    answer = place.answer
    if answer is None or answer.done():
        return
    if error:
        answer.set_exception(error)
    else:
        answer.set_result(None)
