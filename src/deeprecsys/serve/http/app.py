"""The protocol over HTTP, as an ASGI application without a framework."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import orjson
from numpy.typing import NDArray

from deeprecsys.node.service.backend import RefusedError, ServedModel, UnscoredError
from deeprecsys.serve.frontend import Frontend, unless_gone
from deeprecsys.serve.http.bodies import Body, BufferPool, FullError, Receive, body_of
from deeprecsys.serve.http.connection import EXTENSION, RequestHandle
from deeprecsys.serve.http.zero_copy import MOST, goes_straight
from deeprecsys.serve.metrics.pages import Page, pages
from deeprecsys.serve.protocol.describe import (
    config_document,
    index_document,
    model_document,
    server_document,
)
from deeprecsys.serve.protocol.errors import (
    EncodingError,
    GoneError,
    MethodError,
    NotFoundError,
    RequestError,
    SlowError,
    TooLargeError,
    shown,
)
from deeprecsys.serve.protocol.inputs import Binary
from deeprecsys.serve.protocol.reply import http_reply
from deeprecsys.serve.protocol.request import check_binary
from deeprecsys.serve.protocol.statistics import statistics_document

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_log = logging.getLogger(__name__)


class HttpApp:
    """Answers `/v2…`, `/metrics` and the built-in page."""

    def __init__(self, face: Frontend) -> None:
        self.face = face
        self.pages = pages(face)
        self._room = BufferPool()
        self._coming = 0  # bodies that are read into places of queries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            status, headers, body = await self._answer(scope, receive)
        except GoneError:
            return
        except RequestError as e:
            status, headers, body = e.status, [_JSON], _error(str(e))
            if isinstance(e, TooLargeError | EncodingError | SlowError):
                headers.append((b"connection", b"close"))  # the rest of the body is not waited for
        except RefusedError as e:
            after = b"%d" % max(1, math.ceil(e.retry_after_s))
            status, headers, body = 503, [_JSON, (b"retry-after", after)], _error(str(e))
        except UnscoredError as e:
            status, headers, body = (400 if e.bad_input else 500), [_JSON], _error(str(e))
        except Exception:
            _log.exception("a request failed", extra={"path": scope["path"]})
            status, headers, body = 500, [_JSON], _error("the server failed; its log says how")
        headers.append((b"content-length", b"%d" % len(body)))
        if scope["method"] == "HEAD":
            body = b""
        asked: RequestHandle | None = scope.get("extensions", {}).get(EXTENSION)
        if asked is None or not asked.reply(status, headers, body):
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, Headers, bytes]:
        path: str = scope["path"]
        page = self.pages.get(path)
        if page is not None:
            return _show(scope, page)
        parts = path.strip("/").split("/")
        if parts[0] != "v2":
            raise NotFoundError(f"path {shown(path)}: expected /, /metrics or /v2...")
        if len(parts) >= 3 and parts[1] == "models":
            return await self._model(scope, receive, parts[2], parts[3:])
        return self._server(scope, "/".join(parts[1:]))

    def _server(self, scope: Scope, what: str) -> tuple[int, Headers, bytes]:
        models = self.face.backend.models
        if what == "repository/index":
            _method(scope, "POST", "GET")
            return _document(index_document(models))
        answers: dict[str, Callable[[], tuple[int, Headers, bytes]]] = {
            "": lambda: _document(server_document()),
            "health/live": lambda: (200, [], b""),
            "health/ready": lambda: (200 if self.face.backend.ready else 503, [], b""),
        }
        if what not in answers:
            raise NotFoundError(f"path {shown('/v2/' + what)}: expected health, models or repository/index")
        _method(scope, "GET")
        return answers[what]()

    async def _model(
        self, scope: Scope, receive: Receive, name: str, rest: list[str]
    ) -> tuple[int, Headers, bytes]:
        watch = self.face.watch
        if name == "stats" and not rest:
            _method(scope, "GET")
            return _document(statistics_document(watch, self.face.backend.models.values()))
        version = ""
        if rest and rest[0] == "versions":
            version, rest = (rest[1] if len(rest) > 1 else ""), rest[2:]
            if not version:
                raise NotFoundError(f"path {shown(scope['path'])}: expected a version after versions/")
        served = self.face.model(name, version)
        what = "/".join(rest)
        if what == "infer":
            _method(scope, "POST")
            return await self._infer(scope, receive, served)
        answers: dict[str, Callable[[], tuple[int, Headers, bytes]]] = {
            "": lambda: _document(model_document(served)),
            "ready": lambda: (200 if served.ready else 503, [], b""),
            "config": lambda: _document(config_document(served)),
            "stats": lambda: _document(statistics_document(watch, [served])),
        }
        if what not in answers:
            raise NotFoundError(f"path {shown(scope['path'])}: expected infer, ready, config or stats")
        _method(scope, "GET")
        return answers[what]()

    async def _infer(self, scope: Scope, receive: Receive, served: ServedModel) -> tuple[int, Headers, bytes]:
        arrival = time.monotonic()
        face = self.face
        length, head_length = _lengths(scope["headers"])
        body = body_of(scope, receive, self._room, face.inputs(served).body_limit, length)
        face.admit_unread(served, length or 0, arrival)
        try:
            head = await body.first(head_length)
            request, fit = face.read_head(served, head)
            binary: Binary | Callable[[Sequence[memoryview]], Awaitable[None]]
            if body.straight and length is not None and self._coming < MOST and goes_straight(fit):
                check_binary(request, length - len(head))
                binary = partial(self._read, body, len(head))
            else:
                if body.more:  # else it is asked as its place is taken, which is at once
                    deadline = request.deadline_s(arrival)
                    face.backend.admit(served.name, fit.items, arrival_s=arrival, deadline_s=deadline)
                binary = await body.rest(len(head))
                check_binary(request, len(binary))

            def scored(coming: Awaitable[NDArray[Any]]) -> Awaitable[NDArray[Any]]:
                body.close()  # its data are in their seat
                return unless_gone(coming, body.watch)

            answer, json_length = await face.answer(
                served,
                request,
                fit,
                binary,
                arrival,
                lambda scores: http_reply(request, served.name, served.version, scores),
                scored,
            )
        except FullError as e:
            face.shed(served, arrival, e)
            raise
        finally:
            body.close()
        if json_length is None:
            return 200, [_JSON], answer
        return 200, [_BINARY, (b"inference-header-content-length", b"%d" % json_length)], answer

    async def _read(self, body: Body, start: int, memories: Sequence[memoryview]) -> None:
        """Have a body in the place of its query."""
        self._coming += 1
        try:
            await body.into(start, memories)
        finally:
            self._coming -= 1


def _lengths(headers: Headers) -> tuple[int | None, int | None]:
    """Content-Length and Inference-Header-Content-Length, where they are given."""
    length = head = None
    for name, value in headers:
        if name == b"content-length":
            length = _whole(name, value)
        elif name == b"inference-header-content-length":
            head = _whole(name, value)
        elif name == b"content-encoding" and value not in (b"", b"identity"):
            raise EncodingError(f"Content-Encoding: expected none, got {shown(value)}")
    return length, head


def _whole(name: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise RequestError(f"{name.decode().title()}: expected a number of bytes, got {shown(value)}")
    return int(value)


def _method(scope: Scope, *allowed: str) -> None:
    method = scope["method"]
    if method not in allowed and not (method == "HEAD" and "GET" in allowed):
        raise MethodError(
            f"method of {shown(scope['path'])}: expected {' or '.join(allowed)}, got {shown(method)}"
        )


def _show(scope: Scope, page: Page) -> tuple[int, Headers, bytes]:
    _method(scope, "GET")
    content_type, body = page()
    return 200, [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")], body


def _document(doc: Any) -> tuple[int, Headers, bytes]:
    return 200, [_JSON], orjson.dumps(doc)


def _error(message: str) -> bytes:
    return orjson.dumps({"error": message})
