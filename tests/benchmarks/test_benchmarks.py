"""Every benchmark script starts, and its saved result is what the documents show."""

from __future__ import annotations

import importlib
import re

import pytest

from benchmarks.harness import PAGES, RESULTS, ROOT, Benchmark, load, scripts


def benchmark(script: str) -> Benchmark:
    found: Benchmark = importlib.import_module(f"benchmarks.{script}").BENCHMARK
    return found


def test_scripts_are_found_apart_from_libraries() -> None:
    assert {"engine.gather_kernel", "serve.face_cost", "simulate.parity"} <= set(scripts())
    assert not [s for s in scripts() if s.startswith("lib.")]


@pytest.mark.parametrize("script", [*scripts(), "versus"])
def test_a_script_says_what_it_measures_and_how_it_is_called(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = benchmark(script)
    with pytest.raises(SystemExit) as ended:
        one.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"python -m benchmarks.{script}" in said
    assert (one.doc or "").splitlines()[0] in said
    assert "--quick" in said


def saved_scripts() -> list[str]:
    return [s for s in scripts() if (RESULTS / f"{s.replace('.', '_')}.json").exists()]


@pytest.mark.parametrize("script", saved_scripts())
def test_the_documents_show_what_is_saved(script: str) -> None:
    one = benchmark(script)
    saved = load(one.name)
    assert saved["commit"]
    for place, body in (one.tables(saved) if one.tables else {}).items():
        page, _, marker = place.rpartition("#")
        text = "".join(p.read_text() for p in ROOT.glob(page or PAGES))
        shown = re.search(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", text, re.DOTALL)
        assert shown, place
        assert shown[1] == body.strip(), place


def test_no_benchmark_imports_the_command_line() -> None:
    importing = re.compile(r"^\s*(from|import) deeprecsys\.cli", re.MULTILINE)
    assert not [f for f in (ROOT / "benchmarks").rglob("*.py") if importing.search(f.read_text())]
