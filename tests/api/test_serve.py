"""A server from Python: in the background, with an accelerator, and what cannot be served."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("uvloop", reason="the extra `serve` is not installed")

import deeprecsys as dr
from deeprecsys.core.profile import Point
from tests.node.test_node import alive

pytestmark = pytest.mark.live
SMALL = {"rows_scale": 0.001, "workers": 1, "spares": 0, "sizes": "fixed:64", "sla_ms": 200.0}
PROFILE = dr.LatencyProfile("ncf", (Point(1, 1, (1e-3,)), Point(1, 100, (5e-3,))), engine="wait:1,0.05")


def test_a_server_in_the_background_takes_load_and_drains(tmp_path: Path) -> None:
    before, log = set(os.listdir("/dev/shm")), tmp_path / "log"
    with dr.ServerProcess("ncf", profile=PROFILE, log=log, **SMALL) as server:
        assert "ncf: p95 within 200 ms on 1 worker, wait:1,0.05 fp32" in server.points[0]
        with urllib.request.urlopen(f"{server.url}/v2/models/ncf/ready") as answer:
            assert answer.status == 200
        seen = dr.bench(
            "ncf", url=server.url, rate=50, queries=40, sla_ms=200, sizes="fixed:64", progress=None
        )
        assert (seen.served, seen.url, seen.completed) == (1.0, server.url, 40)
        pid = server.pid
        assert alive(pid)
    assert not alive(pid)
    assert set(os.listdir("/dev/shm")) == before
    assert "draining: no new queries" in [json.loads(x)["message"] for x in log.read_text().splitlines()]


def test_bad_input_is_raised_here() -> None:
    with pytest.raises(dr.InputError, match="did you mean 'ncf'"), dr.ServerProcess("nfc"):
        pass
    with (
        pytest.raises(
            dr.InputError, match=r"--engine: expected wait:1,0\.05, of the profile of ncf, got null"
        ),
        dr.ServerProcess("ncf", profile=PROFILE, engine="null"),
    ):
        pass


def test_large_queries_may_be_served_by_an_accelerator() -> None:
    with dr.ServerProcess(
        "ncf", profile=PROFILE, gpu="tests.engine.devices:OnCpu", offload_above=100, batch_size=64,
        **{**SMALL, "sizes": "fixed:200"},
    ) as server:  # fmt: skip
        assert "on 1 worker and 1 accelerator, wait:1,0.05 and tests.engine.devices:OnCpu" in server.points[0]
        seen = dr.bench(
            "ncf",
            url=server.url,
            rate=20,
            queries=20,
            rows_scale=0.001,
            sla_ms=200,
            sizes="fixed:200",
            progress=None,
        )
        assert seen.served == 1.0
        with urllib.request.urlopen(f"{server.url}/metrics") as answer:
            metrics = answer.read().decode()
        assert 'device="gpu"' in metrics


def test_an_accelerator_without_answers_is_refused() -> None:
    with pytest.raises(dr.InputError, match="gpu: expected an engine that scores, got emulated"):
        dr.serve("ncf", gpu="emulated:gtx-1080-ti")
