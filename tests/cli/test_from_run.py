"""`--from RUN`: what another command takes from a run of `tune`, and what it says to anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import deeprecsys as dr
from deeprecsys.api.experiment import ExperimentOptions
from deeprecsys.api.from_run import TunedRun
from deeprecsys.api.trials import bench
from deeprecsys.cli import cli
from tests.cli.conftest import Answered, Refused, answered, refused
from tests.fixtures.commands import RELEASE

RUN = RELEASE / "tune"
RESULT = json.loads((RUN / "result.json").read_text())
TUNED = RESULT["tuned"]

__all__ = ["answered", "refused"]


def test_all_that_the_run_had_is_taken_from_its_directory_its_json_and_its_result() -> None:
    for given in (RUN, RUN / "result.json", dr.load_run(RUN)):
        tuned = TunedRun(given)
        assert tuned.model(None) == tuned.model("ncf") == "ncf"
        assert tuned.rate_qps == TUNED["qps"]
        assert tuned.profile == dr.load_run(RUN).latency_profile
        policy, batch_size, offload_above = tuned.knobs(None, None, None)
        assert isinstance(policy, dr.Policy)
        assert policy.describe() == {k: TUNED[k] for k in policy.describe()}
        assert (batch_size, offload_above) == (None, None)
        assert tuned.options({}, ExperimentOptions.__annotations__) == {
            "rows_scale": 0.001, "engine": "wait:8", "precision": "fp32", "threads": 1, "workers": 1,
            "isa": "default", "locality": "zipf:0.9", "arrivals": "poisson", "sizes": "fixed:20",
            "sla_ms": 100.0, "quantile": 95.0,
        }  # fmt: skip


def test_what_is_given_beside_it_wins() -> None:
    tuned = TunedRun(RUN)
    found = tuned.options({"workers": 2, "sizes": None, "target": "low"}, ExperimentOptions.__annotations__)
    assert (found["workers"], found["sizes"], found["target"]) == (2, "fixed:20", "low")
    assert "sla_ms" not in found, "one of them alone may be given"
    assert tuned.knobs("static", 7, None) == ("static", 7, None)
    smaller = tuned.knobs(None, 5, None)[0]
    assert isinstance(smaller, dr.Policy)
    assert (smaller.name, smaller.batch_size) == (TUNED["policy"], 5)


def test_its_drift_is_the_margin_that_serve_keeps(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    result.write_text(json.dumps({**RESULT, "drift_percent": 7.5}))
    assert TunedRun(result).drift == pytest.approx(0.075)
    result.write_text(json.dumps({**RESULT, "drift_percent": None}))
    assert TunedRun(result).drift is None


def test_the_accelerator_is_taken_too() -> None:
    found = TunedRun(RELEASE / "tune_gpu").options({}, ("gpu", "gpus"))
    assert found == {"gpu": "emulated:gtx-1080-ti", "gpus": 1}


def test_simulate_runs_the_tuned_point_on_the_runs_profile(answered: Answered) -> None:
    doc = answered("simulate", "--from", str(RUN), "--rate", "50", "--queries", "500")
    assert doc["model"] == "ncf"
    assert (doc["policy"], doc["batch_size"]) == (TUNED["policy"], TUNED["batch_size"])
    assert doc["target"] == RESULT["target"]
    assert doc["workload"]["sizes"]["name"] == "fixed:20"
    assert doc["workers"] == {"cpu": 1}
    other = answered(
        "simulate", "--from", str(RUN), "--rate", "50", "--queries", "500", "--policy", "static",
        "--sizes", "fixed:10", "--workers", "3", "--sla-ms", "70",
    )  # fmt: skip
    assert (other["policy"], other["workload"]["sizes"]["name"]) == ("static", "fixed:10")
    assert (other["workers"], other["target"]["latency_ms"]) == ({"cpu": 3}, 70.0)


def test_python_simulates_from_a_result() -> None:
    found = dr.simulate(from_run=dr.load_run(RUN), rate=50, queries=500)
    assert (found.model, found.policy, found.served) == ("ncf", TUNED["policy"], 1.0)


class ResolvedError(Exception):
    """Ends a command once its experiment is known."""


def test_bench_takes_the_tuned_rate_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def offered(stream: object, workload: object, duration_s: float | None) -> None:
        seen.append(stream)
        raise ResolvedError

    monkeypatch.setattr("deeprecsys.api.trials.offered", offered)
    for args in ([], ["--rate", "3"], ["--sizes", "fixed:4"]):
        with pytest.raises(ResolvedError):
            cli.main(["bench", "--from", str(RUN), *args], standalone_mode=False)
    with pytest.raises(ResolvedError):
        bench(from_run=RUN, duration=1.0)
    assert [s.rate_qps for s in seen] == [TUNED["qps"], 3.0, TUNED["qps"], TUNED["qps"]]
    assert [int(s.size.max()) for s in seen] == [20, 20, 4, 20]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("bench --from {bench}", "expected a run of tune, got one of bench"),
        ("bench wnd --from {tune}", "MODEL: expected ncf, of --from {tune}, or none, got wnd"),
        ("bench", "MODEL: expected a model, or --from RUN, got neither"),
        ("serve", "MODEL: expected a model, or --from RUN, got neither"),
        ("serve ncf wnd --from {tune}", "--from: expected one MODEL, got 2"),
        ("simulate", "--profile: expected a profile, or --from RUN, got neither"),
        ("simulate --from {tmp}/nope", "--from {tmp}/nope: expected a run directory of tune, or its JSON"),
        ("simulate --from {tmp}/text", "--from {tmp}/text: expected a run directory of tune, or its JSON"),
        ("simulate --from {tmp}/list", "--from {tmp}/list: expected a run of tune, got none"),
        ("simulate --from {tmp}/unfinished", "expected a run that came to its end, got one that did not"),
        ("simulate --from {tmp}/untuned", "expected a run that came to a tuned point, got one that did not"),
        ("simulate --from {tmp}/unprofiled", "expected a run with its profile, got one without"),
        ("bench --from {tmp}/unrated", "expected a tuned point with its rate (qps), got one without"),
        ("bench --from {tmp}/clipper --batch-size 3", "--batch-size: expected none with policy clipper"),
        ("bench --from {tmp}/nopolicy", "did you mean"),
    ],
)  # fmt: skip
def test_anything_else_is_one_clear_line(command: str, said: str, refused: Refused, tmp_path: Path) -> None:
    tuned = {k: v for k, v in TUNED.items() if k != "qps"}
    for name, document in {
        "text": "words",
        "list": "[1]",
        "untuned": json.dumps({**RESULT, "tuned": None, "candidates": RESULT["candidates"]}),
        "unprofiled": json.dumps({**RESULT, "profile": None}),
        "unrated": json.dumps({**RESULT, "tuned": tuned}),
        "clipper": json.dumps(
            {**RESULT, "tuned": {**TUNED, "policy": "clipper", "latency_ms": 5.0, "step": 1}}
        ),
        "nopolicy": json.dumps({**RESULT, "tuned": {**TUNED, "policy": "statik"}}),
    }.items():
        (tmp_path / name).write_text(document)
    shutil.copytree(RUN, tmp_path / "unfinished", ignore=shutil.ignore_patterns("result.json"))
    names = {"tmp": tmp_path, "tune": RUN, "bench": RELEASE / "bench"}
    assert said.format(**names) in refused(*command.format(**names).split())
