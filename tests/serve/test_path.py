"""A query's path through the server: few modules, and control that never turns back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import deeprecsys
from deeprecsys.node.service.backend import Backend
from deeprecsys.serve.app import serve_forever
from tests.serve import test_wire as wire
from tests.serve.bodies import binary_body
from tests.serve.harness import SMALL, features, run, service
from tests.serve.stand_in import MAX_ITEMS, StandIn

ROOT = f"{Path(deeprecsys.__file__).parent}/"
LAYERS = (
    "serve/app", "serve/http/ serve/grpc", "serve/frontend", "serve/protocol/ serve/metrics/ serve/memory",
    "node/", "core/ zoo/",
)  # fmt: skip
"""As the linter has them, the highest first."""
STEPS = {
    ("serve/http/connection", "whole_body"),  # a body in one piece,
    ("serve/http/connection", "divert"),  # or read past the parser
    ("serve/protocol/inputs", "read"),  # its head
    ("core/dispatcher", "late_by_s"),  # may its query come in?
    ("serve/protocol/values", "fill"),
    ("core/dispatcher", "handle"),  # it has come in, and its batches have ended
    ("serve/protocol/values", "http_reply"),
    ("serve/http/connection", "reply"),
}
"""Functions that take a request on by one step. Modules on the stack as they begin are on its path; what only
helps those, such as an allocator of rows, is not."""


class Recorded:
    """What was recorded: calls between modules, and the modules on the stack at each step."""

    def __init__(self) -> None:
        self.calls: set[tuple[str, str]] = set()
        self.visited: dict[str, None] = {}
        self.asked: list[str] = []
        self.late_by_s = 0

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> None:
        if event != "call" or not (to := module(frame)):
            return
        stack, at = [to], frame.f_back
        while at is not None:
            if found := module(at):
                stack.append(found)
            at = at.f_back
        if len(stack) > 1:
            self.calls.add((stack[1], to))
        name = frame.f_code.co_name
        if name in ("admit", "reserve") and to == "serve/frontend":
            self.asked.append(name)
        if (to, name) == ("core/dispatcher", "late_by_s") and not stack[1].startswith("core/"):
            self.late_by_s += 1
        if (to, name) in STEPS:
            self.visited.update(dict.fromkeys(reversed(stack)))


def module(frame: FrameType) -> str:
    """A frame's module, as a path below the package; "" of others."""
    file = frame.f_code.co_filename
    return file[len(ROOT) : -len(".py")] if file.startswith(ROOT) else ""


def layer(name: str) -> int:
    return next(i for i, prefixes in enumerate(LAYERS) if name.startswith(tuple(prefixes.split())))


@contextmanager
def recorded() -> Iterator[Recorded]:
    """What this thread does, which has the server's loop."""
    found = Recorded()
    sys.setprofile(found)
    try:
        yield found
    finally:
        sys.setprofile(None)


async def query(backend: Backend, name: str, head: bytes, raw: bytes) -> Recorded:
    """Send the same request twice to a server in this thread; the path of the second."""
    stop, ports = asyncio.Event(), asyncio.Queue[int]()
    serving = asyncio.ensure_future(
        serve_forever(
            backend, host="127.0.0.1", http_port=0, grpc_port=0, stop=stop,
            ready=lambda http, _grpc: ports.put_nowait(http),
        )
    )  # fmt: skip
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", await ports.get(), limit=1 << 24)
        request = wire.request(head, raw).replace(wire.PATH.encode(), f"/v2/models/{name}/infer".encode())
        for _ in range(2):
            with recorded() as found:
                writer.write(request + head + raw)
                answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            length = int(answer.lower().split(b"content-length: ")[-1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()
        return found
    finally:
        stop.set()
        await serving


def check(found: Recorded) -> None:
    upward = {
        (a, b)
        for a, b in found.calls
        if layer(b) < layer(a) and b != "serve/metrics/counters"  # the listener of what ended
    }
    assert upward == set()
    assert found.asked == ["admit", "reserve"]
    assert found.late_by_s <= 2  # once for each; the dispatcher looks again at what waits
    entered = {m for call in found.calls for m in call if m.startswith("serve/")}
    assert len(entered) <= 10, entered  # with all that only helps
    assert len(found.visited) <= 12, list(found.visited)
    assert {"serve/http/app", "serve/frontend"} < found.visited.keys()


@pytest.mark.parametrize("items", [1, MAX_ITEMS])
def test_the_network_face_is_a_line_of_few_modules(items: int) -> None:
    head, raw, _ = wire.query(items)
    found = asyncio.run(query(StandIn.of(wide=wire.WIDE), "wide", head, raw))
    check(found)


@pytest.mark.live
@pytest.mark.parametrize("items", [1, 100])
def test_a_query_visits_at_most_12_modules_from_the_connection_to_the_dispatcher_and_back(items: int) -> None:
    async def scenario() -> None:
        async with service(SMALL) as s:
            given = features(s.models[SMALL.name].schema, items, 0)
            head, raw = binary_body(given, parameters={"binary_data_output": True})
            check(await query(s, SMALL.name, head, raw))

    run(scenario())
