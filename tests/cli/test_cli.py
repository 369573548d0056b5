"""The command line as a user meets it: exit status, one clear line, JSON, nothing left behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deeprecsys.api.runs import load_run
from deeprecsys.zoo import MODELS
from tests.cli.conftest import Refused, write_profile
from tests.node.test_node import alive

SMALL = ["--rows-scale", "0.001"]
NULL = [*SMALL, "--engine", "null"]
PATIENT = [*NULL, "--sla-ms", "1000"]
"""With a target that no stall of a shared machine makes hopeless, which would end a trial early."""


def run(*args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deeprecsys", *args], capture_output=True, text=True, timeout=timeout
    )


@contextmanager
def running(*args: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs meanwhile. However the test ends, nothing of it goes on or stays open."""
    with subprocess.Popen(
        [sys.executable, "-m", "deeprecsys", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # its workers die with it


@pytest.mark.parametrize("command", ["models", "profile", "bench", "capacity", "tune", "simulate"])
def test_every_command_explains_itself(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: deeprecsys {command}")
    assert "--json" in done.stdout


def test_models_lists_all_sixteen_as_text_and_as_json() -> None:
    text, data = run("models"), run("models", "--json", "-")
    rows = json.loads(data.stdout)
    assert [r["name"] for r in rows] == list(MODELS)
    assert all(name in text.stdout for name in MODELS)


def test_the_command_line_loads_no_torch() -> None:
    code = "import sys, deeprecsys.cli; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tun"], "did you mean 'tune'"),
        (["bench", "dlrm-rm1", "--rate", "10"], "did you mean 'dlrm-rmc1'"),
        (["bench", "ncf", "--rat", "10"], "did you mean --rate"),
        (["bench", "ncf", "--rate", "10", "--sizes", "prodction"], "did you mean 'production'"),
        (["bench", "ncf", "--rate", "10", "--arrivals", "poison"], "did you mean 'poisson'"),
        (["bench", "ncf", "--rate", "10", "--engine", "eagre"], "did you mean 'eager'"),
        (["bench", "ncf", "--rate", "0"], "--rate: expected a number above 0, got 0"),
        (["bench", "ncf", "--rate", "nan"], "--rate: expected a number above 0, got nan"),
        (["bench", "ncf", "--rate", "ten"], "'ten' is not a valid float"),
        (["bench", "ncf"], "rate: expected"),
        (["bench", "ncf", "--rate", "10", "--sla-ms", "-1"], "--sla-ms: expected a number above 0"),
        (["bench", "ncf", "--rate", "10", "--sla-ms", "5", "--target", "low"], "one of them, got both"),
        (["bench", "ncf", "--rate", "10", "--target", "hgh"], "'low', 'medium', 'high'"),
        (["bench", "ncf", "--rate", "10", "--quantile", "100"], "--quantile: expected a percentage"),
        (["bench", "ncf", "--rate", "10", "--rows-scale", "0"], "--rows-scale: expected a number above 0"),
        (["bench", "ncf", "--rate", "10", "--workers", "0"], "workers: expected at least 1, got 0"),
        (["bench", "ncf", "--rate", "10", "--duration", "0"], "duration: expected"),
        (["bench", "ncf", "--rate", "10", "--seed", "-1"], "seed: expected"),
        (
            ["bench", "ncf", "--rate", "10", *SMALL, "--engine", "eager", "--precision", "bf16"],
            "precision of engine eager",
        ),
        (["tune", "ncf", "--profile", "/nowhere.json"], "--profile /nowhere.json: expected"),
        (["tune", "ncf", "--config", "/nowhere.toml"], "--config /nowhere.toml: expected"),
    ],
)
def test_bad_input_gets_one_line_that_names_it(refused: Refused, args: list[str], said: str) -> None:
    assert said in refused(*args)


@pytest.mark.live
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["bench", "ncf", "--rate", "10", "--policy", "statik"], "did you mean 'static'"),
        (["bench", "ncf", "--rate", "10", "--locality", "zpf"], "zipf"),
        (["bench", "ncf", "--rate", "10", *SMALL, "--batch-size", "0"], "batch size: expected at least 1"),
        (["bench", "ncf", "--rate", "10", *NULL, "--offload-above", "9"], "without gpu"),
    ],
)
def test_so_does_what_is_found_once_the_node_runs(refused: Refused, args: list[str], said: str) -> None:
    assert said in refused(*args)


