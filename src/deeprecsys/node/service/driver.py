"""The driver on an event loop: news of workers comes by readers, time by timers; nothing blocks."""

from __future__ import annotations

import asyncio
import logging
import time
from math import inf

from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.events import Cancel, Event, Tick
from deeprecsys.core.policy import CPU
from deeprecsys.node.driver import Driver
from deeprecsys.node.runtime.workers import Down, News, Workers
from deeprecsys.node.service.backend import Reason
from deeprecsys.node.service.open_queries import OpenQueries

log = logging.getLogger("deeprecsys.serve")

RETRY_S = 30.0
"""How long after workers could not be started it is tried once more."""
LOOK_S = 0.25
"""Seconds between two checks of what no event reports: starts that take too long, or whose pause is over,
and workers that hang."""
NO_WORKER_S = 10.0
"""How long open queries wait while no CPU worker is alive; then they are refused."""


class EventLoopDriver:
    """Drives a dispatcher and workers on the running event loop: `begin` it, `close` it."""

    def __init__(self, dispatcher: Dispatcher, workers: Workers, queries: OpenQueries) -> None:
        self._workers, self._queries = workers, queries
        self._driver = Driver(dispatcher, workers, queries)
        self.when_unused = self._driver.when_unused
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.TimerHandle | None = None
        self._wake_s = inf
        self._retry: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._alive_s = time.monotonic()  # when a CPU worker was last seen alive

    @property
    def hung(self) -> int:
        """Workers that were replaced since they did not reply."""
        return self._driver.hung

    def begin(self) -> None:
        """Watch for news, start the workers."""
        for fd in self._workers.listen:
            self._loop.add_reader(fd, self._on_news)
        self._look()

    def close(self) -> None:
        """Watch no more."""
        for fd in self._workers.listen:
            self._loop.remove_reader(fd)
        for timer in (self._wake, self._retry, self._look_timer):
            if timer:
                timer.cancel()

    def handle(self, event: Event) -> None:
        """Have the dispatcher decide on what has just happened."""
        now = time.monotonic()
        self._driver.handle(event, now)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        """Have the loop call `_tick` when the dispatcher is to be woken."""
        wake_s = self._driver.dispatcher.wake_s
        if wake_s != self._wake_s:
            if self._wake:
                self._wake.cancel()
            self._wake_s = wake_s
            self._wake = self._loop.call_later(max(wake_s - now, 0), self._tick) if wake_s < inf else None

    def _tick(self) -> None:
        self._wake, self._wake_s = None, inf
        if (now := time.monotonic()) < self._driver.dispatcher.wake_s:
            self._set_timer(now)  # the loop's clock may be coarser than ours
        else:
            self.handle(Tick())

    # Workers.
    def reconcile(self) -> None:
        """Start, end and replace workers as it is needed now."""
        self._receive(self._workers.reconcile())

    def _look(self) -> None:
        """Check what no event reports; a few times a second."""
        self._look_timer = self._loop.call_later(LOOK_S, self._look)
        self._workers.check_starts()
        self._on_news()
        now = time.monotonic()
        self._receive(self._driver.end_hung(now))
        if self._workers.alive[CPU] or not self._queries.open:
            self._alive_s = now
        elif now > self._alive_s + NO_WORKER_S:
            self._refuse_all(f"no worker for {NO_WORKER_S:.0f} s")

    def try_again(self) -> None:
        """Start once more the workers that could not be started."""
        self._retry = None
        self._workers.retry()
        self.reconcile()

    def _on_news(self) -> None:
        self._receive(self._workers.news(0.0))
        if problems := self._workers.problems:
            if self._retry is None:
                self._retry = self._loop.call_later(RETRY_S, self.try_again)
            if CPU in problems and not self._workers.alive[CPU]:
                self._refuse_all(problems[CPU])
        self._queries.happened.announce()

    def _receive(self, news: list[News]) -> None:
        for one in news:
            now = time.monotonic()
            self._driver.receive(one, now)
            self._set_timer(now)
        if any(isinstance(one, Down) for one in news):  # a spare may take the post now
            self._receive(self._workers.reconcile())

    def _refuse_all(self, why: str) -> None:
        """No worker is left to score what is open."""
        for place in self._queries.open:
            self._queries.refuse(place, Reason.NOT_READY, why)
            self.handle(Cancel(place.query))
