"""The protocol over gRPC, with the messages that `tritonclient` ships."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from deeprecsys.node.service.backend import Reason, RefusedError, ServedModel, UnscoredError
from deeprecsys.serve.frontend import Frontend, MissedError
from deeprecsys.serve.metrics.statistics import statistics_document
from deeprecsys.serve.protocol.describe import (
    config_document,
    index_document,
    model_document,
    server_document,
)
from deeprecsys.serve.protocol.errors import NotFoundError, RequestError
from deeprecsys.serve.protocol.inputs import OUTPUT
from deeprecsys.serve.protocol.request import Request
from deeprecsys.serve.protocol.request_pb import request_of

SERVICE = "inference.GRPCInferenceService"
_CALLS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "ModelInfer",
)
_log = logging.getLogger(__name__)
_Context = Any  # grpc.aio.ServicerContext, which has no types


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
        return ParseDict(
            {"models": index_document(self.frontend.backend.models)}, pb.RepositoryIndexResponse()
        )

    async def ModelInfer(self, message: Any, context: _Context) -> Any:  # noqa: N802
        frontend, arrival_s = self.frontend, time.monotonic()
        model = frontend.model(message.model_name, message.model_version)
        request = request_of(message)
        if request.timeout_s is None:
            request.timeout_s = context.time_remaining()
        with frontend.reserve(model, request, frontend.inputs(model).validate(request), arrival_s) as query:
            query.fill(b"")
            reply = _reply(request, model, await query.score())
            query.answered()
            return reply

    async def ModelStreamInfer(  # noqa: N802
        self, messages: AsyncIterator[Any], context: _Context
    ) -> AsyncIterator[Any]:
        """One request after the other; a request that fails leaves the stream open."""
        async for message in messages:
            try:
                if message is None:
                    raise RequestError(_unreadable("ModelInfer"))
                response = await self.ModelInfer(message, context)
                yield pb.ModelStreamInferResponse(infer_response=response)
            except (RequestError, RefusedError, UnscoredError) as e:
                yield pb.ModelStreamInferResponse(error_message=str(e))

    def _guarded(self, call: Callable[[Any, _Context], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """A call whose errors become statuses."""

        async def guarded(message: Any, context: _Context) -> Any:
            try:
                if message is None:
                    raise RequestError(_unreadable(call.__name__))
                return await call(message, context)
            except (RequestError, RefusedError, UnscoredError) as e:
                status, trailing = _status(e)
                await context.abort(status, str(e), trailing)
            except Exception:
                _log.exception("a call failed", extra={"call": call.__name__})
                await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says how")

        return guarded


def _status(e: Exception) -> tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]:
    """The status of an error, and what is sent after it."""
    if isinstance(e, NotFoundError):
        return grpc.StatusCode.NOT_FOUND, ()
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


def _reply(request: Request, model: ServedModel, scores: NDArray[Any]) -> Any:
    return pb.ModelInferResponse(
        model_name=model.name,
        model_version=model.version,
        id=request.id,
        outputs=[pb.ModelInferResponse.InferOutputTensor(name=OUTPUT, datatype="FP32", shape=scores.shape)],
        raw_output_contents=[scores.astype("<f4", copy=False).tobytes()],
    )


def _message(call: str, kind: str) -> Any:
    return getattr(pb, call + kind)


def _reader(message: Any) -> Callable[[bytes], Any]:
    """Reads a message; None for bytes that are not one, which is answered as the client's error."""

    def read(raw: bytes) -> Any:
        try:
            return message.FromString(raw)
        except DecodeError:
            return None

    return read


def _unreadable(call: str) -> str:
    return f"request: expected a {call}Request message, got bytes that are none"
