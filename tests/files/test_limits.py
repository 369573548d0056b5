"""Files and numbers out of bounds: one clear line, status 2, at once, and no memory taken before."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Refused, call, refused, write_profile

__all__ = ["refused"]
MEMORY = 1 << 30


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """No call takes a second of time for a refusal, or much memory."""
    before, began = _peak(), time.monotonic()
    yield
    assert time.monotonic() - began < 20
    assert _peak() - before < MEMORY


def _peak() -> int:
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


DEEP = "[" * 60 + "]" * 60
POINT = {"batch": 1, "seconds": [0.001]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"model": "x", "points": ' + "[" * 20_000 + "]" * 20_000 + "}", "more than 50 levels"),
        ('{"model": "x", "machine": {"a": ' + DEEP + '}, "points": []}', "more than 50 levels"),
        ('{"model": "x", "points": [{"batch": 1' + "0" * 5000 + ', "seconds": 1}]}', "of 5001 digits"),
        ('{"model": "x", "points": [{"batch": 1, "seconds": 1' + "0" * 400 + "}]}", "of 401 digits"),
        ('{"model": "x", "points": [{"batch": 1, "seconds": 1e400}]}', "seconds: expected times"),
        ('{"model": "x", "points": [{"batch": 1, "seconds": 1e300}]}', "seconds: expected times"),
        ('{"model": "x", "points": [{"batch": 1, "seconds": 1e-300}]}', "seconds: expected times"),
        ('{"model": "x", "points": [{"batch": 1, "busy": 1000000000, "seconds": 1}]}', "busy 65536"),
        (json.dumps({"model": "x", "engine": 5, "points": [POINT]}), "profile engine: expected a str, got 5"),
        (json.dumps({"model": "x", "machine": [1], "points": [POINT]}), "profile machine: expected a dict"),
        (json.dumps({"model": "x", "threads": True, "points": [POINT]}), "profile threads: expected a int"),
        (json.dumps({"model": "x" * 10**6, "points": 1}), "profile points: expected a list, got 1"),
    ],
)  # fmt: skip
def test_a_profile_of_huge_or_deep_values_is_refused(
    text: str, says: str, tmp_path: Path, refused: Refused
) -> None:
    file = tmp_path / "p.json"
    file.write_text(text)
    said = refused("simulate", "--profile", str(file), "--rate", "10", "--sla-ms", "10")
    assert says in said
    assert len(said) < 600


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0.1,2147483647\n0.2,5\n", "line 1: size: expected at most 1048576"),
        ("1e300,5\n", "line 1: arrival_s: expected at most 1e+12 seconds"),
        ("0.1," + "9" * 100_000 + "\n", "line 1: size: expected"),
    ],
)
def test_a_trace_of_huge_numbers_is_refused(text: str, says: str, tmp_path: Path, refused: Refused) -> None:
    file, profile = tmp_path / "t.csv", write_profile(tmp_path / "p.json", 1e-3, 1e-5)
    file.write_text(text)
    said = refused("simulate", "--profile", str(profile), "--trace", str(file), "--rate", "10")
    assert says in said
    assert len(said) < 600


def test_a_trace_of_deep_lists_is_refused(tmp_path: Path, refused: Refused) -> None:
    file, profile = tmp_path / "t.jsonl", write_profile(tmp_path / "p.json", 1e-3, 1e-5)
    file.write_text('{"arrival_s": ' + "[" * 100_000 + "]" * 100_000 + ', "size": 1}\n')
    said = refused("simulate", "--profile", str(profile), "--trace", str(file), "--rate", "10")
    assert 'line 1: expected {"arrival_s": …, "size": …}' in said


@pytest.mark.parametrize("option", ["--profile", "--trace", "--config", "--gpu"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(option: str, kind: str, tmp_path: Path, refused: Refused) -> None:
    """A pipe without a writer, and a device that never ends."""
    paths = {"pipe": tmp_path / "fifo.json", "device": Path("/dev/zero"), "folder": tmp_path}
    os.mkfifo(paths["pipe"])
    good = str(write_profile(tmp_path / "p.json", 1e-3, 1e-5))
    given = str(paths[kind]) if option != "--gpu" else f"emulated:{paths[kind]}"
    args = [option, given, *([] if option == "--profile" else ["--profile", good])]
    said = refused("simulate", *args, "--rate", "10", "--sla-ms", "10")
    assert str(paths[kind]) in said
    assert f"a {'directory' if kind == 'folder' else kind}" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed = 1" + "0" * 5000, "expected a TOML file, got: "),
        ("seed = 0x" + "f" * 5000, "seed: expected one value, a whole number, got a"),
        ("seed = " + "[" * 20_000 + "]" * 20_000, "nested deeply"),
        ("seed = 2024-01-01", "seed: expected one value, a whole number, got datetime.date"),
        ("trace = 5", "trace: expected one value, a text, got 5"),
        ("trace = 2024-01-01T00:00:00Z", "trace: expected one value, a text, got datetime"),
        ('out = "a\\u0000b"', "out: expected one value, a text"),
        ("workers = 1.5", "workers: expected one value, a whole number, got 1.5"),
        ("workers = true", "workers: expected one value, a whole number, got True"),
        ("rate = 1" + "0" * 400, "rate: expected one value, a number, got"),
        ("sizes = 07:32:00", "sizes: expected one value, a text, got datetime.time"),
        ("[sizes]\nname = 1", "sizes: expected one value, a text, got {"),
        ("quantile = nan", "--quantile: expected a percentage"),
    ],
)
def test_configuration_values_have_the_options_types(
    text: str, says: str, tmp_path: Path, refused: Refused
) -> None:
    file, profile = tmp_path / "c.toml", write_profile(tmp_path / "p.json", 1e-3, 1e-5)
    file.write_text(text)
    said = refused("simulate", "--profile", str(profile), "--config", str(file))
    assert says in said
    assert len(said) < 600


def test_a_configuration_may_repeat_an_option_that_may_be_repeated(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "c.toml"
    file.write_text('threads = [1, "x"]')
    assert "threads: expected one value, a whole number, got 'x'" in refused(
        "tune", "ncf", "--config", str(file)
    )


HUGE: dict[str, tuple[list[str], str]] = {
    "rate": (["--rate", "1e9", "--duration", "1000"], "queries: expected at most"),
    "duration": (["--rate", "1", "--duration", "1e18"], "queries: expected at most"),
    "queries": (["--rate", "1", "--queries", "2000000000"], "queries: expected at most"),
    "slow": (["--rate", "1e-300", "--queries", "2"], "--rate: expected at least 1e-09"),
    "bursts": (
        ["--rate", "1e-6", "--duration", "1e9", "--arrivals", "bursts:3,0.1,0.001"],
        "bursts: periods",
    ),
}


@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parametrize("command", ["bench", "simulate"])
def test_a_load_that_no_memory_holds_is_refused(
    command: str, name: str, tmp_path: Path, refused: Refused
) -> None:
    args, says = HUGE[name]
    first = (
        ["ncf"] if command == "bench" else ["--profile", str(write_profile(tmp_path / "p.json", 1e-3, 1e-5))]
    )
    assert says in refused(command, *first, *args)


@pytest.mark.parametrize("option", ["--workers", "--threads", "--gpus"])
def test_more_processes_than_the_machine_could_start_are_refused(option: str, refused: Refused) -> None:
    assert f"{option}: expected at most" in refused("bench", "ncf", "--rate", "10", option, "1000000")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--spares", "1000000", "expected at most"),
        ("--max-items", "2147483647", "expected at most 1048576"),
        ("--max-items", "0", "expected at least 1"),
        ("--max-queue", "1000000000", "expected at most 65536"),
        ("--max-queue-mb", "1000000000", "expected at most"),
        ("--drain", "1e18", "expected at most 86400"),
        ("--seed", "9" * 30, "expected at most"),
    ],
)
def test_a_server_of_no_size_is_refused(option: str, value: str, says: str, refused: Refused) -> None:
    ports = ["--http-port", "0", "--grpc-port", "0"]
    assert f"{option}: {says}" in refused("serve", "ncf", *ports, option, value)


@pytest.mark.parametrize("digits", [30, 400])
@pytest.mark.parametrize("option", ["--workers", "--threads", "--gpus", "--seed", "--queries"])
def test_whole_numbers_of_any_length_are_refused(option: str, digits: int, refused: Refused) -> None:
    said = refused("bench", "ncf", "--rate", "10", option, "9" * digits)
    assert f"{option.lstrip('-')}: expected at most" in said
    assert len(said) < 600


@pytest.mark.parametrize("option", ["--workers", "--gpus"])
def test_more_simulated_workers_than_a_profile_may_have_are_refused(
    option: str, tmp_path: Path, refused: Refused
) -> None:
    profile = str(write_profile(tmp_path / "p.json", 1e-3, 1e-5))
    assert f"{option}: expected at most" in refused("simulate", "--profile", profile, option, "1000000")


@pytest.mark.parametrize("command", ["bench", "simulate"])
def test_a_trace_whose_queries_all_come_after_the_duration_is_no_load(
    command: str, tmp_path: Path, refused: Refused
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("".join(f"{1000 * i},5\n" for i in range(1, 20)))
    profile = str(write_profile(tmp_path / "p.json", 1e-3, 1e-5))
    first = ["ncf"] if command == "bench" else ["--profile", profile, "--rate", "0.001"]
    said = refused(command, *first, "--trace", str(file), "--duration", "10")
    assert "expected a time in which at least one query arrives, got 10 seconds" in said
    assert "first 19 rows take 19000" in said


def test_a_trace_in_milliseconds_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, profile = tmp_path / "t.csv", write_profile(tmp_path / "p.json", 1e-3, 1e-5)
    file.write_text("".join(f"{3 * i},5\n" for i in range(1, 1000)))
    args: list[Any] = [
        "simulate",
        "--profile",
        profile,
        "--trace",
        file,
        "--rate",
        "0.33333",
        "--duration",
        "20",
    ]
    assert call(*map(str, args)) == 0
    said = capsys.readouterr()
    assert (
        said.err == f"deeprecsys: {file}: 6 of its 999 rows arrive within 20 s: are its times in seconds?\n"
    )
