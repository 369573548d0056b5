"""The live service: the dispatcher on an asyncio loop, over worker processes that hold every model.

It is `serve.backend.Backend`, put together from who takes queries (`admission`), who keeps them (`ledger`),
who has them scored (`driver`, `crew`), and who brings new weights (`renewal`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from deeprecsys.core.dispatcher import Adopt, Arrive, Cancel, Dispatcher, Limits
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.policy import CPU, Policy
from deeprecsys.node.runtime.mailbox import MAX_SLICES
from deeprecsys.node.service.admission import Admission
from deeprecsys.node.service.arena import VersionSpec, Weights
from deeprecsys.node.service.backend import (
    OperatingPoint,
    QueryListener,
    QueryOutcome,
    Reason,
    Seat,
    ServedModel,
)
from deeprecsys.node.service.crew import Crew
from deeprecsys.node.service.driver import Driver
from deeprecsys.node.service.hosted_model import HostedModel, ModelConfig, Reservation, State, point_of
from deeprecsys.node.service.open_queries import OpenQueries, Signal
from deeprecsys.node.service.weight_swap import WeightSwap

log = logging.getLogger("deeprecsys.serve")

START_TIMEOUT_S = 120.0


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

    def __init__(self, config: ServiceConfig, served: Mapping[str, HostedModel]) -> None:
        self.config = config
        self._served = served
        first = next(iter(served.values()))
        queries = sum(len(s.slots) for s in served.values())
        limits = Limits(queries=queries, items=1 << 40, slices=MAX_SLICES)
        self._dispatcher = Dispatcher(first.policy, {CPU: len(config.cores)}, limits)
        for s in served.values():
            self._dispatcher.handle(Adopt(s.current.id, s.policy, s.forecast), 0.0)
        self._crew = Crew(config.cores, self._specs, config.threads, config.spares)
        self._happened = Signal()
        self._ledger = OpenQueries(self._happened)
        self._admission = Admission(self._dispatcher, self._crew, self._ledger)
        self._driver = Driver(self._dispatcher, self._crew, self._ledger)
        self._renewal = WeightSwap(self._crew, self._driver, self._happened, len(served))
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
        served: dict[str, HostedModel] = {}
        try:
            for i, m in enumerate(config.models):
                served[m.name] = await asyncio.to_thread(
                    HostedModel.create, m, i, len(config.cores), time.monotonic(), say
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
        self._driver.begin()
        async with asyncio.timeout(START_TIMEOUT_S):
            while self._crew.alive < len(self._crew) and not self._crew.problem:
                say("starting workers", self._crew.alive / len(self._crew))
                await self._happened.wait()
        if problem := self._crew.problem:
            _, _, refusal = problem.partition("InputError: ")
            raise InputError(refusal) if refusal else NodeError(problem)

    # What the network face asks.
    @property
    def models(self) -> Mapping[str, ServedModel]:
        ready = self._admission.ready
        return {name: s.describe(ready) for name, s in self._served.items()}

    @property
    def ready(self) -> bool:
        return self._admission.ready and not self._crew.problem

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
        self._admission.admit(self._served[model], items, arrival_s, deadline_s, 0)

    def reserve(
        self, model: str, items: int, *, arrival_s: float, deadline_s: float | None = None, priority: int = 0
    ) -> Reservation:
        served = self._served[model]
        query = self._admission.admit(served, items, arrival_s, deadline_s, priority)
        served.offered.append((arrival_s, items))
        row, slot = served.take(items)
        place = Reservation(query._replace(features=row), served, served.current, row, slot)
        self._ledger.places[place.id] = place
        return place

    async def score(self, seat: Seat) -> NDArray[Any]:
        place = self._ledger.places.get(seat.id)
        if place is None or place.state is not State.RESERVED:
            raise ValueError(f"seat {seat.id}: expected one that was neither scored nor released")
        loop = asyncio.get_running_loop()
        answer = place.answer = loop.create_future()
        place.state = State.OPEN
        place.served.open += 1
        timer, query = None, place.query
        if query.firm:
            timer = loop.call_later(max(query.deadline_s - time.monotonic(), 0), self._late, place)
        self._driver.tell(Arrive(query))
        try:
            await answer
        except asyncio.CancelledError:
            if place.state is State.OPEN:
                self._cancel(place, "cancelled")
            raise
        finally:
            if timer:
                timer.cancel()
        return place.scores

    def _late(self, place: Reservation) -> None:
        """A firm deadline has passed: what has not been begun of the query is dropped."""
        if place.state is State.OPEN:
            self._ledger.refuse(place, Reason.LATE, "the query's deadline has passed")
            self._driver.tell(Cancel(place.query))

    def _cancel(self, place: Reservation, why: str) -> None:
        self._ledger.end(place, QueryOutcome.CANCELLED, why)
        self._driver.tell(Cancel(place.query))

    def release(self, seat: Seat) -> None:
        place = self._ledger.places.get(seat.id)
        if place is None:
            return  # released before
        if place.state is State.OPEN:
            self._cancel(place, "released")
        place.state = State.ENDED
        place.released = True
        self._ledger.free(place)

    def listen(self, listener: QueryListener) -> Callable[[], None]:
        return self._ledger.listen(listener)

    # What is changed while it runs.
    def adopt(self, model: str, policy: Policy, why: str, capacity_qps: float | None = None) -> None:
        """Serve a model under another policy from now on; no query is lost."""
        s = self._served[model]
        changed = policy != s.policy
        s.policy = policy
        s.point = point_of(policy, capacity_qps, time.monotonic(), why, s.point.pinned)
        if changed:
            for edition in s.editions:
                self._driver.tell(Adopt(edition.id, policy))
        log.info("operating point of %s: %s (%s)", model, policy.describe(), why)
        self._ledger.point_changed(model, s.point)

    def estimate(self, model: str, capacity_qps: float) -> None:
        """Another estimate of what a model's policy carries, as its mix of sizes is another."""
        s = self._served[model]
        s.point = replace(s.point, capacity_qps=capacity_qps)

    def pin(self, model: str, pinned: bool = True) -> None:
        """Have live retuning leave a model's policy alone, or no longer."""
        s = self._served[model]
        s.point = replace(s.point, pinned=pinned)

    @property
    def retunable(self) -> list[HostedModel]:
        """The models whose policy live retuning may change."""
        return [s for s in self._served.values() if s.config.split and not s.point.pinned]

    async def swap(self, model: str, version: str, weights: Weights) -> None:
        """Serve other weights. Queries that are here by then are answered by the old ones, none is lost.

        Raises:
            InputError: the new tables do not fit in memory beside the old ones, or nobody writes them.
            NodeError: workers cannot start with them; the old weights stay.
        """
        await self._renewal.swap(self._served[model], version, weights)

    def _specs(self) -> Sequence[VersionSpec]:
        return [s.spec(e) for s in self._served.values() for e in s.editions]

    # How it ends.
    async def drain(self, timeout_s: float = 30.0) -> bool:
        """Take no new query and answer those that are here; returns whether all were, within the time."""
        self._admission.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._ledger.places:
                    await self._happened.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End the workers and give the memory back. What is still open fails."""
        if self._closed:
            return
        self._closed = self._admission.draining = True
        self._driver.close()
        for place in self._ledger.open:
            self._ledger.abandon(place, "stopped", "the server has stopped")
        self._crew.close()
        for s in self._served.values():
            s.close()
