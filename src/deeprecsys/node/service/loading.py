"""What takes long to make, made in a thread, and closed where it is not wanted any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from deeprecsys.core.errors import NodeError
from deeprecsys.node.runtime.tables import Progress


class Closable(Protocol):
    """Holds memory until it is closed."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


async def in_thread(make: Callable[[Progress], T], progress: Progress) -> T:
    """What `make` returns. If the awaiting task is cancelled, that is closed as soon as it is there.

    Args:
        make: called in a thread of its own, with a `progress` that ends it early once it is not wanted.
    """
    unwanted = threading.Event()

    def say(what: str, share: float) -> None:
        if unwanted.is_set():
            raise NodeError("it is not wanted any more")
        progress(what, share)

    pool = ThreadPoolExecutor(1)
    future = pool.submit(make, say)
    pool.shutdown(wait=False)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        unwanted.set()
        future.add_done_callback(_discard)
        raise


def _discard(future: Future[T]) -> None:
    if not future.cancelled() and not future.exception():
        future.result().close()
