"""The live service: the dispatcher on an asyncio loop, over worker processes that hold every model.

It implements `backend.Backend` and is put together from `admission`, the `open_queries`, the `driver` on its
event loop, the worker processes (`runtime.workers`) and the `weight_swap`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.allowance import Allowance
from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.events import Adopt, Arrive, Cancel
from deeprecsys.core.headroom import HeadroomMeter
from deeprecsys.core.policy import CPU, GPU, Policy
from deeprecsys.engine.isa import DEFAULT, environment
from deeprecsys.node.runtime.cores import usable_cores
from deeprecsys.node.runtime.layout import VersionSpec
from deeprecsys.node.runtime.mailbox import MAX_SLICES
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.runtime.workers import Workers
from deeprecsys.node.service.admission import Admission
from deeprecsys.node.service.backend import (
    NO_IDS,
    LateAnswers,
    NodeLoad,
    OperatingPoint,
    QueryListener,
    QueryOutcome,
    Reason,
    RefusedError,
    Seat,
    ServedModel,
    UnscoredError,
)
from deeprecsys.node.service.driver import EventLoopDriver
from deeprecsys.node.service.hosted_model import (
    HostedModel,
    ModelConfig,
    ModelVersion,
    Reservation,
    State,
    point_of,
)
from deeprecsys.node.service.loading import in_thread
from deeprecsys.node.service.open_queries import OpenQueries, Signal
from deeprecsys.node.service.probe import Inputs, Probed
from deeprecsys.node.service.row_updates import NewRows, RowUpdates
from deeprecsys.node.service.weight_swap import WeightSwap
from deeprecsys.zoo.jagged import Ids
from deeprecsys.zoo.schema import Per

log = logging.getLogger("deeprecsys.serve")

PROGRESS_S = 1.0
"""Seconds between two reports of how many workers have started."""


@dataclass(frozen=True)
class ServiceConfig:
    """A service, before it is started.

    Attributes:
        models: to be served; cores: those of each worker, one entry per worker.
        threads: compute threads per worker; spares: started workers that stand by for the CPU's.
        gpus: accelerators, each with a process of its own, for the models that have an engine for them.
        isa: instructions that the workers' libraries are held to (`engine.isa`).
    """

    models: tuple[ModelConfig, ...]
    cores: tuple[list[int], ...]
    threads: int = 1
    spares: int = 1
    gpus: int = 0
    isa: str = DEFAULT

    def __post_init__(self) -> None:
        if bool(self.gpus) != any(m.gpu for m in self.models):
            raise InputError(
                f"gpus: expected accelerators exactly where a model has an engine for them, got {self.gpus}"
            )

    @property
    def devices(self) -> dict[str, Sequence[list[int]]]:
        """The cores of each worker, by device. An accelerator's process mostly waits: any core will do."""
        return {CPU: self.cores} | ({GPU: [usable_cores()] * self.gpus} if self.gpus else {})


