"""The queries that a service holds: their places, how they end, and who is notified."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import isnan

from deeprecsys.core.query import Batch, Query
from deeprecsys.core.work import item_at
from deeprecsys.node.runtime.mailbox import SliceAddress, stage_of
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
"""The shortest and the longest time that a refused client is asked to wait before it tries again."""


class Signal(asyncio.Event):
    """An event that is over at once: `wait` waits for the next `announce`."""

    def announce(self) -> None:
        self.set()
        self.clear()


class OpenQueries:
    """The driver's `Queries`.

    Attributes:
        places: by query id, from `reserve` until neither the client's side nor a worker needs them.
        happened: announced when a place is given back.
    """

    def __init__(self, happened: Signal) -> None:
        self.places: dict[int, Reservation] = {}
        self.happened = happened
        self._listeners: list[QueryListener] = []

    def listen(self, listener: QueryListener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def open(self) -> list[Reservation]:
        """Places of queries that wait or run."""
        return [p for p in self.places.values() if p.state is State.OPEN]

    def free(self, place: Reservation) -> None:
        """Give a place back."""
        del self.places[place.id]
        place.served.give(place)
        self.happened.announce()

    # What the driver asks and reports.
    def addresses(self, batch: Batch, now_s: float) -> list[SliceAddress]:
        found = []
        for s in batch.slices:
            place = self.places[s.query.id]
            start, stop = s.start, s.stop
            if place.work is not None:
                start, stop = (item_at(place.work, 0, place.items, at, s.query.size) for at in (start, stop))
            found.append(SliceAddress(place.slot, place.row, start, stop, stage_of(s)))
            place.parts += 1
            if isnan(place.start_s):
                place.start_s = now_s
        return found

    def ran(self, batch: Batch, posted_s: float, started_s: float, ended_s: float, now_s: float) -> None:
        for query_id in {s.query.id for s in batch.slices}:
            self.places[query_id].compute_s += ended_s - started_s
        if self._listeners and not all(self.places[s.query.id].probe for s in batch.slices):
            name, cut = self.places[batch.slices[0].query.id].served.name, len(batch.slices)
            record = BatchRecord(
                name, batch.device, batch.worker, batch.items, cut, posted_s, started_s, ended_s
            )
            for listener in self._listeners:
                listener.batch_ended(record)

    def complete(self, query: Query, now_s: float) -> None:
        place = self.places[query.id]
        self.end(place, QueryOutcome.SERVED, "")
        _resolve(place, None)

    def fail(self, query: Query, reason: str, now_s: float) -> None:
        """A query could not be scored; where its ids are at fault, that is the reason."""
        place = self.places[query.id]
        bad = bad_id(place.served.arena.schema, place.inputs)
        self.end(place, QueryOutcome.FAILED, "bad_input" if bad else reason)
        _resolve(place, UnscoredError(f"{place.served.name}: {bad or reason}", bad is not None))

    def shed(self, query: Query, reason: str, late: bool, now_s: float) -> None:
        self.refuse(self.places[query.id], Reason.LATE if late else Reason.OVERLOAD, reason)

    # Other ways in which queries end.
    def refuse(self, place: Reservation, reason: Reason, why: str) -> None:
        """A query that was taken is not scored after all."""
        self.end(place, QueryOutcome.SHED, reason)
        again_s = LATER_S if reason in (Reason.NOT_READY, Reason.DRAINING) else SOON_S
        _resolve(place, RefusedError(reason, f"{place.served.name}: {why}", again_s))

    def end(self, place: Reservation, outcome: QueryOutcome, reason: str) -> None:
        place.state = State.ENDED
        place.valid = outcome is not QueryOutcome.FAILED
        place.served.open -= 1
        query = place.query
        if place.probe:
            return
        self.record(
            QueryRecord(
                query.id, place.served.name, place.items, query.arrival_s, place.start_s, time.monotonic(),
                place.compute_s, place.parts, outcome, reason,
            )
        )  # fmt: skip

    # Listeners.
    def record(self, record: QueryRecord) -> None:
        for listener in self._listeners:
            listener.query_ended(record)

    def point_changed(self, model: str, point: OperatingPoint) -> None:
        for listener in self._listeners:
            listener.point_changed(model, point)


def _resolve(place: Reservation, error: Exception | None) -> None:
    """Wake the task that awaits the answer."""
    answer = place.answer
    if answer is None or answer.done():
        return
    if error:
        answer.set_exception(error)
    else:
        answer.set_result(None)
