"""Load reports: what a proxy or a client balances by (Open Request Cost Aggregation, `xds.data.orca.v3`).

A client that sends `endpoint-load-metrics-format: text`, `json` or `bin` gets a report with its answer, as
from Triton and vLLM. Envoy reads each; gRPC's clients read the binary one of the trailing metadata, unasked.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping

import orjson

from deeprecsys.node.service.backend import NodeLoad

FORMAT, METRICS, METRICS_BIN = (
    "endpoint-load-metrics-format",
    "endpoint-load-metrics",
    "endpoint-load-metrics-bin",
)
_TAGS = {"rps_fractional": b"\x31", "application_utilization": b"\x49"}
"""Field number and wire type (64 bits) of the message's fields."""


def fields(load: NodeLoad) -> dict[str, float]:
    """A report's values; utilisation is 0 where nothing is offered, 1 at capacity, and more above it."""
    return {"application_utilization": max(1.0 - load.headroom, 0.0), "rps_fractional": load.rate_qps}


def message(load: NodeLoad) -> bytes:
    """A report as the protocol buffers' message."""
    return b"".join(_TAGS[name] + struct.pack("<d", value) for name, value in fields(load).items())


def _text(load: NodeLoad) -> bytes:
    return b"TEXT " + ", ".join(f"{name}={value:.6g}" for name, value in fields(load).items()).encode()


def _json(load: NodeLoad) -> bytes:
    return b"JSON " + orjson.dumps({name: round(value, 6) for name, value in fields(load).items()})


def _bin(load: NodeLoad) -> bytes:
    return b"BIN " + base64.b64encode(message(load))


_FORMATS: Mapping[bytes, Callable[[NodeLoad], bytes]] = {b"text": _text, b"json": _json, b"bin": _bin}


def report(asked: bytes, load: Callable[[], NodeLoad]) -> bytes | None:
    """The value of the header with the report; None for a format that there is not, as from Triton and vLLM.

    Args:
        asked: the format, in any case; load: called if there is a report.
    """
    made = _FORMATS.get(asked.strip().lower())
    return made(load()) if made else None