class Service:
    """Scores queries of several models on one event loop. Start it by `await Service.start(…)`."""

    def __init__(self, config: ServiceConfig, served: Mapping[str, HostedModel]) -> None:
        self.config = config
        self._served = served
        first = next(iter(served.values()))
        queries = sum(len(s.slots) for s in served.values())
        limits = Limits(queries=queries, items=1 << 40, slices=MAX_SLICES)
        self._dispatcher = Dispatcher(first.policy, {d: len(c) for d, c in config.devices.items()}, limits)
        for s in served.values():
            self._dispatcher.handle(Adopt(s.current.id, s.policy, s.forecast), 0.0)
        self._workers = Workers(
            config.devices,
            self._versions,
            config.threads,
            spares=config.spares,
            environment=environment(config.isa),
        )
        self._happened = Signal()
        self._queries = OpenQueries(self._happened)
        self._admission = Admission(self._dispatcher, self._workers, self._queries)
        self._driver = EventLoopDriver(self._dispatcher, self._workers, self._queries)
        self._weight_swap = WeightSwap(
            self._dispatcher, self._workers, self._driver, self._happened, len(served), self._probe
        )
        self._headroom = HeadroomMeter([s.load for s in self.hosted])
        self._rows = RowUpdates(self._workers)
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
                create = partial(HostedModel.create, m, i, len(config.cores), time.monotonic())
                served[m.name] = await in_thread(create, say)
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
        while not self._workers.complete and not self._workers.problems:
            say("starting workers", sum(self._workers.alive.values()) / len(self._workers))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._happened.wait(), PROGRESS_S)
        self._workers.raise_problem()

    # `Backend`.
    @property
    def models(self) -> Mapping[str, ServedModel]:
        ready = self._admission.ready
        return {name: s.describe(ready) for name, s in self._served.items()}

    @property
    def ready(self) -> bool:
        if not self._admission.ready or CPU in self._workers.problems:
            return False
        in_time = [self._admission.in_time(s) for s in self.hosted]  # of each, as each has its hysteresis
        return all(in_time)

    @property
    def workers(self) -> Mapping[str, int]:
        return dict(self._workers.alive)

    @property
    def hung(self) -> int:
        return self._driver.hung

    @property
    def load(self) -> NodeLoad:
        now_s = time.monotonic()
        free = self._headroom.headroom(self._workers.alive, now_s)
        return NodeLoad(free, sum(self._headroom.rates(now_s)))

    def waiting(self, model: str) -> tuple[int, int]:
        s = self._served[model]
        return s.open, sum(self._dispatcher.line_items(v.id) for v in s.versions)

    def point(self, model: str) -> OperatingPoint:
        return self._served[model].point

    def late(self, model: str) -> LateAnswers:
        budget = self._served[model].forecast.budget
        return LateAnswers(budget.late, budget.left)

    def admit(self, model: str, items: int, *, arrival_s: float, deadline_s: float | None = None) -> None:
        self._admission.admit(self._served[model], items, arrival_s, deadline_s, 0, items)

    def reserve(
        self,
        model: str,
        items: int,
        *,
        arrival_s: float,
        deadline_s: float | None = None,
        priority: int = 0,
        version: str = "",
        ids: Mapping[str, int] = NO_IDS,
    ) -> Reservation:
        served = self._served[model]
        rows = served.rows_of(items, ids)
        try:
            query = self._admission.admit(served, items, arrival_s, deadline_s, priority, rows)
        except RefusedError:
            served.offered.append((arrival_s, items))
            served.mix.add(items, time.monotonic())
            raise
        row, slot = served.take(rows)
        place = Reservation(query._replace(features=row), served, row, slot, items, rows, version)
        self._queries.places[place.id] = place
        return place

    async def score(self, seat: Seat) -> NDArray[Any]:
        place = self._queries.places.get(seat.id)
        if place is None or place.state is not State.RESERVED:
            raise ValueError(f"seat {seat.id}: expected one that was neither scored nor released")
        place.bind()
        return await self._scored(place)

    async def _scored(self, place: Reservation) -> NDArray[Any]:
        loop = asyncio.get_running_loop()
        answer = place.answer = loop.create_future()
        place.state = State.OPEN
        place.served.open += 1
        place.served.mix.add(place.query.size, time.monotonic())
        timer, query = None, place.query
        if query.firm:
            timer = loop.call_later(max(query.deadline_s - time.monotonic(), 0), self._late, place)
        self._driver.handle(Arrive(query))
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
            self._queries.refuse(place, Reason.LATE, "the query's deadline has passed")
            self._driver.handle(Cancel(place.query))

    def _cancel(self, place: Reservation, why: str) -> None:
        self._queries.end(place, QueryOutcome.CANCELLED, why)
        self._driver.handle(Cancel(place.query))

    def release(self, seat: Seat, *, valid: bool = True) -> None:
        place = self._queries.places.get(seat.id)
        if place is None or place.released:
            return
        if place.state is State.OPEN:
            self._cancel(place, "released")
        if place.valid and valid and not place.probe:
            place.served.offered.append((place.query.arrival_s, place.query.size))
        place.state = State.ENDED
        place.released = True
        self._driver.when_unused(place.id, lambda: self._queries.free(place))

    def listen(self, listener: QueryListener) -> Callable[[], None]:
        return self._queries.listen(listener)

    # What is changed while it runs.
    def adopt(self, model: str, policy: Policy, why: str, capacity_qps: float | None = None) -> None:
        """Serve a model under another policy from now on; no query is lost.

        Raises:
            InputError: the policy offloads, and the model has no accelerator.
        """
        s = self._served[model]
        s.config.check_devices(policy)
        changed = policy != s.policy
        s.policy = policy
        s.point = point_of(policy, capacity_qps, time.monotonic(), why, s.point.pinned, s.allowance)
        if changed:
            for version in s.versions:
                self._driver.handle(Adopt(version.id, policy))
        log.info("operating point of %s: %s (%s)", model, policy.describe(), why)
        self._queries.point_changed(model, s.point)

    def estimate(self, model: str, capacity_qps: float | None, allowance: Allowance | None = None) -> None:
        """Another estimate of what a model's policy carries, of another mix or under another allowance."""
        s = self._served[model]
        s.allowance = allowance or s.allowance
        s.point = replace(s.point, capacity_qps=capacity_qps, allowance=s.allowance)
        self._headroom = HeadroomMeter([s.load for s in self.hosted])

    def pin(self, model: str, pinned: bool = True) -> None:
        """Have live retuning leave a model's policy alone, or no longer."""
        s = self._served[model]
        s.point = replace(s.point, pinned=pinned)

    @property
    def hosted(self) -> list[HostedModel]:
        """All models."""
        return list(self._served.values())

    @property
    def retunable(self) -> list[HostedModel]:
        """The models whose policy live retuning may change."""
        return [s for s in self.hosted if s.config.split and not s.point.pinned]

    async def swap(self, model: str, version: str, weights: Weights, *, keep: bool = False) -> None:
        """Serve other weights, and free the old ones. No query is lost.

        Queries that are complete when the new weights take over are answered by the old ones. If it is
        cancelled before that, nothing changes; if later, the old weights are freed all the same. Before the
        new ones take over, workers score a few queries with them (`probe`).

        Args:
            keep: hold the old ones too.

        Raises:
            InputError: a version that is held already, tables that do not fit in memory next to the old ones,
                or nothing writes them; or what `probe.check_version` finds.
            NodeError: workers cannot start with them, and the old weights stay; or the service is closed.
        """
        await self._weight_swap.swap(self._served[model], version, weights, keep)

    async def serve_held(self, model: str, version: str, *, keep: bool = False) -> None:
        """Serve a version that is held. Arguments and errors are those of `swap`."""
        await self._weight_swap.serve_held(self._served[model], version, keep)

    async def unload(self, model: str, version: str = "") -> None:
        """Drop a version that is held and does not serve; or all, once complete queries are answered.

        The model then refuses queries until a `swap`.

        Raises:
            InputError: it is not held, or serves. NodeError: the service is closed.
        """
        await self._weight_swap.unload(self._served[model], version)

    async def write_rows(self, model: str, rows: Mapping[str, NewRows]) -> int:
        """Write rows of the tables that serve, while they are read; returns how many.

        Batches that start after the call has returned read them, and no batch reads half of a row. Of rows
        with equal ids the last is kept.

        Raises:
            InputError: no such table, ids outside it, or values that are not finite or of another width; the
                model has an accelerator, or the machine cannot do it.
            RefusedError: other rows are being written and wait. NodeError: there was no moment to write them.
        """
        return await self._rows.write(self._served[model], rows)

    async def _probe(self, version: ModelVersion, items: int, inputs: Inputs) -> Probed:
        """See `probe.Score`."""
        served = next(s for s in self._served.values() if version in s.versions)
        jagged = {i.name: inputs[i.name].size for i in served.arena.schema.jagged if i.per is Per.ITEM}
        taken = served.rows_of(items, jagged)
        while not served.has_room(taken):
            await self._happened.wait()
        row, slot = served.take(taken)
        query = self._admission.probe(items, version.id)
        place = Reservation(query, served, row, slot, items, taken, version.version, probe=True)
        self._queries.places[place.id] = place
        try:
            for name, into in place.inputs.items():
                rows = inputs[name]
                if isinstance(into, Ids):  # as many ids in each row
                    into.put(rows.reshape(-1), np.full(len(rows), rows.shape[1]))
                else:
                    into[...] = rows
            place.scores[...] = nan
            scores = await self._scored(place)
            return Probed(scores.copy(), place.compute_s)
        except (RefusedError, UnscoredError) as e:
            raise NodeError(f"a probe of version {version.version} of {served.name}: {e}") from e
        finally:
            self.release(place)

    def _versions(self, device: str, worker: int) -> Sequence[VersionSpec]:
        """The model versions that a worker which is started now must hold."""
        return [v for s in self._served.values() for v in s.specs(device, worker, self.config.gpus)]

    # How it ends.
    async def drain(self, timeout_s: float = 30.0) -> bool:
        """Take no new query and answer those that are open; returns whether all were, within the time."""
        self._admission.draining = self._weight_swap.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._queries.places:
                    await self._happened.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End the workers and give the memory back. What is still open is refused."""
        if self._closed:
            return
        self._closed = self._admission.draining = True
        self._weight_swap.close()
        self._driver.close()
        for place in self._queries.open:
            self._queries.refuse(place, Reason.DRAINING, "the server has stopped")
        self._rows.close()
        self._workers.close()
        for s in self._served.values():
            s.close()
