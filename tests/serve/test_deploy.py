"""Deployment files name what there is."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from tests.serve.asgi import Direct
from tests.serve.stand_in import StandIn

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    http = Direct(StandIn.of())
    _, _, body = asyncio.run(http.call("GET", "/metrics"))
    made = set(re.findall(r"^# TYPE (\S+)", body.decode(), re.MULTILINE))
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    asked = {n for p in panels for t in p["targets"] for n in re.findall(r"deeprecsys_\w+", t["expr"])}
    assert {re.sub(r"_(bucket|sum|count)$", "", n) for n in asked} <= made
    assert {"deeprecsys_queue_seconds_sum", "deeprecsys_merge_seconds_sum"} <= asked


def test_probes_ask_for_paths_that_exist() -> None:
    http = Direct(StandIn.of())
    text = (DEPLOY / "kubernetes.yaml").read_text() + (DEPLOY / "Dockerfile").read_text()
    paths = set(re.findall(r"(/v2/[\w/]+|/metrics)", text))
    assert len(paths) == 3
    for path in paths:
        assert asyncio.run(http.call("GET", path))[0] == 200
