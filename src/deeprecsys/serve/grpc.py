"""The protocol over gRPC, with the messages that `tritonclient` ships."""

from __future__ import annotations

import asyncio
import logging
import math
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from deeprecsys.node.service.backend import Reason, RefusedError, RetiredError, UnscoredError
from deeprecsys.serve.frontend import Frontend
from deeprecsys.serve.memory import BufferPool
from deeprecsys.serve.metrics.statistics import statistics_document
from deeprecsys.serve.protocol.describe import config_document, model_document, server_document
from deeprecsys.serve.protocol.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RequestError,
    UnauthorizedError,
    shown,
)
from deeprecsys.serve.protocol.orca import FORMAT, METRICS, METRICS_BIN, message, report
from deeprecsys.serve.protocol.request import Request
from deeprecsys.serve.protocol.request_pb import parameter_values, request_of
from deeprecsys.serve.protocol.values import asked_for
from deeprecsys.serve.repository import Repository
from deeprecsys.zoo.schema import TensorSpec

SERVICE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
RECEIVING_BYTES = 128 << 20
"""Limit of the messages that are being received, each counted as the largest; and as much for streams."""
LEAST_CALLS = 4
"""Least number of messages that may be received at a time, and of open streams."""
RECEIVE_S, IDLE_S, WATCH_S = 60.0, 600.0, 1.0
"""How long a message may take to come, a stream to send its next, and a change of health to be seen."""
MOST_CALLS, MOST_CALLS_OF_ONE = 2048, 256
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", MOST_CALLS_OF_ONE),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Clients may ping as often as Triton's do; a connection whose client is gone is noticed by our own pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
MOST_CONNECTIONS = 2048
_CALLS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "ModelInfer",
)
_log = logging.getLogger(__name__)
_Context = Any  # grpc.aio.ServicerContext, which has no types


def grpc_server(frontend: Frontend) -> grpc.aio.Server:
    """A server of the backend's models and of its health, without a port yet."""
    models = frontend.backend.models.values()
    limit = max((frontend.inputs(m).message_limit for m in models), default=1 << 22)
    server = grpc.aio.server(
        interceptors=[_Reception(frontend.pool, limit)],
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_allowed_incoming_connections", most_connections()),
            *OPTIONS,
        ],
        maximum_concurrent_rpcs=MOST_CALLS,
    )
    server.add_generic_rpc_handlers((GrpcService(frontend).handler(), _health(frontend)))
    return server


def most_connections() -> int:
    """`MOST_CONNECTIONS`, or an eighth of the descriptors: HTTP takes half, and workers need some."""
    return max(1, min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))


