"""Comparisons side by side: searches trial by trial, source trees pair by pair."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import versus
from benchmarks.harness import ROOT
from benchmarks.lib.searches import interleaved


def test_searches_run_their_trials_in_turn() -> None:
    ran: list[str] = []

    def trial(name: str) -> str:
        ran.append(name)
        return name

    def search(name: str, trials: int) -> Any:
        return lambda own: [own(name) for _ in range(trials)]

    found = interleaved(trial, [search("a", 3), search("b", 1), search("c", 2)])  # type: ignore[arg-type]
    assert found == [["a"] * 3, ["b"], ["c"] * 2]
    assert ran == ["a", "b", "c", "a", "c", "a"]


def test_a_search_that_fails_does_not_hold_up_the_others() -> None:
    def failing(own: Any) -> None:
        own()
        raise ValueError("no trial met the target")

    with pytest.raises(ValueError, match="no trial met the target"):
        interleaved(lambda *_: None, [failing, lambda own: [own() for _ in range(3)]])  # type: ignore[arg-type,return-value]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The order in which trees are measured; the new one takes a tenth longer and carries a tenth less."""
    order: list[tuple[str, str]] = []

    def measure(what: str, old: dict[str, float]) -> Any:
        def of(tree: Path) -> dict[str, float]:
            new = tree == ROOT
            order.append((what, "new" if new else "old"))
            return {k: v * (1.1 if new and k == "p50_us" else 0.9 if new else 1.0) for k, v in old.items()}

        return of

    def probes(quick: bool) -> versus.Probes:
        rate = versus.Figure("batches/s", "batches_per_s", less=False)
        return [
            (
                measure("node", {"batches_per_s": 100.0, "p50_us": 20.0}),
                (rate, versus.Figure("p50, µs", "p50_us")),
            ),
            (measure("start", {"s": 2.0}), (versus.Figure("start, s", "s"),)),
        ]

    monkeypatch.setattr(versus, "probes", probes)
    return order


def test_trees_are_compared_pair_by_pair(
    measured: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "src" / "deeprecsys").mkdir(parents=True)
    versus.BENCHMARK.main(["--old", str(tmp_path), "--quick"])
    assert measured == [("node", "old"), ("node", "new"), ("start", "old"), ("start", "new")]
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [(r[0], r[3], r[6].rstrip(" |")) for r in rows[1:]] == [
        ("| batches/s", "0.900", "**not met**"),
        ("| p50, µs", "1.100", "**not met**"),
        ("| start, s", "0.900", "met"),
    ]


def test_a_folder_that_is_no_source_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected a source tree with src/deeprecsys"):
        versus.BENCHMARK.main(["--old", str(tmp_path), "--quick"])


def test_the_probe_names_the_modules_that_a_tree_lacks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", versus.PROBE, json.dumps(["face", "wnd", 1.0, 1])],
        cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(Path(pytest.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 1
    assert "expected one of the modules benchmarks.serve.face_cost, serve_face" in done.stderr
