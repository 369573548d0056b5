"""Logs, the missing extra, and addresses that cannot be had."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import subprocess
import sys

import pytest

import deeprecsys as dr
from deeprecsys import extras
from deeprecsys.core.errors import InputError
from deeprecsys.serve import addresses
from deeprecsys.serve.app import serve_forever
from deeprecsys.serve.load.offer import address
from deeprecsys.serve.metrics.histogram import FINE_RATIO, FINE_S, Histogram, quantile
from deeprecsys.serve.metrics.logs import JsonFormatter
from tests.serve.conftest import Running
from tests.serve.stand_in import StandIn


def test_logs_are_json() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.Logger("deeprecsys.serve")
    log.addHandler(handler)
    log.info("serving %s", "wnd", extra={"http_port": 8000})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["level"], first["http_port"]) == ("serving wnd", "info", 8000)
    assert "ValueError: no" in second["error"]


def test_a_missing_extra_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.require("serve", "the network face")
    monkeypatch.setitem(extras.EXTRAS, "serve", ("grpc", "no_such_module"))
    with pytest.raises(InputError, match=r"needs no_such_module: install .* 'deeprecsys-serve\[serve\]'"):
        extras.require("serve", "the network face")


def test_the_command_line_loads_without_the_extra() -> None:
    code = (
        "import sys\n"
        f"for m in {extras.EXTRAS['serve']!r}: sys.modules[m] = None\n"
        "import deeprecsys.cli, deeprecsys.node.service.backend, deeprecsys.serve.addresses"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("taken", ["http", "grpc"])
def test_a_port_that_is_taken(running: Running, taken: str) -> None:
    port = int((running.http if taken == "http" else running.grpc).split(":")[1])
    ports = {"http_port": 0, "grpc_port": 0, f"{taken}_port": port}

    async def serve() -> None:
        backend = StandIn.of()
        try:
            await serve_forever(
                backend, host="127.0.0.1", stop=asyncio.Event(), ready=lambda a, b: None, **ports
            )
        finally:
            assert backend.listeners == []

    with pytest.raises(InputError, match="expected an address to listen on, got 127"):
        asyncio.run(serve())


def test_quantiles_from_bins_are_within_a_bin() -> None:
    h = Histogram(FINE_S)
    assert quantile([h], 0.5) is None
    values = [1e-4 * 1.01**i for i in range(1000)]
    for v in values:
        h.observe(v)
    for q in (0.5, 0.95, 1.0):
        true = values[max(0, round(q * len(values)) - 1)]
        found = quantile([h], q)
        assert found is not None
        assert true <= found <= true * FINE_RATIO * 1.0001


def test_ports_are_checked_before_anything_takes_time(running: Running) -> None:
    http, grpc = (int(a.split(":")[1]) for a in (running.http, running.grpc))
    for ports, option in (((http, 0), "--http-port"), ((0, grpc), "--grpc-port")):
        with pytest.raises(InputError, match=f"{option}: expected an address to listen on, got 127.0.0.1:"):
            addresses.check_addresses("127.0.0.1", *ports)
    with pytest.raises(InputError, match="--grpc-port: expected another than --http-port, got 8000"):
        addresses.check_addresses("127.0.0.1", 8000, 8000)
    with pytest.raises(InputError, match=r"expected an address to listen on, got \[::2\]:0"):
        addresses.check_addresses("::2", 0, 0)
    addresses.check_addresses("127.0.0.1", 0, 0)
    with pytest.raises(InputError, match="--http-port: expected"):
        dr.serve("wnd", http_port=http)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_all_addresses_of_both_kinds() -> None:
    with addresses.listen("::", 0) as listening:
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=10):
                pass


def test_addresses_as_urls_have_them() -> None:
    assert addresses.authority("::1", 80) == "[::1]:80"
    assert addresses.authority("h", 80) == "h:80"
    assert address("http://[::1]:8000") == ("::1", 8000)
    hosts = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "192.0.2.1")
    assert [addresses.loopback(h) for h in hosts] == [True, True, True, False, False, False]
