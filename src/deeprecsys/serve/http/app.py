"""The protocol over HTTP, as an ASGI application without a framework."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson

from deeprecsys.node.service.backend import RefusedError, RetiredError, ServedModel, UnscoredError
from deeprecsys.serve.frontend import Frontend
from deeprecsys.serve.http.bodies import Body, ChunkedBody, DecodedBody, Receive
from deeprecsys.serve.http.connection import RequestHandle, handle_of
from deeprecsys.serve.memory import FullError
from deeprecsys.serve.metrics.dashboard import CSP, live_document, page_html
from deeprecsys.serve.metrics.prometheus import exposition
from deeprecsys.serve.metrics.statistics import statistics_document
from deeprecsys.serve.protocol.describe import config_document, model_document, server_document
from deeprecsys.serve.protocol.errors import (
    EncodingError,
    ForbiddenError,
    GoneError,
    MethodError,
    NotFoundError,
    RequestError,
    SlowError,
    TooLargeError,
    shown,
)
from deeprecsys.serve.protocol.orca import FORMAT, METRICS, report
from deeprecsys.serve.protocol.request import check_binary, verb_parameters
from deeprecsys.serve.protocol.row_tensors import rows_of
from deeprecsys.serve.protocol.values import http_reply
from deeprecsys.serve.repository import MOST_PARAMETERS_BYTES, MOST_ROWS_BYTES

T = TypeVar("T")
Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Response = tuple[int, Headers, bytes]
Page = Callable[[], tuple[str, bytes]]
"""Returns a page's content type and body."""

MOST_READING = 8
"""Seats that are held at a time by queries whose bodies are being read: a slow client holds its seat for as
long as it takes. Further bodies are read into memory of their own first."""
_FORMAT = FORMAT.encode()
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_PAGE = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", CSP),
]
_log = logging.getLogger(__name__)


