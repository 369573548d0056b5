"""New weights while queries come: workers first hold both versions, then only the new one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from itertools import count

from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.events import Adopt, Retire
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.runtime.workers import Workers
from deeprecsys.node.service.driver import EventLoopDriver
from deeprecsys.node.service.hosted_model import HostedModel, ModelVersion
from deeprecsys.node.service.loading import in_thread
from deeprecsys.node.service.open_queries import Signal
from deeprecsys.zoo import model
from deeprecsys.zoo.custom import Own

log = logging.getLogger("deeprecsys.serve")


class WeightSwap:
    """Swaps weights, one model after the other. Cancelled or closed at any point, it leaves nothing behind.

    Args:
        first_id: id of the first version that it makes.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        workers: Workers,
        driver: EventLoopDriver,
        happened: Signal,
        first_id: int,
    ) -> None:
        self._dispatcher, self._workers = dispatcher, workers
        self._driver, self._happened = driver, happened
        self._ids = count(first_id)
        self._swapping = asyncio.Lock()
        self._retiring: asyncio.Task[None] | None = None
        self._closed = False

    async def swap(self, s: HostedModel, version: str, weights: Weights) -> None:
        """See `Service.swap`."""
        async with self._swapping:
            await self._retired()  # what a swap that was cancelled had replaced
            self._check(s, version, weights)
            tables = await in_thread(partial(s.arena.layout.load_tables, weights), _silent)
            new = ModelVersion(next(self._ids), version, weights, tables)
            await self._have_workers_hold(s, new)
            old, s.current, new.ready = s.current, new, True
            log.info("%s: version %s serves, after version %s", s.name, version, old.version)
            self._retiring = asyncio.ensure_future(self._retire(s, old))
            await self._retired()

    def close(self) -> None:
        """End what goes on; the memory of all versions that models have is the caller's to free."""
        self._closed = True
        self._happened.announce()

    def _check(self, s: HostedModel, version: str, weights: Weights) -> None:
        """Raise the error of a swap that cannot be done."""
        self._check_open()
        held = [v.version for v in s.versions]
        if not version or version in held:
            raise InputError(
                f"version of {s.name}: expected a name that is not held ({', '.join(held)}), got {version!r}"
            )
        if weights.fill is None and isinstance(model(s.config.known_as), Own):  # read at the start alone
            raise InputError(
                f"weights of {s.name}: expected Weights.fill, which writes an own model's tables, got none"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise NodeError("the service has stopped")

    async def _have_workers_hold(self, s: HostedModel, new: ModelVersion) -> None:
        """Replace every worker by one that holds the new version too.

        Raises:
            NodeError: they cannot start with it, or the service is closed; all is as before.
        """
        workers = self._workers
        try:
            self._check_open()
            s.versions.append(new)
            self._driver.handle(Adopt(new.id, s.policy, s.forecast))
            workers.renew()
            self._driver.reconcile()
            await self._until(lambda: workers.renewed or bool(workers.renewal_problem))
            self._check_open()
            if why := workers.renewal_problem:
                raise NodeError(f"{s.name} version {new.version}: {why}; version {s.current.version} stays")
        except BaseException:
            if self._closed:
                new.tables.close()
            else:
                workers.keep()
                self._drop(s, new)
                self._driver.reconcile()
            raise

    async def _retire(self, s: HostedModel, old: ModelVersion) -> None:
        """Drop a version once its last query has ended."""
        await self._until(lambda: not self._dispatcher.has(old.id))
        if not self._closed:
            self._drop(s, old)

    async def _retired(self) -> None:
        """Wait until the version that was replaced last is dropped. To cancel the wait does not stop that."""
        if self._retiring:
            await asyncio.shield(self._retiring)

    def _drop(self, s: HostedModel, version: ModelVersion) -> None:
        s.versions.remove(version)
        self._driver.handle(Retire(version.id))
        self._workers.drop(version.id)
        version.tables.close()

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, or the service is closed."""
        while not self._closed and not condition():
            await self._happened.wait()


def _silent(_what: str, _share: float) -> None:
    """Progress is not reported."""
