"""Both network faces on one event loop, from start to drained."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import grpc
import uvicorn

from deeprecsys.core.errors import InputError
from deeprecsys.node.service.backend import Backend
from deeprecsys.serve.frontend import Frontend
from deeprecsys.serve.grpc import GrpcService
from deeprecsys.serve.http.app import HttpApp
from deeprecsys.serve.http.connection import Connection
from deeprecsys.serve.metrics.counters import Counters

GRACE_S = 30.0
"""How long open requests may take to end once the server stops; their own deadlines are shorter."""
KEEP_ALIVE_S = 75
BACKLOG = 2048
_log = logging.getLogger(__name__)


async def serve_forever(
    backend: Backend,
    *,
    host: str,
    http_port: int,
    grpc_port: int,
    stop: asyncio.Event,
    ready: Callable[[int, int], None],
) -> None:
    """Serve a backend over HTTP and gRPC until told to stop, then let open requests end.

    Args:
        http_port, grpc_port: 0 takes a free one.
        stop: ends the serving. Readiness is the backend's: let it drain first.
        ready: told both ports as soon as requests are taken.

    Raises:
        InputError: an address cannot be had.
    """
    watch = Counters()
    face = Frontend(backend, watch)
    for name in backend.models:
        watch.point_changed(name, backend.point(name))
    with contextlib.ExitStack() as stack:
        stack.callback(backend.listen(watch))
        listening = stack.enter_context(_listen(host, http_port))
        rpc, bound = _grpc_server(face, host, grpc_port)
        http = _HttpServer(_uvicorn_config(face))
        await rpc.start()
        serving = asyncio.ensure_future(http.serve(sockets=[listening]))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not http.started and not serving.done():
                await asyncio.sleep(0.005)
            ports = listening.getsockname()[1], bound
            _log.info("serving", extra={"host": host, "http_port": ports[0], "grpc_port": ports[1]})
            ready(*ports)
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            _log.info("stopping", extra={"open_requests": len(http.server_state.tasks)})
            http.should_exit = True
            await asyncio.gather(serving, rpc.stop(GRACE_S))
            _log.info("stopped")


class _HttpServer(uvicorn.Server):
    """A server that leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(face: Frontend) -> uvicorn.Config:
    return uvicorn.Config(
        HttpApp(face),
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(GRACE_S),
    )


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections send at once.

    Raises:
        InputError: the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as e:
        raise InputError(
            f"--host and --http-port: expected an address to listen on, got {host}:{port}: {e}"
        ) from e
    # Connections inherit it. asyncio sets it only where the socket names its protocol, which this one does
    # not; without it an answer in two pieces waits for the client's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _grpc_server(face: Frontend, host: str, port: int) -> tuple[grpc.aio.Server, int]:
    """A server that is bound but not started, and its port."""
    largest = max((face.inputs(m).body_limit for m in face.backend.models.values()), default=1 << 22)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", largest),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers((GrpcService(face).handler(),))
    try:
        return server, server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as e:
        raise InputError(
            f"--host and --grpc-port: expected an address to listen on, got {host}:{port}"
        ) from e
