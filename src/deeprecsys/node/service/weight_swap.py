"""New weights while queries come: an edition beside the old one, workers that hold both, then only it."""

from __future__ import annotations

import asyncio
import logging
from itertools import count

from deeprecsys.core.dispatcher import Adopt, Retire
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.node.service.arena import Weights, load_tables
from deeprecsys.node.service.crew import Crew
from deeprecsys.node.service.driver import Driver
from deeprecsys.node.service.hosted_model import HostedModel, ModelVersion
from deeprecsys.node.service.open_queries import Signal
from deeprecsys.zoo import model
from deeprecsys.zoo.custom import Own

log = logging.getLogger("deeprecsys.serve")


class WeightSwap:
    """Swaps weights, one model after the other.

    Args:
        first_id: of the editions that it makes.
    """

    def __init__(self, crew: Crew, driver: Driver, happened: Signal, first_id: int) -> None:
        self._crew, self._driver, self._happened = crew, driver, happened
        self._ids = count(first_id)
        self._swapping = asyncio.Lock()

    async def swap(self, s: HostedModel, version: str, weights: Weights) -> None:
        """See `Service.swap`."""
        async with self._swapping:
            _check(s, weights)
            tables = await asyncio.to_thread(load_tables, s.arena.plan, weights, lambda _what, _share: None)
            new = ModelVersion(next(self._ids), version, weights, tables)
            await self._have_workers_hold(s, new)
            self._driver.tell(Adopt(new.id, s.policy, s.forecast))
            old, s.current = s.current, new
            log.info("%s: version %s serves, after version %s", s.name, version, old.version)
            while old.seats:
                await self._happened.wait()
            self._driver.tell(Retire(old.id))
            s.editions.remove(old)
            self._crew.drop(old.id)
            old.tables.close()

    async def _have_workers_hold(self, s: HostedModel, new: ModelVersion) -> None:
        """Replace every worker by one that holds the new edition too.

        Raises:
            NodeError: they cannot start with it; all is as before.
        """
        s.editions.append(new)
        self._crew.renew()
        self._driver.reconcile()
        while not self._crew.renewed and not self._crew.problem:
            await self._happened.wait()
        if problem := self._crew.problem:
            s.editions.remove(new)
            self._crew.keep()
            self._driver.reconcile()
            new.tables.close()
            raise NodeError(f"{s.name} version {new.version}: {problem}; version {s.current.version} stays")


def _check(s: HostedModel, weights: Weights) -> None:
    """Raise InputError where nobody would write new tables: an own model's file is read only at the start."""
    if weights.fill is None and isinstance(model(s.config.known_as), Own):
        raise InputError(
            f"weights of {s.name}: expected Weights.fill, which writes an own model's tables, got none"
        )
