"""Admission: a service takes the queries that it can answer in time, and has room for."""

from __future__ import annotations

import time
from itertools import count
from math import nan

from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.events import Refused
from deeprecsys.core.policy import CPU
from deeprecsys.core.query import Query
from deeprecsys.node.runtime.workers import Workers
from deeprecsys.node.service.backend import QueryOutcome, QueryRecord, Reason, RefusedError
from deeprecsys.node.service.hosted_model import UNLOADED, HostedModel, checked_items
from deeprecsys.node.service.open_queries import LATER_S, SOON_S, OpenQueries

PROBE_PRIORITY = -5
"""Before those of clients, which would keep a few probes waiting for as long as workers are busy."""


class Admission:
    """The one place that decides whether a query comes in: asked before its body is read, and again with it.

    Attributes:
        draining: whether no query is taken any more.
    """

    def __init__(self, dispatcher: Dispatcher, workers: Workers, queries: OpenQueries) -> None:
        self._dispatcher, self._workers, self._queries = dispatcher, workers, queries
        self._ids = count()
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether queries are taken."""
        return not self.draining and self._workers.alive[CPU] > 0

    def admit(
        self,
        served: HostedModel,
        items: int,
        arrival_s: float,
        deadline_s: float | None,
        priority: int,
        rows: int,
    ) -> Query:
        """A query that would be taken now. Only one of which the head was read has a known number of items,
        and of the `rows` of memory that it takes.

        Raises:
            RefusedError: it would not; recorded as shed. InputError: it has too many items, or none.
        """
        checked_items(served, items)
        due_s = arrival_s + served.config.target.latency_s if deadline_s is None else deadline_s
        firm = deadline_s is not None
        query = Query(next(self._ids), items, arrival_s, 0, served.current.id, due_s, firm, priority)
        if self.draining:
            raise self._refused(served, query, Reason.DRAINING, "the server is stopping", LATER_S)
        if not self._workers.alive[CPU]:
            why = self._workers.problems.get(CPU, "its workers are being started")
            raise self._refused(served, query, Reason.NOT_READY, f"{served.name}: {why}", LATER_S)
        if not served.current.ready:
            raise self._refused(served, query, Reason.NOT_READY, f"{served.name}: {UNLOADED}", LATER_S)
        late_s = self._dispatcher.late_by_s(query, time.monotonic())
        if late_s > 0 and not self._dispatcher.may_be_late(query, late_s):
            why = f"{served.name}: the query would miss its deadline by {1e3 * late_s:.0f} ms"
            raise self._refused(served, query, Reason.LATE, why, late_s)
        if not served.has_room(rows):
            why = f"{served.name}: {served.open} queries are open, no room for one of {items} items"
            raise self._refused(served, query, Reason.OVERLOAD, why, served.config.target.latency_s)
        return query

    def in_time(self, served: HostedModel) -> bool:
        """Whether a usual query of a model that comes now would be answered in time."""
        now_s, allowed_s = time.monotonic(), served.config.target.latency_s
        items = min(max(round(served.mix.mean_items), 1), served.config.max_items)
        query = Query(-1, items, now_s, 0, served.current.id, now_s + allowed_s)
        return served.readiness.update(self._dispatcher.late_by_s(query, now_s), allowed_s)

    def probe(self, items: int, version: int) -> Query:
        """A query of the service's own, for a version that may not serve yet: it goes first."""
        return Query(next(self._ids), items, time.monotonic(), version=version, priority=PROBE_PRIORITY)

    def _refused(
        self, served: HostedModel, query: Query, reason: Reason, why: str, again_s: float
    ) -> RefusedError:
        if reason in (Reason.LATE, Reason.OVERLOAD):
            self._dispatcher.handle(Refused(query), time.monotonic())
        self._queries.record(
            QueryRecord(
                query.id, served.name, query.size, query.arrival_s, nan, time.monotonic(), 0.0, 0,
                QueryOutcome.SHED, reason,
            )
        )  # fmt: skip
        return RefusedError(reason, why, min(max(again_s, SOON_S), LATER_S))
