"""The HTTP application without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson

from deeprecsys.serve.frontend import Frontend
from deeprecsys.serve.http.app import HttpApp
from deeprecsys.serve.metrics.counters import Counters
from tests.serve.stand_in import StandIn


class Direct:
    """Calls the application; `chunks` are how the body comes in."""

    def __init__(self, backend: StandIn, loopback: bool = False) -> None:
        self.backend, self.watch = backend, Counters()
        backend.listen(self.watch)
        self.frontend = Frontend(backend, self.watch)
        self.app = HttpApp(self.frontend, loopback)
        self.read = 0  # chunks that the application took

    async def call(
        self, method: str, path: str, chunks: Iterable[bytes] = (), headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        body = list(chunks) or [b""]
        sent: list[dict[str, Any]] = []
        self.read = 0
        named = {"content-length": str(sum(map(len, body))), **(headers or {})}

        async def receive() -> dict[str, Any]:
            if self.read == len(body):
                await asyncio.Event().wait()
            self.read += 1
            return {"type": "http.request", "body": body[self.read - 1], "more_body": self.read < len(body)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in named.items()],
        }
        await self.app(scope, receive, send)
        start, end = sent
        return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, end["body"]

    def post(
        self, path: str, *chunks: bytes, head: int | str | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, document (or bytes, if it is no JSON) and headers."""
        if head is not None:
            headers["inference-header-content-length"] = str(head)
        status, back, body = asyncio.run(self.call("POST", path, chunks, headers))
        return status, body if "inference-header-content-length" in back else orjson.loads(body), back

    def infer(self, model: str, *chunks: bytes, **more: Any) -> tuple[int, Any]:
        return self.post(f"/v2/models/{model}/infer", *chunks, **more)[:2]


class Paused(Direct):
    """Stops in the middle of a body until `go` is set."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def infer_in_two(self, path: str, head: bytes, raw: bytes) -> tuple[int, Any]:
        chunks = iter((head, raw[:9], raw[9:]))

        async def receive() -> dict[str, Any]:
            chunk = next(chunks)
            if chunk == raw[9:]:
                self.reached.set()
                await self.go.wait()
            return {"type": "http.request", "body": chunk, "more_body": chunk != raw[9:]}

        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        named = {"content-length": len(head) + len(raw), "inference-header-content-length": len(head)}
        headers = [(k.encode(), b"%d" % v) for k, v in named.items()]
        await self.app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
        return sent[0]["status"], orjson.loads(sent[1]["body"])
