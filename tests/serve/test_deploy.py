"""Deployment files name what there is."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.serve.envoy import configuration, executable
from deeprecsys.api.serve import DRAIN_S
from deeprecsys.cli import cli
from tests.serve.asgi import Direct
from tests.serve.stand_in import StandIn

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def test_panels_add_pods_up() -> None:
    """Gauges have a value for each pod: a panel that shows them as they are has a line for each."""
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    over = "sum|max|min|avg|histogram_quantile"
    alone = [t["expr"] for p in panels for t in p["targets"] if not re.match(over, t["expr"])]
    assert alone == []


def test_the_pod_gives_up_what_it_does_not_need() -> None:
    deployment = next(doc for doc in manifests() if doc["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert (context["runAsNonRoot"], context["allowPrivilegeEscalation"]) == (True, False)
    assert context["capabilities"] == {"drop": ["ALL"]}
    (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] >= int(pause) + DRAIN_S
    assert {m["name"] for m in container["volumeMounts"]} <= {v["name"] for v in spec["volumes"]}


def test_the_image_copies_what_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    http = Direct(StandIn.of())
    _, _, body = asyncio.run(http.call("GET", "/metrics"))
    made = set(re.findall(r"^# TYPE (\S+)", body.decode(), re.MULTILINE))
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    asked = {n for p in panels for t in p["targets"] for n in re.findall(r"deeprecsys_\w+", t["expr"])}
    assert {re.sub(r"_(bucket|sum|count)$", "", n) for n in asked} <= made
    assert all(p["description"] for p in panels)
    assert {"deeprecsys_queue_seconds_sum", "deeprecsys_merge_seconds_sum"} <= asked


def manifests() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [doc for f in files for doc in yaml.safe_load_all(f.read_text())]


def test_probes_ask_for_paths_that_exist() -> None:
    http = Direct(StandIn.of())
    files = [*(DEPLOY / "kubernetes").glob("*.yaml"), DEPLOY / "Dockerfile", DEPLOY / "envoy" / "envoy.yaml"]
    paths = set(re.findall(r"(/v2/[\w/]+|/metrics)", "".join(f.read_text() for f in files)))
    assert len(paths) == 3
    for path in paths:
        assert asyncio.run(http.call("GET", path))[0] == 200


def test_alerts_and_scaling_ask_for_metrics_that_exist() -> None:
    _, _, body = asyncio.run(Direct(StandIn.of()).call("GET", "/metrics"))
    made = {n.removesuffix("_total") for n in re.findall(r"^# TYPE (\S+)", body.decode(), re.MULTILINE)}
    for name in ("alerts.yaml", "autoscaling.yaml"):
        asked = set(re.findall(r"\bdeeprecsys_\w+", (DEPLOY / "kubernetes" / name).read_text()))
        assert asked
        assert {n.removesuffix("_total") for n in asked} <= made


def test_manifests_belong_together() -> None:
    kinds = {doc["kind"]: doc for doc in manifests()}
    node, runtime = kinds["Deployment"], kinds["ServingRuntime"]
    labels = node["spec"]["template"]["metadata"]["labels"]
    assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == node["metadata"]["name"]
    services = {doc["metadata"]["name"] for doc in manifests() if doc["kind"] == "Service"}
    envoy = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())
    (end,) = envoy["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert end["endpoint"]["address"]["socket_address"]["address"] in services
    named = kinds["InferenceService"]["spec"]["predictor"]["model"]["runtime"]
    assert named == runtime["metadata"]["name"]
    (container,) = runtime["spec"]["containers"]
    assert (container["name"], container["command"]) == ("kserve-container", ["deeprecsys", "serve"])
    arguments = [a.replace("{{.Name}}", "ranker") for a in container["args"]]
    found = cli.commands["serve"].make_context("serve", arguments).params
    assert found["http_port"] == container["ports"][0]["containerPort"]
    for name in kinds["Kustomization"]["resources"]:
        assert (DEPLOY / "kubernetes" / name).exists()


def test_kubernetes_own_kinds_keep_to_their_schemas() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    own = [doc for doc in manifests() if doc["apiVersion"] in ("v1", "apps/v1", "policy/v1")]
    assert len(own) == 4
    for doc in own:
        validate(doc, "1.33", strict=True)


@pytest.mark.parametrize("policy", ["orca", "least_request"])
def test_envoy_takes_its_configuration(policy: str, tmp_path: Path) -> None:
    pytest.importorskip("envoy")
    config = tmp_path / "envoy.yaml"
    config.write_text(yaml.safe_dump(configuration(policy, [9001, 9002], 9000, 9003)))
    command = [executable(), "--mode", "validate", "-c", config, "--log-level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
