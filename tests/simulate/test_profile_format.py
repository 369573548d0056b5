"""docs/profile-format.md says what is true: its JSON loads, its commands find it, its keys are all."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.target import Target
from tests.search.queues import theory_qps, wait_tail

TEXT = (Path(__file__).parents[2] / "docs" / "profile-format.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_file_written_by_hand_is_a_profile() -> None:
    (text,) = snippets("json")
    profile = LatencyProfile.from_json(json.loads(text))
    assert profile.seconds(1) == pytest.approx(0.0004)
    assert profile.seconds(544) == pytest.approx((0.0035 + 0.0515) / 2)
    assert profile.seconds(1024 + 480) == pytest.approx(0.0515 + 0.024)
    assert profile.seconds(64, busy=16) == profile.seconds(64)


def test_the_commands_run_and_find_what_theory_says(tmp_path: Path) -> None:
    """M/D/4 with a service of 10 ms."""
    (text,) = snippets("sh")
    command = f'deeprecsys() {{ "{sys.executable}" -m deeprecsys "$@"; }}\n{text}'
    done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trial, found = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("trial", "capacity"))
    assert wait_tail(3.4, 4, trial["p95_ms"] / 10 - 1) == pytest.approx(0.05, rel=0.1)
    assert found["capacity_qps"] == pytest.approx(100 * theory_qps(4, Target(latency_s=8.0)), rel=0.01)


TIMES = {"host_s": 1e-4, "stage_s": 1e-3, "staged_s": 9e-4, "lookup_share": 0.2}


def test_the_tables_name_every_key() -> None:
    points = [{"batch": 1, "seconds": [0.9, 1.0, 1.5]}, {"batch": 1, "seconds": 2.0, "after_idle": True}]
    profile = LatencyProfile.from_json({"model": "x", "points": points, "ranks": [0.5]} | TIMES)
    written = profile.to_json()
    cells = " ".join(re.findall(r"^\| (`[^|]*)\|", TEXT, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", cells)) == {*written, *written["points"][1]}
    assert LatencyProfile.from_json(written) == profile
    assert profile.seconds(1, u=0.25) == pytest.approx(0.95)
    assert profile.seconds(1, u=0.75) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([{"batch": 2, "seconds": 1}, {"batch": 1, "seconds": 1}], "rising"),
        ([{"batch": 1, "seconds": -1}], "above 0"),
        ([{"batch": 1}], "seconds"),
        ([{"batch": 1, "second": 1}], "seconds"),
        ([], "at least one"),
    ],
)
def test_everything_else_is_refused_by_name(points: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        LatencyProfile.from_json({"model": "x", "points": points})
    assert "\n" not in str(error.value)
