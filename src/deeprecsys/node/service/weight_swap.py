"""New weights while queries come: workers first hold both versions, then only the new one."""

from __future__ import annotations

import asyncio
import logging
from itertools import count

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.events import Adopt, Retire
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.runtime.workers import Workers
from deeprecsys.node.service.driver import EventLoopDriver
from deeprecsys.node.service.hosted_model import HostedModel, ModelVersion
from deeprecsys.node.service.open_queries import Signal
from deeprecsys.zoo import model
from deeprecsys.zoo.custom import Own

log = logging.getLogger("deeprecsys.serve")


class WeightSwap:
    """Swaps weights, one model after the other.

    Args:
        first_id: id of the first version that it makes.
    """

    def __init__(self, workers: Workers, driver: EventLoopDriver, happened: Signal, first_id: int) -> None:
        self._workers, self._driver, self._happened = workers, driver, happened
        self._ids = count(first_id)
        self._swapping = asyncio.Lock()

    async def swap(self, s: HostedModel, version: str, weights: Weights) -> None:
        """See `Service.swap`."""
        async with self._swapping:
            _check(s, weights)
            tables = await asyncio.to_thread(s.arena.layout.load_tables, weights, lambda _what, _share: None)
            new = ModelVersion(next(self._ids), version, weights, tables)
            await self._have_workers_hold(s, new)
            self._driver.handle(Adopt(new.id, s.policy, s.forecast))
            old, s.current = s.current, new
            log.info("%s: version %s serves, after version %s", s.name, version, old.version)
            while old.seats:
                await self._happened.wait()
            self._driver.handle(Retire(old.id))
            s.versions.remove(old)
            self._workers.drop(old.id)
            old.tables.close()

    async def _have_workers_hold(self, s: HostedModel, new: ModelVersion) -> None:
        """Replace every worker by one that holds the new version too.

        Raises:
            NodeError: they cannot start with it; all is as before.
        """
        s.versions.append(new)
        self._workers.renew()
        self._driver.reconcile()
        while not self._workers.renewed and not self._workers.renewal_problem:
            await self._happened.wait()
        if why := self._workers.renewal_problem:
            s.versions.remove(new)
            self._workers.keep()
            self._workers.drop(new.id)
            self._driver.reconcile()
            new.tables.close()
            raise NodeError(f"{s.name} version {new.version}: {why}; version {s.current.version} stays")


def _check(s: HostedModel, weights: Weights) -> None:
    """Raise InputError where nothing would write tables: an own model's file is read at the start alone."""
    if weights.fill is None and isinstance(model(s.config.known_as), Own):
        raise InputError(
            f"weights of {s.name}: expected Weights.fill, which writes an own model's tables, got none"
        )
