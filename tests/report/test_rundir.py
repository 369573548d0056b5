"""A run directory: exact both ways, and of use however it is damaged."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.core.runlog import RunLog
from deeprecsys.report.rundir import Run, RunWriter, read_run
from deeprecsys.report.slices import Slices
from tests.report.trials import poisson

RESULT = {"model": "ncf", "static": {"p99_ms": math.inf, "p50_ms": 1 / 3}, "ratio": None}


def write(path: Path) -> tuple[RunLog, Slices]:
    log, batches = poisson(300, 2, seed=3)
    log.status[5], log.finish_s[5] = 2, np.nan
    log = replace(log, node_cpu_share=0.25, abandoned=False, extra={"failures": ["query 5: why"]})
    with RunWriter(path, {"node": {"model": "ncf"}}, {"cpu": "test", "cores": 2}) as writer:
        writer.event({"event": "probe", "miss": math.nan})
        assert writer.trial("static", log, batches, {"role": "static"}) == "static"
        assert writer.trial("static", log) == "static-2"
        writer.result(RESULT)
    return log, Slices.of(batches)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    write(path)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    log, slices = write(tmp_path / "a" / "run")
    run = read_run(tmp_path / "a" / "run")
    assert run.problems == ()
    assert run.result == RESULT
    assert run.config == {"node": {"model": "ncf"}}
    assert run.machine == {"cpu": "test", "cores": 2}
    assert run.name == "run"
    assert [e["event"] for e in run.events] == ["started", "probe", "trial", "trial", "finished"]
    assert run.events[1]["miss"] is None, "JSON has no nan"
    record = run.trials["static"]
    assert record.about == {"role": "static"}
    assert run.trials["static-2"].slices is None
    for f in fields(RunLog):
        want, got = getattr(log, f.name), getattr(record.log, f.name)
        if isinstance(want, np.ndarray):
            assert want.dtype == got.dtype
            np.testing.assert_array_equal(want, got)
        else:
            assert want == got, f.name
    assert record.slices is not None
    for f in fields(Slices):
        np.testing.assert_array_equal(getattr(slices, f.name), getattr(record.slices, f.name))


def test_documents_are_strict_json(whole: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    for path in (*whole.glob("*.json"), whole / "events.jsonl"):
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=refuse)


def test_an_interrupted_run_keeps_what_it_measured(tmp_path: Path) -> None:
    log, _ = poisson(100, 1)

    def cut_off() -> None:
        with RunWriter(tmp_path / "run", {}, {}) as writer:
            writer.event({"event": "probe"})
            writer.trial("static", log)
            assert (tmp_path / "run" / "events.jsonl").read_text().count("\n") == 3  # flushed, not buffered
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    run = read_run(tmp_path / "run")
    assert run.result is None
    assert list(run.trials) == ["static"]
    assert any("interrupted (KeyboardInterrupt)" in p for p in run.problems)


def test_a_directory_with_files_is_refused(whole: Path) -> None:
    with pytest.raises(InputError, match="new or an empty one"):
        RunWriter(whole, {}, {})


@pytest.mark.parametrize("name", ["../../etc", "a b/c", "", ".hidden", "x.batches"])
def test_any_name_of_a_trial_makes_a_file_of_its_own(tmp_path: Path, name: str) -> None:
    log, batches = poisson(50, 0.2)
    with RunWriter(tmp_path / "run", {}, {}) as writer:
        kept = writer.trial(name, log, batches)
    run = read_run(tmp_path / "run")
    assert list(run.trials) == [kept]
    assert run.trials[kept].slices is not None
    assert {p.name for p in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize(
    "name",
    ["config.json", "machine.json", "events.jsonl", "result.json", "trials/static.parquet",
     "trials/static.batches.parquet", "trials/static-2.parquet"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage", "zeros"])
def test_each_damaged_file_is_named_and_the_rest_is_read(
    whole: Path, copy: Path, name: str, damage: str
) -> None:
    path = copy / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        cut = content[: len(content) * 2 // 3]
        other = {"empty": b"", "cut": cut, "garbage": b"\xff\x00{[" * 99, "zeros": bytes(len(content))}
        path.write_bytes(other[damage])
    run, good = read_run(copy), read_run(whole)
    assert run.problems
    assert any(name.removeprefix("trials/") in p for p in run.problems), run.problems
    rest = {
        "config.json": "config",
        "machine.json": "machine",
        "events.jsonl": "events",
        "result.json": "result",
    }
    for file, field in rest.items():
        if file != name:
            same_documents(getattr(run, field), getattr(good, field))
    lost = {Path(name).stem} if name.startswith("trials/") and "batches" not in name else set()
    assert set(run.trials) == set(good.trials) - lost
    if name != "trials/static.batches.parquet" and "static" in run.trials:
        assert run.trials["static"].slices is not None


def same_documents(a: object, b: object) -> None:
    assert json.dumps(a) == json.dumps(b)


def test_trials_gone_altogether(copy: Path) -> None:
    shutil.rmtree(copy / "trials")
    run = read_run(copy)
    assert run.result == RESULT
    assert run.problems == ("trials/ is missing: no raw records",)


def test_a_newer_version_is_said_and_shown(copy: Path) -> None:
    head = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**head, "format": "deeprecsys-run/7", "later": 1}))
    run = read_run(copy)
    assert run.version == 7
    assert any("newer deeprecsys (format 7" in p for p in run.problems)
    assert run.result == RESULT


def test_a_damaged_line_costs_only_itself(copy: Path) -> None:
    lines = (copy / "events.jsonl").read_text().splitlines()
    lines[1] = lines[1][:9]
    (copy / "events.jsonl").write_text("\n".join(lines) + "\n")
    run: Run = read_run(copy)
    assert run.problems == ("events.jsonl line 2 is damaged: skipped",)
    assert len(run.events) == 4


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="run directory"):
            read_run(path)
