"""Run directories with values of other types than they should have: rendered without a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from deeprecsys.report import trialfile
from deeprecsys.report.html import html
from deeprecsys.report.illustrate import illustrations
from deeprecsys.report.page import comparison_page, run_page
from deeprecsys.report.plots.look import svg
from deeprecsys.report.render import comparison_text, run_text
from deeprecsys.report.rundir import Run, read_run
from deeprecsys.report.trialfile import KEY
from deeprecsys.report.view import view
from tests.fixtures.commands import COMMANDS, RELEASE

RUNS = [name for name, command in COMMANDS.items() if command.keeps_run]
OTHERS = (
    None, True, 0, -1, 3, 0.5, 1e308, -1e308, float("inf"), float("nan"), 10**400, "", "x", "100", "\ud800",
    [], [None], [1, "x"], {}, {"key": [1]}, {"batch_size": "many"},
)  # fmt: skip
"""What a value may be replaced by."""


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The path of every value of a document, of objects and lists too."""
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield (key,)
        yield from ((key, *rest) for rest in places(member))


def tampered(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """A copy of a document with another value at a place."""
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = tampered(copy[path[0]], path[1:], other)
    return copy


def short(value: Any) -> Any:
    """A document with at most three members of each list, so that few of its places are alike."""
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    return [short(v) for v in value[:3]] if isinstance(value, list) else value


def shown(run: Run) -> None:
    """Text and page of a run, alone and compared, without plots."""
    seen = view(run)
    for text in (run_text(seen), comparison_text([seen, seen])):
        text.encode("utf-8", "replace")
    assert html(run_page(run, seen, [])).count("<html") == 1
    assert html(comparison_page([run, run], [seen, seen], [])).count("<html") == 1


@pytest.mark.parametrize("name", RUNS)
def test_every_value_of_a_result(name: str) -> None:
    """Each is replaced by a few others, chosen by chance."""
    run = replace(read_run(RELEASE / name), trials={})
    result, random = short(run.result), np.random.default_rng(0)
    for path in places(result):
        for other in random.choice(len(OTHERS), 2, replace=False):
            shown(replace(run, result=tampered(result, path, OTHERS[other])))


@pytest.mark.parametrize("name", ["bench", "capacity", "tune"])
@pytest.mark.parametrize("file", ["config.json", "machine.json", "events.jsonl"])
def test_every_value_of_the_other_files(name: str, file: str, tmp_path: Path) -> None:
    """Read with a result and without one."""
    copy = Path(shutil.copytree(RELEASE / name, tmp_path / "run", ignore=shutil.ignore_patterns("*.parquet")))
    if file == "events.jsonl":
        (copy / "result.json").unlink()
    lines = [json.loads(line) for line in (copy / file).read_text().splitlines()] if "jsonl" in file else None
    document = short(lines or json.loads((copy / file).read_text()))
    random = np.random.default_rng(1)
    for path in places(document):
        other = tampered(document, path, OTHERS[random.integers(len(OTHERS))])
        written = [json.dumps(line) for line in other] if lines else [json.dumps(other)]
        (copy / file).write_text("\n".join(written) + "\n")
        shown(read_run(copy))


def test_every_value_of_a_trials_metadata(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(RELEASE / "bench", tmp_path / "run"))
    path = copy / "trials" / "bench.parquet"
    table = pq.read_table(path, memory_map=False)
    document = json.loads(table.schema.metadata[KEY])
    random = np.random.default_rng(2)
    for place in places(document):
        for other in random.choice(len(OTHERS), 6, replace=False):
            text = json.dumps(tampered(document, place, OTHERS[other]))
            pq.write_table(table.replace_schema_metadata({KEY: text.encode()}), path)
            shown(read_run(copy))


def test_slices_of_another_trial_are_left_out(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(RELEASE / "bench", tmp_path / "run"))
    path = copy / "trials" / "bench.batches.parquet"
    table = pq.read_table(path, memory_map=False)
    for query in (-1, 10**6):
        queries = table["query"].to_numpy().copy()
        queries[0] = query
        pq.write_table(table.set_column(0, "query", [queries]), path)
        run = read_run(copy)
        assert run.trials["bench"].slices is None
        assert any("slices of queries that are not in the trial" in p for p in run.problems)


def test_rows_for_which_there_is_no_memory_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of some kilobytes may state any number of equal rows."""
    copy = Path(shutil.copytree(RELEASE / "bench", tmp_path / "run"))
    path = copy / "trials" / "bench.parquet"
    table = pq.read_table(path, memory_map=False)
    monkeypatch.setattr(trialfile, "most_queries", lambda: len(table) - 1)
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    run = read_run(copy)
    assert not run.trials
    assert any(f"{len(table)} rows, and memory for {len(table) - 1}" in p for p in run.problems)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("posted_s", [1.0] * 50, "column posted_s is of type list"),
        ("device", "cpu" * 50, "column device cannot be read (it has no text"),
        ("device", None, "column device is of type null"),
        ("device", 5, "column device cannot be read (it has no text"),
    ],
)
def test_columns_hold_numbers_and_short_texts(column: str, value: object, says: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(RELEASE / "bench", tmp_path / "run"))
    path = copy / "trials" / "bench.batches.parquet"
    table = pq.read_table(path, memory_map=False)
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, [[value] * len(table)]), path)
    run = read_run(copy)
    assert run.trials["bench"].slices is None
    assert any(says in p for p in run.problems), run.problems


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "x" * 5000, "a\0b", ""])
def test_names_of_trials_do_not_lead_out_of_the_directory(name: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(RELEASE / "bench", tmp_path / "run"))
    with (copy / "events.jsonl").open("a") as events:
        events.write(json.dumps({"event": "trial", "name": name, "slices": True}) + "\n")
    run = read_run(copy)
    assert list(run.trials) == ["bench"]
    assert any(p.startswith("events.jsonl: expected the name of a trial, got") for p in run.problems)


@pytest.mark.parametrize("file", ["config.json", "machine.json", "result.json", "events.jsonl"])
@pytest.mark.parametrize("depth", [60, 100_000])
def test_deep_nesting_is_damage(file: str, depth: int, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(RELEASE / "bench", tmp_path / "run"))
    (copy / file).write_text(
        '{"a": ' * depth + "1" + "}" * depth + "\n" + ("{}\n" if "jsonl" in file else "")
    )
    run = read_run(copy)
    assert any(file in p and "damaged" in p for p in run.problems)
    shown(run)


def test_plots_of_values_that_cannot_be_drawn() -> None:
    """All values of which plots are made, by chance one in eight."""
    run = read_run(RELEASE / "tune")
    drawn = {"candidates", "static", "tuned", "target", "kept_static"}
    result, random = short(run.result), np.random.default_rng(3)
    known = [path for path in places(result) if path[0] in drawn]
    for place in random.choice(len(known), len(known) // 8, replace=False):
        other = OTHERS[random.integers(len(OTHERS))]
        for plot in illustrations(view(replace(run, result=tampered(result, known[place], other)))):
            if plot.name not in ("time-line", "where-time-goes"):  # of the trial alone
                svg(plot.figure, plot.name, plot.title)
