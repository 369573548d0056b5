"""A stand-in backend behind both network faces, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("tritonclient.grpc", reason="the extra `serve` is not installed")

from deeprecsys.serve.app import serve_forever
from tests.serve.stand_in import StandIn


@dataclass
class Running:
    backend: StandIn
    http: str
    grpc: str
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    thread: threading.Thread

    def end(self) -> None:
        if self.thread.is_alive():
            with suppress(RuntimeError):  # it may have ended by itself meanwhile
                self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(20)


def start(backend: StandIn, run: Callable[..., None] = asyncio.run) -> Running:
    """Serve a backend until `end` is called, on the event loop of `run`."""
    up = threading.Event()
    found: list[Running] = []

    async def serve() -> None:
        stop = asyncio.Event()

        def ready(http: int, grpc: int) -> None:
            loop = asyncio.get_running_loop()
            addresses = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
            found.append(Running(backend, *addresses, loop, stop, thread))
            up.set()

        await serve_forever(backend, host="127.0.0.1", http_port=0, grpc_port=0, stop=stop, ready=ready)

    thread = threading.Thread(target=lambda: run(serve()))
    thread.start()
    assert up.wait(20)
    return found[0]


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    """Shared by a module's tests; each finds it well-behaved and leaves no seat behind."""
    running = start(StandIn.of())
    yield running
    running.end()
    assert not running.thread.is_alive()


@pytest.fixture
def running(served: Running) -> Iterator[Running]:
    yield served
    b = served.backend
    b.ready, b.refuse, b.late_after_wait, b.delay_s, b.fail = True, None, False, 0.0, ""
    assert b.open == 0
