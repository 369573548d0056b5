"""New weights while queries come: workers first hold both versions, then only the new one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from itertools import count

from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.events import Adopt, Retire
from deeprecsys.engine import EngineSpec
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.runtime.workers import Workers
from deeprecsys.node.service.driver import EventLoopDriver
from deeprecsys.node.service.hosted_model import HostedModel, ModelVersion
from deeprecsys.node.service.loading import in_thread
from deeprecsys.node.service.open_queries import Signal
from deeprecsys.node.service.probe import Score, check_version
from deeprecsys.zoo import model
from deeprecsys.zoo.custom import Own

log = logging.getLogger("deeprecsys.serve")
PROBE_S = 60.0
"""How long the queries may take by which a version is judged."""


class WeightSwap:
    """Swaps weights, one model after the other. Cancelled or closed at any point, it leaves nothing behind.

    Args:
        first_id: id of the first version that it makes.
        score: scores a query of `probe`.

    Attributes:
        draining: whether nothing new is begun.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        workers: Workers,
        driver: EventLoopDriver,
        happened: Signal,
        first_id: int,
        score: Score,
    ) -> None:
        self._dispatcher, self._workers = dispatcher, workers
        self._driver, self._happened = driver, happened
        self._ids, self._score = count(first_id), score
        self._swapping = asyncio.Lock()
        self._retiring: asyncio.Task[None] | None = None
        self._closed = self.draining = False

    async def swap(self, s: HostedModel, version: str, weights: Weights, keep: bool) -> None:
        """See `Service.swap`."""
        async with self._swapping:
            await self._retired()  # what a swap that was cancelled had replaced
            self._check(s, version, weights)
            create = partial(
                ModelVersion.create, next(self._ids), version, weights, s.current, s.arena.layout
            )
            new = await in_thread(create, _silent)
            await self._have_workers_hold(s, new)
            await self._serve(s, new, keep)

    async def serve_held(self, s: HostedModel, version: str, keep: bool) -> None:
        """See `Service.serve_held`."""
        async with self._swapping:
            await self._retired()
            self._check_open()
            found = _held(s, version)
            if found is not s.current:
                await self._serve(s, found, keep)

    async def unload(self, s: HostedModel, version: str) -> None:
        """See `Service.unload`."""
        async with self._swapping:
            await self._retired()
            self._check_open()
            gone = [_held(s, version)] if version else list(s.versions)
            if version and gone[0] is s.current:
                raise InputError(
                    f"version of {s.name}: expected one that does not serve, got {version!r}: load another "
                    "first, or unload the model"
                )
            for v in gone:
                v.ready = False
            await self._until(lambda: not any(self._dispatcher.has(v.id) for v in gone))
            self._check_open()
            for v in gone:
                self._drop(s, v)
            log.info("%s: %s unloaded", s.name, f"version {version}" if version else "the model")

    async def _serve(self, s: HostedModel, new: ModelVersion, keep: bool) -> None:
        """Have a version that workers hold serve; the one before is dropped unless it is to be kept."""
        old, s.current, new.ready = s.current, new, True
        new.since_s = time.monotonic()
        log.info("%s: version %s serves, after version %s", s.name, new.version, old.version)
        if old.ready and not keep:
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
        if weights.keep_tables:
            if not s.current.ready:
                raise InputError(
                    f"version of {s.name}: expected one that serves, whose tables are kept, got none"
                )
            return
        if weights.fill is None and isinstance(model(s.config.known_as), Own):  # read at the start alone
            raise InputError(
                f"weights of {s.name}: expected Weights.fill, which writes an own model's tables, got none"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise NodeError("the service has stopped")
        if self.draining:
            raise NodeError("the server is stopping")

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
                raise NodeError(f"{s.name} version {new.version}: {why}; {_stays(s)}")
            if EngineSpec.parse(s.config.engine).scores:
                async with asyncio.timeout(PROBE_S):
                    await check_version(s, new, self._score, sum(workers.counts.values()))
        except BaseException as e:
            if self._closed:
                if new not in s.versions:
                    new.close()
                if isinstance(e, NodeError):
                    self._check_open()
            else:
                workers.keep()
                if self._dispatcher.has(new.id):  # a probe runs
                    self._retiring = asyncio.ensure_future(self._retire(s, new))
                else:
                    self._drop(s, new)
                self._driver.reconcile()
            if isinstance(e, TimeoutError):
                why = f"no answers to its probes within {PROBE_S:g} s"
                raise NodeError(f"{s.name} version {new.version}: {why}; {_stays(s)}") from e
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
        version.ready = False
        version.close()

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, or the service is closed."""
        while not self._closed and not condition():
            await self._happened.wait()


def _held(s: HostedModel, version: str) -> ModelVersion:
    """The version of that name that can score; InputError if there is none."""
    for v in s.versions:
        if v.ready and v.version == version:
            return v
    held = ", ".join(v.version for v in s.versions if v.ready) or "none"
    raise InputError(f"version of {s.name}: expected one that is held ({held}), got {version!r}")


def _stays(s: HostedModel) -> str:
    return f"version {s.current.version} stays" if s.current.ready else "no version serves"


def _silent(_what: str, _share: float) -> None:
    """Progress is not reported."""