class HttpApp:
    """Answers `/v2…`, `/metrics` and the built-in page.

    Args:
        loopback: whether only this machine can connect. A Host that is a domain's name is then refused: some
            page's script has made a browser take that name for this machine.
    """

    def __init__(self, frontend: Frontend, loopback: bool = False) -> None:
        self.frontend, self._loopback = frontend, loopback
        self._host = b""  # the last that was local
        backend, counters, html = frontend.backend, frontend.counters, page_html()
        self.pages: dict[str, Page] = {
            "/": lambda: ("text/html; charset=utf-8", html),
            "/live.json": lambda: ("application/json", orjson.dumps(live_document(backend, counters))),
            "/metrics": lambda: exposition(backend, counters, frontend.pool),
        }
        self._reading = 0  # queries with a seat whose body is being read

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
                headers.append((b"connection", b"close"))  # what is left of the body is not read
        except RefusedError as e:
            after = b"%d" % max(1, math.ceil(e.retry_after_s))
            status, headers, body = 503, [_JSON, (b"retry-after", after)], _error(str(e))
        except UnscoredError as e:
            status = 404 if isinstance(e, RetiredError) else 400 if e.bad_input else 500
            headers, body = [_JSON], _error(str(e))
        except Exception:
            _log.exception("a request failed", extra={"path": scope["path"]})
            status, headers, body = 500, [_JSON], _error("the server failed; its log says how")
        if (found := _load_report(scope, self.frontend)) is not None:
            headers.append((METRICS.encode(), found))
        headers.append((b"content-length", b"%d" % len(body)))
        if scope["method"] == "HEAD":
            body = b""
        if handle := handle_of(scope):
            return await handle.reply(status, headers, body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path: str = scope["path"]
        if not path.endswith("/infer"):  # which looks at its headers itself
            self._headers(scope["headers"])
        page = self.pages.get(path)
        if page is not None:
            return _show(scope, page)
        parts = path.strip("/").split("/")
        if parts[0] != "v2":
            raise NotFoundError(f"path {shown(path)}: expected /, /metrics or /v2...")
        if len(parts) >= 3 and parts[1] == "models":
            return await self._model(scope, receive, parts[2], parts[3:])
        if len(parts) == 5 and parts[1:3] == ["repository", "models"]:
            return await self._repository(scope, receive, parts[3], parts[4])
        return self._server(scope, "/".join(parts[1:]))

    def _server(self, scope: Scope, what: str) -> Response:
        if what == "repository/index":
            _method(scope, "POST", "GET")
            return _document(self.frontend.index())
        answers: dict[str, Callable[[], Response]] = {
            "": lambda: _document(server_document()),
            "health/live": lambda: _document({"live": True}),
            "health/ready": lambda: _ready({}, self.frontend.backend.ready),
        }
        if what not in answers:
            raise NotFoundError(f"path {shown('/v2/' + what)}: expected health, models or repository/index")
        _method(scope, "GET")
        return answers[what]()

    async def _repository(self, scope: Scope, receive: Receive, name: str, verb: str) -> Response:
        """The verbs that change weights."""
        _method(scope, "POST")
        named = dict(scope["headers"])
        authorization, origin = (
            named.get(key, b"").decode("latin-1") for key in (b"authorization", b"origin")
        )
        repository = self.frontend.repository(authorization, origin)
        if verb not in ("load", "unload", "rows"):
            raise NotFoundError(f"path {shown(scope['path'])}: expected load, unload or rows")
        length, head_length, coding = self._headers(scope["headers"])
        if coding:
            raise EncodingError(f"Content-Encoding: expected none, got {shown(coding)}")
        limit = MOST_ROWS_BYTES if verb == "rows" else MOST_PARAMETERS_BYTES
        body = self._body(handle_of(scope), receive, limit, length)
        try:
            raw = await body.read_head(None)
            if verb == "load":
                return _document({"version": await repository.load(name, verb_parameters(raw))})
            if verb == "unload":
                await repository.unload(name, verb_parameters(raw))
                return _document({})
            arrays, file = rows_of(raw, head_length)
            return _document({"rows": await repository.write_rows(name, arrays, file)})
        finally:
            body.close()

    async def _model(self, scope: Scope, receive: Receive, name: str, rest: list[str]) -> Response:
        counters = self.frontend.counters
        if name == "stats" and not rest:
            _method(scope, "GET")
            return _document(statistics_document(counters, self.frontend.backend.models.values()))
        version = ""
        if rest and rest[0] == "versions":
            version, rest = (rest[1] if len(rest) > 1 else ""), rest[2:]
            if not version:
                raise NotFoundError(f"path {shown(scope['path'])}: expected a version after versions/")
        model = self.frontend.model(name, version)
        what = "/".join(rest)
        if what == "infer":
            _method(scope, "POST")
            return await self._infer(scope, receive, model, version)
        answers: dict[str, Callable[[], Response]] = {
            "": lambda: _document(model_document(model)),
            "ready": lambda: _ready({"name": model.name}, model.ready),
            "config": lambda: _document(config_document(model)),
            "stats": lambda: _document(statistics_document(counters, [model])),
        }
        if what not in answers:
            raise NotFoundError(f"path {shown(scope['path'])}: expected infer, ready, config or stats")
        _method(scope, "GET")
        return answers[what]()

    async def _infer(self, scope: Scope, receive: Receive, model: ServedModel, version: str) -> Response:
        frontend, arrival_s = self.frontend, time.monotonic()
        length, head_length, coding = self._headers(scope["headers"])
        frontend.admit(model, length or 0, arrival_s)
        inputs = frontend.inputs(model)
        body = self._body(handle_of(scope), receive, inputs.body_limit, length)
        if coding:
            body, length = DecodedBody(body, coding, frontend.pool, inputs.body_limit), None
        try:
            head = await body.read_head(head_length)
            request, validated = frontend.heads.read(inputs, head)
            if length is not None:
                check_binary(request, length - len(head))
            if not body.complete and self._reading >= MOST_READING:
                await body.buffer()
            with frontend.reserve(model, request, validated, arrival_s, version) as query:
                self._reading += 1
                try:
                    data = await body.read_data(len(head), validated, query.seat)
                finally:
                    self._reading -= 1
                if length is None:
                    check_binary(request, len(data))
                query.fill(data)
                body.close()
                scores = query.checked(await unless_gone(query.score(), body.watch))
                version = query.seat.version
                reply, json_length = http_reply(request, model.name, version, inputs.outputs, scores)
                query.answered()
        except FullError as e:
            frontend.record_refused(model, arrival_s, e)
            raise
        finally:
            body.close()
        if json_length is None:
            return 200, [_JSON], reply
        return 200, [_BINARY, (b"inference-header-content-length", b"%d" % json_length)], reply

    def _headers(self, headers: Headers) -> tuple[int | None, int | None, str]:
        """Content-Length and Inference-Header-Content-Length, where they are given, and the content coding.

        Raises:
            RequestError: one of them is wrong; ForbiddenError: a page of another site has sent the request.
        """
        length = head = None
        coding = origin = host = b""
        for name, value in headers:
            if name == b"content-length":
                length = _whole(name, value)
            elif name == b"inference-header-content-length":
                head = _whole(name, value)
            elif name == b"content-encoding":
                coding = value.strip().lower()
            elif name == b"origin":
                origin = value
            elif name == b"host":
                host = value
        if origin and origin.partition(b"://")[2] != host:
            raise ForbiddenError(f"Origin: expected none, or that of this server, got {shown(origin)}")
        if self._loopback and host != self._host:
            if not _local(host):
                raise ForbiddenError(f"Host: expected localhost or an address, got {shown(host)}")
            self._host = host
        if coding not in (b"", b"identity", b"gzip", b"deflate"):
            raise EncodingError(f"Content-Encoding: expected gzip, deflate or none, got {shown(coding)}")
        return length, head, "" if coding == b"identity" else coding.decode()

    def _body(self, handle: RequestHandle | None, receive: Receive, limit: int, length: int | None) -> Body:
        """A request's body, of at most `limit` bytes."""
        if length is not None and length > limit:
            raise TooLargeError(f"body: expected at most {limit} bytes, got {length}")
        if handle is not None and handle.large is not None:
            return handle.large.charged_to(self.frontend.pool)
        return ChunkedBody(receive, self.frontend.pool, limit, handle)


async def unless_gone(scores: Awaitable[T], watch: Callable[[Callable[[], None]], Callable[[], object]]) -> T:
    """Await something, unless the client goes away first.

    Args:
        watch: calls what it is given when the client has gone; returns what ends that.

    Raises:
        GoneError: it has; what was awaited is cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    def gone() -> None:
        nonlocal left
        if not left:
            left = True
            task.cancel()

    unwatch = watch(gone)
    try:
        return await scores
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise GoneError from None
    finally:
        unwatch()


def _load_report(scope: Scope, frontend: Frontend) -> bytes | None:
    """The load report that a query asks for."""
    if scope["method"] == "POST":
        for name, value in scope["headers"]:
            if name == _FORMAT:
                return report(value, lambda: frontend.backend.load)
    return None


def _whole(name: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise RequestError(f"{name.decode().title()}: expected a number of bytes, got {shown(value)}")
    return int(value)


def _local(host: bytes) -> bool:
    """Whether a Host is no name of a domain: an address, or a name without a dot."""
    name = host.rpartition(b":")[0] if host[-1:] != b"]" and b":" in host else host
    if b"." not in name or name.lower().endswith(b".localhost"):
        return True
    return name.replace(b".", b"").isdigit()


def _method(scope: Scope, *allowed: str) -> None:
    method = scope["method"]
    if method not in allowed and not (method == "HEAD" and "GET" in allowed):
        raise MethodError(
            f"method of {shown(scope['path'])}: expected {' or '.join(allowed)}, got {shown(method)}"
        )


def _show(scope: Scope, page: Page) -> Response:
    _method(scope, "GET")
    content_type, body = page()
    return 200, [(b"content-type", content_type.encode()), *_PAGE], body


def _document(doc: Any) -> Response:
    return 200, [_JSON], orjson.dumps(doc)


def _ready(doc: dict[str, Any], ready: bool) -> Response:
    return 200 if ready else 503, [_JSON], orjson.dumps(doc | {"ready": ready})


def _error(message: str) -> bytes:
    return orjson.dumps({"error": message})
