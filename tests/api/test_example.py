"""The script of examples/ that tunes, simulates and plots in ten lines of Python."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deeprecsys as dr

SCRIPT = Path(__file__).parents[2] / "examples" / "tune_simulate_plot.py"


def test_it_is_ten_lines_of_python() -> None:
    assert len(ast.parse(SCRIPT.read_text()).body) - 1 <= 11  # two imports, a line of arguments, eight more


@pytest.mark.live
def test_it_tunes_simulates_and_plots(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "ncf", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rates = re.search(r"16 such cores would carry ([\d,]+) queries/s; these carry ([\d,]+)", done.stdout)
    assert rates, done.stdout
    larger, here = (float(r.replace(",", "")) for r in rates.groups())
    assert larger > here > 0
    found = dr.load_run(tmp_path / "runs" / "ncf")
    assert isinstance(found, dr.TuneRun)
    assert found.tuned is not None
    assert found.tuned.qps == pytest.approx(here, abs=0.5)
    assert found.policy.describe()["policy"] == found.tuned.policy
    assert {p.name for p in tmp_path.glob("*.png")} == {"ncf.png", "ncf-16-cores.png"}
