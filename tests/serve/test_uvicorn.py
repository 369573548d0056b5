"""What is used of uvicorn's private classes is there, in one file; and HTTP without it, by plain ASGI."""

from __future__ import annotations

import asyncio
import re
from contextlib import closing
from pathlib import Path

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import deeprecsys
from deeprecsys.serve import app
from deeprecsys.serve.http import connection
from tests.serve import test_wire as wire
from tests.serve.conftest import start
from tests.serve.stand_in import MAX_ITEMS, StandIn


def test_this_uvicorn_has_all_that_is_used_of_it() -> None:
    assert connection.missing() == [], f"uvicorn {uvicorn.__version__} has changed: mend http/connection.py"


def test_what_a_uvicorn_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HttpToolsProtocol, "on_body")
    monkeypatch.setattr(connection, "_FLOW_USES", ("resume_reading", "no_such"))
    assert connection.missing() == ["HttpToolsProtocol.on_body", "FlowControl.no_such"]
    assert app.plain_asgi()


def test_one_file_knows_uvicorn() -> None:
    root = Path(deeprecsys.__file__).parent
    found = [
        str(p.relative_to(root))
        for p in root.rglob("*.py")
        if re.search(r"^\s*(import|from) uvicorn", p.read_text(), re.M)
    ]
    assert found == ["serve/http/connection.py"]


def test_plain_asgi_gives_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(app.PLAIN_ASGI, "1")
    monkeypatch.setattr(connection, "RequestHandle", None)  # no request may get one
    running = start(StandIn.of(wide=wire.WIDE), asyncio.run)
    try:
        with closing(wire.connect(running)) as s:
            for items in (1, MAX_ITEMS, 1):
                head, raw, scores = wire.query(items)
                s.sendall(wire.request(head, raw) + head + raw)
                wire.check(s.answer(), scores)
            s.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert s.answer()[0] == 200
        with closing(wire.connect(running)) as s:
            head, raw, _ = wire.query()
            s.sendall(wire.request(head, raw) + (head + raw)[:70_000])
        wire.wait_for(lambda: wire.asked(running) == 0)
        assert running.backend.open == 0
    finally:
        running.end()
