"""`simulate`, as a user meets it: queueing theory, an unstable load, bad input, the run directory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprecsys.api.policies import POLICIES
from deeprecsys.bounds.bounds import BoundKind
from deeprecsys.bounds.path import bounds_of
from deeprecsys.core.target import Target
from deeprecsys.report.rundir import read_run
from tests.cli.conftest import Answered, Refused, call
from tests.core.policies import OFFLOADING, STAGED
from tests.search.queues import theory_qps, wait_tail

SERVICE_S = 0.010


def profile(folder: Path, points: Any, model: str = "constant", **rest: Any) -> list[str]:
    """The command on a profile written by hand."""
    file = folder / "profile.json"
    file.write_text(json.dumps({"model": model, "points": points, **rest}))
    return ["simulate", "--profile", str(file)]


@pytest.fixture
def constant(tmp_path: Path) -> list[str]:
    """Every batch takes 10 ms, every query is one item: M/D/c."""
    return [*profile(tmp_path, [{"batch": 1, "seconds": SERVICE_S}]), "--sizes", "fixed:1"]


@pytest.fixture
def affine(tmp_path: Path) -> list[str]:
    """2 ms a batch and 20 us an item, somewhat longer while four workers are busy."""
    points = [
        {"busy": busy, "batch": b, "seconds": [f * (2e-3 + 2e-5 * b) for f in spread]}
        for busy, spread in ((1, (0.9, 1.0, 1.3)), (4, (1.0, 1.1, 1.5)))
        for b in (1, 1000)
    ]
    return profile(tmp_path, points)


# A constant profile and fixed sizes are an M/D/c queue.
@pytest.mark.parametrize(("workers", "load"), [(1, 0.7), (4, 0.85), (16, 0.9)])
def test_a_trial_has_the_latencies_of_m_d_c(
    constant: list[str], answered: Answered, workers: int, load: float
) -> None:
    rate = load * workers / SERVICE_S
    doc = answered(
        *constant, "--workers", str(workers), "--rate", str(rate), "--queries", "1000000",
        "--batch-size", "1", "--sla-ms", "50",
    )  # fmt: skip
    for name, late in (("p50_ms", 0.5), ("p95_ms", 0.05)):
        waited = doc[name] / 1e3 / SERVICE_S - 1
        assert wait_tail(load * workers, workers, waited) == pytest.approx(late, rel=0.06), name
    assert doc["utilisation"] == pytest.approx(load, rel=0.01)
    assert doc["load"] == pytest.approx(load, rel=0.01)
    assert (doc["simulated"], doc["stable"], doc["served"]) == (True, True, 1.0)


@pytest.mark.parametrize("workers", [1, 4])
def test_without_a_rate_the_capacity_is_theorys(
    constant: list[str], answered: Answered, workers: int
) -> None:
    doc = answered(*constant, "--workers", str(workers), "--batch-size", "1", "--sla-ms", "80")
    theory = theory_qps(workers, Target(latency_s=0.080 / SERVICE_S)) / SERVICE_S
    low, high = doc["interval_qps"]
    assert low <= theory <= high
    assert doc["qps"] == doc["capacity_qps"] == pytest.approx(theory, rel=0.01)
    assert doc["served"] == 1.0
    assert doc["fraction_of_bound"]["bound"] == "o_fcfs"
    assert 0.9 < doc["fraction_of_bound"]["value"] < 1.01


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_runs_and_says_what_it_is(affine: list[str], answered: Answered, name: str) -> None:
    gpu = ["--gpu", f"emulated:{affine[2]}"] if name in OFFLOADING else []
    load = ["--rate", "300", "--queries", "3000", "--sla-ms", "60", "--workers", "4"]
    if name in STAGED:
        doc = json.loads(Path(affine[2]).read_text()) | {"stage_s": 1e-3, "staged_s": 9e-4}
        Path(affine[2]).write_text(json.dumps(doc))
    doc = answered(*affine, *gpu, "--policy", name, *load)
    assert doc["policy"] == name
    assert doc["served"] == 1.0
    assert doc["bounds"]["o_drop_qps"] <= doc["bounds"]["o_drop_coalescing_qps"]
    mixes = name in ("coalescing", "triton", "tf-serving", "bentoml", "clipper")
    if doc["miss_rate"] <= 0.05:
        bound = "two_pools_coalescing" if gpu else "o_fcfs_coalescing" if mixes else "o_fcfs"
        assert doc["fraction_of_bound"]["bound"] == bound
        assert doc["fraction_of_bound"]["value"] < 1


def test_bounds_of_shared_batches_allow_for_batches_beyond_the_largest_query(
    constant: list[str], answered: Answered
) -> None:
    """Queries of one item, 64 of which share a batch for the price of one."""
    doc = answered(
        *constant, "--workers", "1", "--policy", "coalescing:1", "--batch-size", "64", "--rate", "2000",
        "--queries", "20000", "--sla-ms", "50",
    )  # fmt: skip
    assert doc["stable"]
    assert doc["p95_ms"] < 50
    assert doc["bounds"]["o_drop_qps"] < 100.1
    bound = bounds_of(
        np.full(64, SERVICE_S),
        1,
        Target(latency_s=0.05),
        np.arange(1, 1001) / 2000,
        np.ones(1000, int),
        coalescing=True,
    )
    assert doc["bounds"]["capacity_coalescing_qps"] == pytest.approx(bound[BoundKind.CAPACITY].rate_qps)
    assert doc["fraction_of_bound"]["bound"] == "o_fcfs_coalescing"
    assert doc["fraction_of_bound"]["value"] < 1


def test_a_rate_that_misses_its_target_is_no_fraction_of_a_bound(
    constant: list[str], answered: Answered
) -> None:
    doc = answered(*constant, "--rate", "95", "--queries", "20000", "--sla-ms", "20", "--batch-size", "1")
    assert doc["miss_rate"] > 0.05
    assert doc["fraction_of_bound"] is None


def test_an_unstable_load_is_said_to_be_and_has_no_latencies(
    constant: list[str], answered: Answered, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*constant, "--workers", "2", "--rate", "250", "--queries", "20000", "--sla-ms", "50"]
    doc = answered(*args)
    assert doc["stable"] is False
    assert doc["load"] == pytest.approx(1.25, rel=0.02)
    assert all(doc[f"{k}_ms"] is None for k in ("mean", "p50", "p95", "p99", "max"))
    assert doc["miss_rate"] is None
    assert "bounds" not in doc
    assert call(*args) == 0
    said = capsys.readouterr().out
    assert re.search(r"unstable: the arrivals bring at least 12\d %", said)
    assert "met" not in said


def test_a_model_of_the_zoo_has_its_own_target_and_another_needs_none_for_a_trial(
    tmp_path: Path, answered: Answered
) -> None:
    rate = ["--rate", "10", "--queries", "300", "--workers", "2"]
    points = [{"batch": 1, "seconds": 0.001}]
    assert answered(*profile(tmp_path, points, "ncf"), *rate)["target"]["latency_ms"] == 5
    low = answered(*profile(tmp_path, points, "ncf"), *rate, "--target", "low", "--quantile", "99")
    assert low["target"] == {"quantile": 0.99, "latency_ms": 2.5}
    unknown = answered(*profile(tmp_path, points, "mine"), *rate)
    assert unknown["target"] is None
    assert unknown["p95_ms"] >= 1
    assert "bounds" not in unknown


def test_the_text_says_what_it_is(affine: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        call(*affine, "--rate", "300", "--queries", "3000", "--sla-ms", "60", "--policy", "triton:0.5") == 0
    )
    said = capsys.readouterr().out
    assert said.startswith("constant, simulated, 4 workers, triton, batch size 1,000, delay 0.5 ms")
    assert "p95 ≤ 60 ms: met" in said
    assert "not a measurement" in said
    assert "lateness" not in said


def test_the_same_seed_gives_the_same_figures_and_another_does_not(
    affine: list[str], answered: Answered
) -> None:
    args = [*affine, "--rate", "400", "--queries", "3000", "--sla-ms", "60"]
    assert answered(*args) == answered(*args)
    assert answered(*args)["p95_ms"] != answered(*args, "--seed", "1")["p95_ms"]


def test_a_trace_is_replayed(constant: list[str], answered: Answered, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("".join(f"{0.05 * i},1\n" for i in range(1, 301)))
    doc = answered(*constant[:-2], "--trace", str(trace), "--rate", "40", "--sla-ms", "50")
    assert doc["offered"] == 300
    assert doc["p99_ms"] == pytest.approx(10.0)


# Run directories.
def test_a_trial_is_kept_with_its_records_and_a_page_that_says_simulated(
    affine: list[str], answered: Answered, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    doc = answered(
        *affine, "--policy", "adaptive:50", "--batch-size", "250", "--rate", "300", "--queries", "2000",
        "--sla-ms", "60", "--out", str(out),
    )  # fmt: skip
    run = read_run(out)
    assert not run.problems
    assert run.result is not None
    assert run.result["p95_ms"] == doc["p95_ms"]
    assert run.config["simulated"] is True
    assert run.config["policy"] == "adaptive"
    assert len(run.trials["simulated"].log.size) == 2000
    page, text = (out / "report.html").read_text(), (out / "report.txt").read_text()
    assert "<title>constant, p95 ≤ 60 ms, simulated</title>" in page
    for words in ("not a measurement", "Machine that simulated it", "adaptive"):
        assert words in page
    assert "lateness" not in page
    assert text.startswith("constant, simulated")
    assert "measured on another machine" not in page


def test_a_search_is_kept_too_and_its_page_says_simulated(
    constant: list[str], answered: Answered, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    doc = answered(*constant, "--batch-size", "1", "--sla-ms", "80", "--out", str(out))
    assert read_run(out).result["capacity_qps"] == doc["capacity_qps"]
    page = (out / "report.html").read_text()
    assert "simulated</title>" in page
    assert "not a measurement" in page
    assert "Latency against offered rate" in page
    assert "at 99 % confidence" in (out / "report.txt").read_text()


def test_a_directory_with_files_is_refused_before_anything_runs(
    constant: list[str], refused: Refused, tmp_path: Path
) -> None:
    said = refused(*constant, "--rate", "50", "--sla-ms", "80", "--out", str(tmp_path))
    assert "expected a new or an empty one" in said


# Bad input: exit status 2 and one line that names the field.
def one(seconds: Any, **rest: Any) -> list[dict[str, Any]]:
    return [{"batch": 1, "seconds": seconds, **rest}]


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([{"batch": 8, "seconds": 1}, {"batch": 4, "seconds": 1}], "rising order, got 4 after 8"),
        ([{"batch": 8, "seconds": 1}, {"batch": 8, "seconds": 1}], "rising order, got 8 after 8"),
        (one(-0.001), "seconds: expected times above 0, got -0.001"),
        (one(0), "seconds: expected times above 0, got 0"),
        (one([0.1, -1.0]), "seconds: expected times above 0"),
        (one([0.3, 0.2]), "seconds: expected rising quantiles, got [0.3, 0.2]"),
        (one([]), "seconds: expected at least one time, got none"),
        ([{"batch": 1}], "points[0] seconds: expected a number"),
        (one("fast"), "points[0] seconds: expected a number or a list of numbers, got 'fast'"),
        (one(None), "points[0] seconds: expected a number"),
        (one(True), "points[0] seconds: expected a number"),
        (one(float("nan")), "seconds: expected times above 0"),
        ([{"seconds": 1}], "points[0] batch: expected a whole number, got None"),
        (one(1, busy=0), "expected batch and busy of at least 1"),
        ([{"batch": 2.5, "seconds": 1}], "points[0] batch: expected a whole number, got 2.5"),
        (one(1, bsy=2), "did you mean 'busy'"),
        ([], "points: expected at least one, got none"),
        ([3], "points[0]: expected an object, got 3"),
        ({}, "points: expected a list"),
    ],
)
def test_a_profile_that_cannot_be_gets_one_line(
    refused: Refused, tmp_path: Path, points: Any, said: str
) -> None:
    line = refused(*profile(tmp_path, points), "--rate", "10")
    assert "--profile" in line
    assert said in line


def test_a_file_that_is_no_profile_gets_one_line(refused: Refused, tmp_path: Path) -> None:
    assert "--profile /nowhere.json: expected" in refused("simulate", "--profile", "/nowhere.json")
    assert "did you mean 'model'" in refused(*profile(tmp_path, one(1), modle="x"), "--rate", "1")
    file = tmp_path / "other.json"
    for text, said in (
        ("{", "expected a latency profile in JSON"),
        ("[]", "expected a JSON object, got list"),
        ('{"points": []}', "profile model: expected a str"),
    ):
        file.write_text(text)
        assert said in refused("simulate", "--profile", str(file), "--rate", "1")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--sla-ms: expected a target in milliseconds, as 'constant' is no model of the zoo"),
        (["--rate", "10", "--target", "low"], "--sla-ms: expected a target"),
        (["--rate", "10", "--policy", "clipper"], "--sla-ms: expected a target in milliseconds"),
        (["--rate", "0"], "--rate: expected a number above 0, got 0"),
        (["--rate", "-3"], "--rate: expected a number above 0, got -3"),
        (["--rate", "nan"], "--rate: expected a number above 0, got nan"),
        (["--rate", "10", "--workers", "0"], "--workers: expected at least 1, got 0"),
        (["--rate", "10", "--workers", "two"], "'two' is not a valid integer"),
        (["--rate", "10", "--quantile", "100"], "--quantile: expected a percentage"),
        (["--rate", "10", "--sla-ms", "5", "--quantile", "0"], "--quantile: expected a percentage"),
        (["--rate", "10", "--sla-ms", "0"], "--sla-ms: expected a number above 0"),
        (["--rate", "10", "--policy", "addaptive"], "did you mean 'adaptive'"),
        (["--rate", "10", "--batch-size", "0"], "batch size: expected at least 1 item"),
        (["--rate", "10", "--offload-above", "5"], "without gpu"),
        (["--rate", "10", "--queries", "0"], "queries: expected"),
        (["--rate", "10", "--queries", "9", "--duration", "1"], "got both"),
        (["--rate", "10", "--duration", "0.0001"], "--duration: expected a time in which"),
        (["--rate", "10", "--seed", "-1"], "seed: expected"),
        (["--rate", "10", "--arrivals", "poison"], "did you mean 'poisson'"),
        (["--sla-ms", "50", "--queries", "9"], "--queries, --duration: expected with --rate"),
        (["--rate", "10", "--worker", "2"], "did you mean --workers"),
    ],
)
def test_options_that_cannot_be_get_one_line(
    constant: list[str], refused: Refused, args: list[str], said: str
) -> None:
    assert said in refused(*constant, *args)


def test_a_profile_is_required(refused: Refused) -> None:
    assert "--profile" in refused("simulate", "--rate", "10")


def test_a_target_out_of_reach_is_a_failure_with_the_best_latency(
    constant: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*constant, "--batch-size", "1", "--sla-ms", "5") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "the best was 10 ms" in said.err
    assert said.err.count("\n") == 1
