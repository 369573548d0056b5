"""Calls of the command line in this very process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest

from deeprecsys.api.experiment import Experiment
from deeprecsys.cli import cli, errors
from deeprecsys.core.profile import LatencyProfile, Point


class Refused(Protocol):
    def __call__(self, *args: str) -> str: ...


class Answered(Protocol):
    def __call__(self, *args: str) -> dict[str, Any]: ...


def call(*args: str) -> int:
    return errors.run(lambda: cli.main([*args], prog_name="deeprecsys", standalone_mode=False))


def write_profile(file: Path, batch_s: float, item_s: float, model: str = "ncf", **about: str) -> Path:
    """A profile of `wait:1,0.05` written by hand: seconds of a batch, and of each of its items more."""
    points = tuple(
        Point(1, b, tuple(f * (batch_s + item_s * b) for f in (0.95, 1.0, 1.1))) for b in (1, 1000)
    )
    profile = LatencyProfile(model, points, engine="wait:1,0.05", machine=about)
    file.write_text(json.dumps(profile.to_json()))
    return file


@pytest.fixture(scope="session")
def job() -> Experiment:
    """One worker, small tables."""
    return Experiment.resolve(
        "ncf", rows_scale=0.01, engine="eager", precision="fp32", threads=1, workers=1, seed=0,
        locality="zipf:0.9",
    )  # fmt: skip


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """A call in this very process that is refused; gives the one line that it says."""

    def refuse(*args: str) -> str:
        status = call(*args)
        said = capsys.readouterr()
        assert status == 2, said
        assert said.out == ""
        assert said.err.count("\n") == 1, said.err
        return said.err

    return refuse


@pytest.fixture
def answered(capsys: pytest.CaptureFixture[str]) -> Answered:
    """A call that succeeds; gives the one document that it prints with `--json -`."""

    def answer(*args: str) -> dict[str, Any]:
        status = call(*args, "--json", "-")
        said = capsys.readouterr()
        assert status == 0, said.err
        document: dict[str, Any] = json.loads(said.out)
        return document

    return answer
