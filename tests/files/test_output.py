"""Output that cannot be written, and commands that are interrupted early: one line, no traceback."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.cli.conftest import Refused, refused, write_profile

__all__ = ["refused"]
COMMAND = [sys.executable, "-m", "deeprecsys"]


def ended(
    *args: str, stdout: IO[bytes] | int | None = None, most_bytes: int | None = None
) -> tuple[int, str]:
    """Exit status and standard error of a command."""

    def limit() -> None:
        if most_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    done = subprocess.run(
        [*COMMAND, *args], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, preexec_fn=limit,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("args", [["models"], ["models", "--json", "-"], ["--help"]])
def test_a_full_disk_under_standard_output_is_reported(args: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        status, said = ended(*args, stdout=full)
    assert said == "deeprecsys: standard output: expected room to write, got: No space left on device\n"
    assert status == 2


@pytest.mark.parametrize("args", [["models"], ["models", "--json", "-"], ["--help"]])
def test_a_reader_that_went_away_is_nothing_to_report(args: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    status, said = ended(*args, stdout=write)
    os.close(write)
    assert (status, said) == (1, "")


def test_a_full_disk_under_a_json_file_is_reported(refused: Refused, tmp_path: Path) -> None:
    status, said = ended("models", "--json", "/dev/full", stdout=subprocess.DEVNULL)
    assert said.startswith("deeprecsys: --json /dev/full: expected a file that can be written, got: ")
    assert said.count("\n") == 1
    assert status == 2


@pytest.mark.parametrize("most_bytes", [100, 4000, 30_000, 60_000])
def test_a_full_disk_under_a_run_directory_is_reported(most_bytes: int, tmp_path: Path) -> None:
    """Whichever file it is that does not fit: the configuration, a trial's records, the page."""
    profile = str(write_profile(tmp_path / "p.json", 1e-3, 1e-5))
    out = tmp_path / "out"
    args = ["simulate", "--profile", profile, "--rate", "50", "--queries", "3000", "--out", str(out)]
    status, said = ended(*args, stdout=subprocess.DEVNULL, most_bytes=most_bytes)
    assert said.count("\n") == 1, said
    assert f"{out}: expected room to write, got: " in said
    assert "File too large" in said
    assert status == 2


@pytest.mark.parametrize("module", ["click", "numpy"])
def test_ctrl_c_while_modules_are_loaded_ends_quietly(module: str, tmp_path: Path) -> None:
    """The command is interrupted in the midst of its first imports."""
    (tmp_path / f"{module}.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*COMMAND, "models"], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "deeprecsys: interrupted\n")


@pytest.mark.parametrize(
    "args",
    [
        ["models", "--json"],
        ["bench", "nowhere.onnx", "--json"],
        ["bench", "nowhere.onnx", "--trace-out"],
        ["capacity", "nowhere.onnx", "--json"],
        ["profile", "nowhere.onnx", "--json"],
        ["profile", "nowhere.onnx", "--profile"],
        ["tune", "nowhere.onnx", "--json"],
        ["quality", "nowhere.onnx", "--json"],
        ["simulate", "--profile", "nowhere.json", "--json"],
        ["paper", "99", "--json"],
    ],
)
def test_places_of_files_are_checked_before_anything_else(
    args: list[str], refused: Refused, tmp_path: Path
) -> None:
    """Before a model, a profile or a figure that does not exist is noticed, hence before any measurement."""
    option = args[-1]
    for place, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "no" / "x.json", "No such file or directory"),
    ):
        said = refused(*args, str(place))
        assert said == f"deeprecsys: {option} {place}: expected a file that can be written, got: {why}\n"


def test_a_place_that_is_checked_stays_as_it_is(refused: Refused, tmp_path: Path) -> None:
    there, new, pipe = tmp_path / "there.json", tmp_path / "new.json", tmp_path / "pipe"
    there.write_text("what was there")
    os.mkfifo(pipe)  # a reader may come later
    for place in (there, new, pipe):
        assert "nowhere.onnx" in refused("bench", "nowhere.onnx", "--rate", "1", "--json", str(place))
    assert there.read_text() == "what was there"
    assert not new.exists()


def test_json_of_a_configuration_file_is_checked_too(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'json = "{tmp_path}"')
    assert f"--json {tmp_path}: expected a file" in refused("bench", "nowhere.onnx", "--config", str(file))


def test_the_place_of_figures_is_checked_before_they_are_made(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deeprecsys.paper import parallel

    monkeypatch.setattr(parallel, "parallel", None)
    (tmp_path / "file").touch()
    said = refused("paper", "1", "--out", str(tmp_path / "file" / "out"))
    assert "expected a directory that can be written, got: Not a directory" in said


@pytest.mark.parametrize("command", ["bench", "capacity", "profile", "tune", "quality"])
def test_the_place_of_a_run_is_checked_before_a_node_starts(
    command: str, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deeprecsys.node import node

    monkeypatch.setattr(node.Node, "__init__", None)
    (tmp_path / "file").touch()
    more = ["--rate", "10"] if command == "bench" else []
    said = refused(command, "ncf", "--rows-scale", "0.001", *more, "--out", str(tmp_path / "file" / "out"))
    assert "expected one that can be written: Not a directory" in said