@pytest.mark.parametrize(
    ("rows", "said"),
    [("0.2,3\n0.1,3\n", "line 2"), ("0.1,0\n", "size"), ("0.1,x\n", "line 1"), ("", "trace")],
)
def test_a_bad_trace_is_refused_with_its_line(refused: Refused, tmp_path: Path, rows: str, said: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(rows)
    assert said in refused("bench", "ncf", "--trace", str(trace))


def test_an_unknown_configuration_key_names_the_nearest(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text("sla_mss = 5\n")
    assert "did you mean 'sla-ms'" in refused("bench", "ncf", "--rate", "10", "--config", str(file))


def test_a_profile_of_another_model_is_refused(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"model": "wnd", "points": [{"batch": 1, "seconds": [0.001]}]}))
    assert "expected a profile of ncf, got one of wnd" in refused("tune", "ncf", "--profile", str(file))


@pytest.mark.alone
def test_bench_states_what_the_design_promises(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('rate = 100\nduration = 2\nengine = "null"\nrows-scale = 0.001\n')
    done = run("bench", "ncf", "--config", str(file), "--duration", "1", "--json", "-")
    assert done.returncode == 0, done.stderr
    doc = json.loads(done.stdout)
    assert doc["offered"] == doc["completed"] > 50
    assert (doc["shed"], doc["failed"], doc["served"]) == (0, 0, 1.0)
    for key in ("model", "target", "workload", "machine", "batch_size", "p50_ms", "p95_ms", "p99_ms"):
        assert doc[key] is not None, key
    assert {"lateness_p99_ms", "void", "utilisation"} <= set(doc)
    assert doc["touched"]["bytes"] > 0


@pytest.mark.live
def test_an_overload_is_given_up_and_its_document_is_strict_json(tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = [
        "bench",
        "ncf",
        *SMALL,
        "--engine",
        "wait:8",
        "--sizes",
        "fixed:20",
        "--sla-ms",
        "50",
        "--rate",
        "400",
    ]
    done = run(*job, "--duration", "5", "--json", "-", "--out", str(out))
    assert done.returncode == 0, done.stderr
    doc = json.loads(done.stdout, parse_constant=pytest.fail)
    assert next(iter(doc)) == "void"
    assert doc["gave_up_after_s"] < doc["asked_s"] == 5
    assert doc["offered"] < 0.9 * 400 * 5, "those that came until then"
    assert (doc["goodput_qps"], doc["p95_ms"]) == (0, None)
    assert 0.5 / 0.008 < doc["throughput_qps"] <= 1 / 0.008
    assert set(doc["infinite"]) >= {"p95_ms", "p99_ms", "max_ms"}
    assert '"Infinity"' not in (out / "result.json").read_text() + (out / "events.jsonl").read_text()
    again = load_run(out)
    assert again.p95_ms == math.inf
    assert "gave up after" in repr(again)


SMALL_JOB = ["ncf", *SMALL, "--sizes", "fixed:20", "--engine", "wait:1,0.05"]
"""Queries of 2 ms, so that trials of many targets are of few queries."""


@pytest.fixture(scope="module")
def measured_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile that was measured, so it says, on another machine."""
    file = tmp_path_factory.mktemp("profiles") / "p.json"
    assert run("profile", *SMALL_JOB, "--budget", "1", "--profile", str(file)).returncode == 0
    profile = json.loads(file.read_text())
    profile["machine"]["cpu"] = "Another CPU"
    file.write_text(json.dumps(profile))
    return file


@pytest.mark.alone
@pytest.mark.parametrize("method", ["model", "live"])
def test_profile_then_tune_with_it_on_a_small_model(
    method: str, measured_elsewhere: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = run(
        "tune", *SMALL_JOB, "--method", method, "--sla-ms", "50", "--profile", str(measured_elsewhere),
        "--budget", "2", "--out", str(out), "--json", "-",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    doc = json.loads(done.stdout)
    for role in ("static", "tuned"):
        point = doc[role]
        assert 0 < point["served"] <= 1
        assert point["met"] == (point["served"] == 1 and point["p95_ms"] <= 50), role
        assert method == "live" or point["met"], "live trials of two seconds in all may take too high a rate"
    assert doc["tuned"]["qps"] < 1.1 * doc["limit_today_qps"], "a margin below the limit"
    assert doc["margin_percent"] >= 3
    assert doc["reference"]["seconds"] > 0
    assert len(doc["near"]) > 4
    held = doc["tuned"]["sustained"]
    if doc["tuned"]["met"]:
        assert held["verdict"] == "undecided", "4 s of load decide nothing"
        assert "60 s" in held["lacks"]
    else:
        assert held["verdict"] == "not met"
    assert doc["tuned"]["confirmed_by"]["trials"] == 1, "one run, uninterrupted"
    assert doc["eager"] is None, "an engine that scores nothing is compared with no other"
    assert doc["scheduling_gain"] == doc["ratio"]
    assert doc["static"]["batch_size"] in [c["batch_size"] for c in doc["candidates"]]
    assert doc["method"] == method
    # By model, no live query is spent on the search.
    search = doc["search"] if method == "live" else doc["search"]["simulated"]
    assert min(search["trials"], search["queries"]) > 0
    assert (doc["search"]["queries"] == 0) == (method == "model")
    assert doc["confirmation"]["queries"] > 0
    assert doc["offline_qps"] > 0
    assert doc["bounds"]["o_fcfs_qps"] > 0
    assert doc["fraction_of_bound"]["bound"] in ("o_fcfs", "o_fcfs_coalescing")  # the winner may merge
    assert doc["simulator_error"] is not None
    assert doc["paced_simulator_error"] is not None
    assert 0.2 < doc["pace"] < 5
    assert any("measured on another machine" in warning for warning in doc["warnings"])
    kept = json.loads((out / "result.json").read_text())
    assert kept["tuned"]["qps"] == doc["tuned"]["qps"]
    assert (out / "report.html").exists()


@pytest.mark.alone
def test_tune_tries_every_engine_that_is_named_and_takes_the_best() -> None:
    done = run(
        "tune", "ncf", *SMALL, "--engine", "wait:4", "--engine", "wait:2", "--sizes", "fixed:20",
        "--sla-ms", "50", "--budget", "1", "--json", "-",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    doc = json.loads(done.stdout)
    slow, fast = doc["setups"]
    assert (slow["engine"], fast["engine"]) == ("wait:4", "wait:2")
    assert 1.5 < fast["simulated_qps"] / slow["simulated_qps"] < 2.5
    assert doc["tuned"]["engine"] == doc["engine"] == doc["profile"]["engine"] == "wait:2"


@pytest.mark.live
def test_a_target_that_nothing_meets_gives_the_best_latency_and_no_point() -> None:
    done = run(
        "capacity", "ncf", *SMALL, "--engine", "wait:5", "--sizes", "fixed:20", "--sla-ms", "1",
        "--batch-size", "20", "--budget", "5", "--json", "-",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    best = float(done.stderr.split("the best was ")[1].split()[0])
    assert best >= 5


@pytest.mark.alone
def test_killing_a_worker_during_bench_costs_no_query(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    args = ["bench", "ncf", *PATIENT, "--rate", "300", "--duration", "4", "--json", str(file)]
    with running(*args) as process:
        workers = wait_for_workers(process.pid)
        time.sleep(2)
        os.kill(workers[0], signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    doc = json.loads(file.read_text())
    assert doc["offered"] == doc["completed"] > 800
    assert doc["extra"]["workers_lost"] == 1


@pytest.mark.alone
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_reports_what_it_measured_and_leaves_nothing(
    tmp_path: Path, how: signal.Signals
) -> None:
    before = set(os.listdir("/dev/shm"))
    out = tmp_path / "run"
    with running("bench", "ncf", *PATIENT, "--rate", "200", "--duration", "60", "--out", str(out)) as process:
        workers = wait_for_workers(process.pid)
        time.sleep(2)
        process.send_signal(how)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert "100 %" in stdout
    assert not any(alive(p) for p in workers)
    assert set(os.listdir("/dev/shm")) == before
    assert json.loads((out / "result.json").read_text())["completed"] > 50


@pytest.mark.live
def test_an_interrupted_tune_keeps_its_events(tmp_path: Path) -> None:
    """Interrupted once a trial has ended; before it as little is profiled and simulated as can be."""
    profile = write_profile(tmp_path / "p.json", 1e-3, 5e-5)
    out = tmp_path / "run"
    events = out / "events.jsonl"
    with running("tune", *SMALL_JOB, "--sla-ms", "50", "--profile", str(profile), "--budget", "16",
                 "--out", str(out)) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not (events.exists() and "TrialDone" in events.read_text()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, events.exists() and events.read_text()
            time.sleep(0.1)
        workers = wait_for_workers(process.pid)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.strip() == "deeprecsys: interrupted"
    assert not any(alive(p) for p in workers)
    assert all(json.loads(line) for line in events.read_text().splitlines())


def wait_for_workers(pid: int) -> list[int]:
    """The worker processes of a running command, once there are any."""
    deadline = time.monotonic() + 30
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while time.monotonic() < deadline:
        found = [int(p) for p in children.read_text().split()]
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("no worker appeared")