class GrpcService:
    """Answers the protocol's calls. Each method takes a request message and returns the response's."""

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend

    def handler(self) -> grpc.GenericRpcHandler:
        """The service's methods, for a server."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(getattr(self, name)),
                request_deserializer=_reader(_message(name, "Request")),
                response_serializer=_message(name, "Response").SerializeToString,
            )
            for name in _CALLS
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self.ModelStreamInfer,
            request_deserializer=_reader(pb.ModelInferRequest),
            response_serializer=pb.ModelStreamInferResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def ServerLive(self, message: Any, context: _Context) -> Any:  # noqa: N802 - the protocol's names
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, message: Any, context: _Context) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=self.frontend.backend.ready)

    async def ModelReady(self, message: Any, context: _Context) -> Any:  # noqa: N802
        return pb.ModelReadyResponse(ready=self.frontend.model(message.name, message.version).ready)

    async def ServerMetadata(self, message: Any, context: _Context) -> Any:  # noqa: N802
        return ParseDict(server_document(), pb.ServerMetadataResponse())

    async def ModelMetadata(self, message: Any, context: _Context) -> Any:  # noqa: N802
        served = self.frontend.model(message.name, message.version)
        return ParseDict(model_document(served), pb.ModelMetadataResponse())

    async def ModelConfig(self, message: Any, context: _Context) -> Any:  # noqa: N802
        served = self.frontend.model(message.name, message.version)
        return ParseDict({"config": config_document(served)}, pb.ModelConfigResponse())

    async def ModelStatistics(self, message: Any, context: _Context) -> Any:  # noqa: N802
        frontend, name = self.frontend, message.name
        models = [frontend.model(name, message.version)] if name else list(frontend.backend.models.values())
        return ParseDict(statistics_document(frontend.counters, models), pb.ModelStatisticsResponse())

    async def RepositoryIndex(self, message: Any, context: _Context) -> Any:  # noqa: N802
        return ParseDict({"models": self.frontend.index()}, pb.RepositoryIndexResponse())

    async def RepositoryModelLoad(self, message: Any, context: _Context) -> Any:  # noqa: N802
        await self._repository(context).load(message.model_name, parameter_values(message.parameters))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, message: Any, context: _Context) -> Any:  # noqa: N802
        await self._repository(context).unload(message.model_name, parameter_values(message.parameters))
        return pb.RepositoryModelUnloadResponse()

    def _repository(self, context: _Context) -> Repository:
        """What changes weights, for a call that may."""
        sent = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
        return self.frontend.repository(sent.get("authorization", ""), sent.get("origin", ""))

    async def ModelInfer(self, message: Any, context: _Context) -> Any:  # noqa: N802
        try:
            return await self._infer(message, context)
        finally:
            context.set_trailing_metadata(self._load_report(context))

    def _load_report(self, context: _Context) -> tuple[tuple[str, str | bytes], ...]:
        """The load report, in binary and in the format that is asked for."""
        load = self.frontend.backend.load
        found: list[tuple[str, str | bytes]] = [(METRICS_BIN, message(load))]
        asked = next((value for key, value in context.invocation_metadata() or () if key == FORMAT), "")
        text = report(str(asked).encode(), lambda: load) if asked else None
        return (*found, (METRICS, text.decode())) if text else tuple(found)

    async def _infer(self, message: Any, context: _Context) -> Any:
        frontend, arrival_s = self.frontend, time.monotonic()
        model = frontend.model(message.model_name, message.model_version)
        request = request_of(message)
        if request.timeout_s is None:
            request.timeout_s = context.time_remaining()
        inputs = frontend.inputs(model)
        validated, version = inputs.validate(request), message.model_version
        with frontend.reserve(model, request, validated, arrival_s, version) as query:
            query.fill(b"")
            try:
                scores = query.checked(await query.score())
            except RefusedError as e:
                raise MissedError(e.reason, str(e), e.retry_after_s) from e
            reply = _reply(request, model.name, query.seat.version, inputs.outputs, scores)
            query.answered()
            return reply

    async def ModelStreamInfer(  # noqa: N802
        self, messages: AsyncIterator[Any], context: _Context
    ) -> AsyncIterator[Any]:
        """One request after the other; a request that fails leaves the stream open."""
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    message = await anext(messages)
            except StopAsyncIteration:
                return
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no request came for {IDLE_S:g} s")
            try:
                response = await self.ModelInfer(_sound(message), context)
                yield pb.ModelStreamInferResponse(infer_response=response)
            except (RequestError, RefusedError, UnscoredError) as e:
                yield pb.ModelStreamInferResponse(error_message=str(e))

    def _guarded(self, call: Callable[[Any, _Context], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """A call whose errors become statuses."""

        async def guarded(message: Any, context: _Context) -> Any:
            try:
                return await call(_sound(message), context)
            except (RequestError, RefusedError, UnscoredError) as e:
                status, trailing = _status(e)
                await context.abort(status, str(e), (*context.trailing_metadata(), *trailing))
            except Exception:
                _log.exception("a call failed", extra={"call": call.__name__})
                await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says how")

        return guarded


class MissedError(RefusedError):
    """A query was taken, but waited past its deadline."""


_STATUSES: dict[type[Exception], grpc.StatusCode] = {
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    RetiredError: grpc.StatusCode.NOT_FOUND,
    UnauthorizedError: grpc.StatusCode.UNAUTHENTICATED,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    ConflictError: grpc.StatusCode.ABORTED,
}


def _status(e: Exception) -> tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]:
    """The status of an error, and what is sent after it."""
    for kind, status in _STATUSES.items():
        if isinstance(e, kind):
            return status, ()
    if isinstance(e, RefusedError):
        if isinstance(e, MissedError) and e.reason is Reason.LATE:
            return grpc.StatusCode.DEADLINE_EXCEEDED, ()
        after_ms = str(max(1, math.ceil(1e3 * e.retry_after_s)))
        # The first is gRPC's own word to clients that retry, the second is HTTP's, for people.
        after_s = str(max(1, math.ceil(e.retry_after_s)))
        return grpc.StatusCode.UNAVAILABLE, (("grpc-retry-pushback-ms", after_ms), ("retry-after", after_s))
    if isinstance(e, UnscoredError) and not e.bad_input:
        return grpc.StatusCode.INTERNAL, ()
    return grpc.StatusCode.INVALID_ARGUMENT, ()


def _reply(
    request: Request, name: str, version: str, tensors: Sequence[TensorSpec], scores: NDArray[Any]
) -> Any:
    found = list(asked_for(request, tensors, scores))
    return pb.ModelInferResponse(
        model_name=name,
        model_version=version,
        id=request.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=t.name, datatype=t.datatype, shape=(len(scores), *t.row)
            )
            for t, _ in found
        ],
        raw_output_contents=[values.tobytes() for _, values in found],
    )


def _message(call: str, kind: str) -> Any:
    return getattr(pb, call + kind)


def _reader(message: Any) -> Callable[[bytes], Any]:
    """Reads a message; or returns the error of one that cannot be read, to be answered by its call."""

    def read(raw: bytes) -> Any:
        try:
            if reception := _RECEPTION.get(None):
                reception.received(len(raw))
            return message.FromString(raw)
        except RefusedError as e:
            return e
        except DecodeError:
            return RequestError(f"request: expected a {message.__name__} message, got bytes that are none")

    return read


def _sound(message: Any) -> Any:
    """What `_reader` has read, or raises the error that it has returned."""
    if isinstance(message, Exception):
        raise message
    return message


class _Reception(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Bounds the messages of all calls: while they are received, and then until their calls end.

    The length of a message is known only when all of it has come, so that calls wait for one of a few places
    before theirs is received. The length is then charged to the memory of all requests.
    """

    def __init__(self, pool: BufferPool, limit: int) -> None:
        self._pool = pool
        count = max(LEAST_CALLS, RECEIVING_BYTES // limit)
        self._places, self._streams = asyncio.Semaphore(count), count

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        if handler.request_streaming or handler.response_streaming:
            if not self._streams:
                return _refusing("as many streams are open as may be")
            call = _Call(self._pool, self._stream_ended)
            self._streams -= 1
        else:
            try:
                async with asyncio.timeout(RECEIVE_S):
                    await self._places.acquire()
            except TimeoutError:
                return _refusing("other requests are still being received")
            call = _Call(self._pool, self._places.release, RECEIVE_S)
        _RECEPTION.set(call)
        return handler

    def _stream_ended(self) -> None:
        self._streams += 1


class _Call:
    """A call's share in what `_Reception` bounds. Its task is the current one.

    Args:
        give: gives its place back: of a stream when that ends, else as soon as its message has come.
        within_s: how long that may take.
    """

    def __init__(self, pool: BufferPool, give: Callable[[], None], within_s: float | None = None) -> None:
        self._pool, self._give, self._charged = pool, give, 0
        task = asyncio.current_task()
        assert task is not None
        self._timer = asyncio.get_running_loop().call_later(within_s, task.cancel) if within_s else None
        task.add_done_callback(self._ended)

    def received(self, size: int) -> None:
        """A message has come; what the last one took is free.

        Raises:
            FullError: there is no memory for it.
        """
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._give()
            self._give = _nothing
        self._pool.give(self._charged)
        self._charged = 0
        self._pool.charge(2 * size)  # as bytes, and as fields
        self._charged = 2 * size

    def _ended(self, _task: object) -> None:
        if self._timer:
            self._timer.cancel()
        self._give()
        self._pool.give(self._charged)


_RECEPTION: ContextVar[_Call] = ContextVar("reception")


def _nothing() -> None:
    """Gives nothing back."""


def _refusing(why: str) -> Any:
    """A handler that refuses its call without receiving a message."""

    async def refuse(_messages: Any, context: _Context) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, why, (("retry-after", "1"),))

    return grpc.stream_stream_rpc_method_handler(refuse)


def _health(frontend: Frontend) -> grpc.GenericRpcHandler:
    """`grpc.health.v1`: of the server ("" or the protocol's service), and of each model by its name.

    Its two messages have one field each, and are on the wire as these wrappers are.
    """

    backend = frontend.backend

    def status(raw: str) -> int:
        if raw in ("", SERVICE, HEALTH):
            return 1 if backend.ready else 2
        model = backend.models.get(raw)
        return 3 if model is None else 1 if model.ready else 2  # unknown, serving, not serving

    async def check(message: StringValue, context: _Context) -> Int32Value:
        found = status(message.value)
        if found == 3:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service {shown(message.value)}: there is none")
        return Int32Value(value=found)

    async def watch(message: StringValue, context: _Context) -> AsyncIterator[Int32Value]:
        last = 0
        while not frontend.stopping:
            if (found := status(message.value)) != last:
                last = found
                yield Int32Value(value=found)
            await asyncio.sleep(WATCH_S)

    how = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": Int32Value.SerializeToString,
    }
    return grpc.method_handlers_generic_handler(
        HEALTH,
        {
            "Check": grpc.unary_unary_rpc_method_handler(check, **how),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, **how),
        },
    )
