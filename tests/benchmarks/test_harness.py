"""The frame of benchmarks: options, saved results, tables, and running all of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as runner
from benchmarks import harness
from benchmarks.harness import Benchmark, Result, Run, Tables, UnavailableError, markdown

PAGE = "before\n<!-- rates -->\nold\n<!-- /rates -->\nafter\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one page."""
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "page.md").write_text(PAGE)
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "commit", lambda: "abc")
    monkeypatch.setattr(harness, "machine_record", lambda: {"cpu": "x", "isa": ["avx2"], "cores": 2})
    return tmp_path


def tables(result: Result) -> Tables:
    rows = [(name, found["qps"]) for name, found in result["models"].items()]
    return {"rates": markdown(("model", "QPS"), rows)}


def rates(place: Path, qps: dict[str, float | None], asked: list[str] | None = None) -> Benchmark:
    """A benchmark of two models that measures these rates, and keeps count in `asked`."""

    def measure(name: str) -> dict[str, Any] | None:
        if asked is not None:
            asked.append(name)
        return {"qps": qps[name]} if qps[name] else None

    def run(run: Run) -> None:
        run.each([("wnd",), ("ncf",)], measure, unit="queries/s")

    return Benchmark(str(place / "benchmarks" / "node" / "rates.py"), "Rates.", run, tables, ("wnd", "ncf"))


def saved(place: Path) -> Any:
    return json.loads((place / "results" / "node_rates.json").read_text())


def page(place: Path) -> str:
    return (place / "docs" / "results" / "page.md").read_text()


def test_a_run_saves_what_it_measured_and_writes_its_table(place: Path) -> None:
    rates(place, {"wnd": 2.0, "ncf": 3.0}).main([])
    found = saved(place)
    assert found["models"] == {"wnd": {"qps": 2.0}, "ncf": {"qps": 3.0}}
    assert (found["commit"], found["machine"]["cpu"], found["unit"]) == ("abc", "x", "queries/s")
    assert page(place) == PAGE.replace("old", "| model | QPS |\n|---|---|\n| wnd | 2.0 |\n| ncf | 3.0 |")


def test_only_what_is_asked_for_is_measured_and_the_rest_is_kept(place: Path) -> None:
    rates(place, {"wnd": 2.0, "ncf": 3.0}).main([])
    asked: list[str] = []
    rates(place, {"wnd": 5.0, "ncf": 7.0}, asked).main(["ncf"])
    assert (asked, saved(place)["models"]) == (["ncf"], {"wnd": {"qps": 2.0}, "ncf": {"qps": 7.0}})
    rates(place, {"wnd": 9.0, "ncf": 9.0}, asked).main(["--more"])
    assert asked == ["ncf"]


def test_what_could_not_be_measured_is_measured_by_more(place: Path) -> None:
    rates(place, {"wnd": None, "ncf": 3.0}).main([])
    assert saved(place)["models"] == {"ncf": {"qps": 3.0}}
    asked: list[str] = []
    rates(place, {"wnd": 2.0, "ncf": 9.0}, asked).main(["--more"])
    assert asked == ["wnd"]


def test_a_quick_run_writes_nothing_and_sees_that_the_markers_are_there(place: Path) -> None:
    asked: list[str] = []
    one = rates(place, {"wnd": 2.0, "ncf": 3.0}, asked)
    one.main(["--quick"])
    assert (asked, page(place), (place / "results").exists()) == (["wnd"], PAGE, False)
    (place / "docs" / "results" / "page.md").write_text("no markers")
    with pytest.raises(SystemExit, match="expected the markers <!-- rates --> and <!-- /rates -->"):
        one.main(["--quick"])


def test_tables_come_from_the_saved_result(place: Path) -> None:
    asked: list[str] = []
    one = rates(place, {"wnd": 2.0, "ncf": 3.0}, asked)
    with pytest.raises(SystemExit, match="node_rates: no result is saved"):
        one.main(["--tables"])
    one.main([])
    (place / "docs" / "results" / "page.md").write_text(PAGE)
    one.main(["--tables"])
    assert len(asked) == 2
    assert "| ncf | 3.0 |" in page(place)


def test_no_key_is_begun_after_its_seconds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(run: Run) -> None:
        run.each([("wnd",), ("ncf",)], lambda name: {"qps": 1.0}, seconds=-1.0)

    Benchmark(str(place / "benchmarks" / "node" / "rates.py"), "Rates.", run, tables, ("wnd", "ncf")).main([])
    assert capsys.readouterr().out == "left for --more: wnd, ncf\n"
    assert page(place) == PAGE


def test_an_unknown_model_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        rates(place, {}).main(["wdn"])
    assert ended.value.code == 2
    assert "expected models of wnd, ncf; got wdn" in capsys.readouterr().err


def test_what_cannot_run_here_is_skipped(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(run: Run) -> None:
        raise UnavailableError("no GPU")

    with pytest.raises(SystemExit) as ended:
        Benchmark(str(place / "benchmarks" / "gpu" / "speed.py"), "Speed.", run).main([])
    assert ended.value.code == harness.SKIPPED
    assert "gpu_speed: skipped: no GPU" in capsys.readouterr().out


def test_empty_cells_and_numbers_of_a_table() -> None:
    assert markdown(("", "a"), [("x", 1), ("", "")]) == "| | a |\n|---|---|\n| x | 1 |\n| | |"


def test_all_run_although_one_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = {"a.x": 0, "a.y": 1, "b.z": harness.SKIPPED}
    ran: list[list[str]] = []

    def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
        ran.append(command[2:])
        return subprocess.CompletedProcess(command, codes[command[2].removeprefix("benchmarks.")])

    monkeypatch.setattr(runner, "scripts", lambda: list(codes))
    monkeypatch.setattr(subprocess, "run", run)
    assert runner.main(["--quick"]) == 1
    assert ran == [[f"benchmarks.{s}", "--quick"] for s in codes]
    assert capsys.readouterr().out.endswith("done: a.x\nfailed: a.y\nskipped: b.z\n")
    assert runner.main(["b"]) == 0
    assert ran[3:] == [["benchmarks.b.z"]]


def test_a_name_that_is_no_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runner.main(["engin"])
    assert "expected a folder or a script of benchmarks, got engin" in capsys.readouterr().err
