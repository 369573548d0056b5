"""The server's own pages: the built-in page, its data, and Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files

import orjson

from deeprecsys.node.service.backend import Backend
from deeprecsys.serve.metrics.counters import Counters
from deeprecsys.serve.metrics.dashboard import live_document
from deeprecsys.serve.metrics.prometheus import exposition

Page = Callable[[], tuple[str, bytes]]


def pages(backend: Backend, counters: Counters) -> Mapping[str, Page]:
    """By path: a call that returns a page's content type and body."""
    css = files("deeprecsys.report").joinpath("page.css").read_text()
    html = (
        files("deeprecsys.serve.metrics")
        .joinpath("page.html")
        .read_text()
        .replace("/* page.css */", css)
        .encode()
    )
    return {
        "/": lambda: ("text/html; charset=utf-8", html),
        "/live.json": lambda: ("application/json", orjson.dumps(live_document(backend, counters))),
        "/metrics": lambda: exposition(backend, counters),
    }
