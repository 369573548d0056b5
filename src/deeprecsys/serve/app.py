"""HTTP and gRPC on one event loop, from start to drained."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable

import grpc

from deeprecsys.core.errors import InputError
from deeprecsys.node.service.backend import Backend
from deeprecsys.serve.addresses import authority, listen, loopback
from deeprecsys.serve.frontend import Frontend
from deeprecsys.serve.grpc import grpc_server
from deeprecsys.serve.http.app import HttpApp
from deeprecsys.serve.http.connection import GRACE_S, http_server, missing
from deeprecsys.serve.metrics.counters import Counters
from deeprecsys.serve.repository import Repository

PLAIN_ASGI = "DEEPRECSYS_PLAIN_ASGI"
"""Environment variable: 1 serves HTTP by uvicorn's own protocol, slower and without this package's limits."""
_log = logging.getLogger(__name__)


async def serve_forever(
    backend: Backend,
    *,
    host: str,
    http_port: int,
    grpc_port: int,
    stop: asyncio.Event,
    ready: Callable[[int, int], None],
    repository: Callable[[Counters], Repository] | None = None,
) -> None:
    """Serve a backend over HTTP and gRPC until `stop` is set, then let open requests end.

    Args:
        http_port, grpc_port: 0 takes a free one.
        stop: ends the serving. Readiness is the backend's: let it drain first.
        ready: called with both ports as soon as requests are taken.
        repository: makes what changes weights; None where nothing may.

    Raises:
        InputError: an address cannot be listened on.
    """
    counters = Counters()
    weights = repository(counters) if repository else None
    frontend = Frontend(backend, counters, weights)
    for name in backend.models:
        counters.point_changed(name, backend.point(name))
    with contextlib.ExitStack() as stack:
        stack.callback(backend.listen(counters))
        listening = stack.enter_context(listen(host, http_port))
        rpc = grpc_server(frontend)
        bound = _bind(rpc, host, grpc_port)
        http = http_server(HttpApp(frontend, loopback(host)), plain_asgi())
        await rpc.start()
        serving = asyncio.ensure_future(http.serve(sockets=[listening]))
        stopping = asyncio.ensure_future(stop.wait())
        watching = asyncio.ensure_future(weights.watch()) if weights else None
        try:
            while not http.started and not serving.done():
                await asyncio.sleep(0.005)
            ports = listening.getsockname()[1], bound
            _log.info("serving", extra={"host": host, "http_port": ports[0], "grpc_port": ports[1]})
            ready(*ports)
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if watching:
                watching.cancel()
            _log.info("stopping", extra={"open_requests": len(http.server_state.tasks)})
            http.should_exit = frontend.stopping = True
            await asyncio.gather(serving, rpc.stop(GRACE_S))
            _log.info("stopped")


def plain_asgi() -> bool:
    """Whether uvicorn's protocol is to be left as it is: asked for, or this version of it is unknown."""
    if unknown := missing():
        _log.warning("this uvicorn is unknown: HTTP is served slower", extra={"missing": unknown})
    return bool(unknown) or os.environ.get(PLAIN_ASGI) == "1"


def _bind(server: grpc.aio.Server, host: str, port: int) -> int:
    """The port that a gRPC server is bound to.

    Raises:
        InputError: the address cannot be listened on.
    """
    try:
        bound: int = server.add_insecure_port(authority(host, port))
    except RuntimeError as e:
        raise InputError(
            f"--host and --grpc-port: expected an address to listen on, got {authority(host, port)}"
        ) from e
    return bound
