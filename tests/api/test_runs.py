"""Results from Python: figures by name, saved and loaded, plotted, shown; progress and interruption."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import deeprecsys as dr
from deeprecsys.api import progress as progress_
from deeprecsys.core.profile import Point
from deeprecsys.report.documents import TuneReport
from tests.fixtures.commands import RELEASE

PROFILE = dr.LatencyProfile("ncf", tuple(Point(1, b, (1e-3 + 5e-5 * b,)) for b in (1, 1000)))
SMALL = {"rows_scale": 0.001, "workers": 1, "sizes": "fixed:20"}


@pytest.fixture(scope="module")
def trial() -> dr.SimulateRun:
    return dr.simulate(PROFILE, dr.Coalescing(64, 16), 100, queries=2000, sla_ms=60, workers=2)


@pytest.fixture(scope="module")
def found() -> dr.SimulateRun:
    return dr.simulate(PROFILE, sla_ms=60, workers=2)


def test_a_trial_in_virtual_time_has_named_figures(trial: dr.SimulateRun) -> None:
    assert (trial.qps, trial.served, trial.completed) == (100, 1.0, 2000)
    assert trial.p50_ms is not None
    assert trial.p95_ms is not None
    assert 4 < trial.p50_ms < trial.p95_ms < 60
    assert (trial.policy, trial.batch_size, trial.finest) == ("coalescing", 64, 16)
    assert trial.problems == ()
    assert trial.more == {}
    assert len(trial.records["simulated"].log.size) == 2000


def test_a_policy_object_is_the_one_that_its_name_gives(trial: dr.SimulateRun) -> None:
    named = dr.simulate(
        PROFILE, "coalescing:16", 100, batch_size=64, queries=2000, sla_ms=60, workers=2
    ).to_json()
    assert named == trial.to_json()


def test_a_capacity_is_searched_without_a_rate(found: dr.SimulateRun) -> None:
    assert found.qps == found.capacity_qps > 0
    assert found.searched
    assert list(found.plots()) == ["qps-by-batch-size", "latency-by-rate"]


def test_without_a_policy_the_best_is_searched_and_the_static_batch_is_beside_it(
    found: dr.SimulateRun,
) -> None:
    static = dr.simulate(PROFILE, "static", sla_ms=60, workers=2)
    assert found.static is not None
    assert (found.static.policy, found.static.batch_size) == ("static", 500)
    assert found.static.qps == static.qps
    assert found.qps is not None
    assert static.qps is not None
    assert found.ratio == found.qps / static.qps > 1
    tried = [c for c in found.candidates if c.policy == found.policy and c.batch_size == found.batch_size]
    assert tried, "the best is one of those that were tried"
    assert max(c.capacity_qps or 0 for c in found.candidates) == max(c.capacity_qps or 0 for c in tried)
    again = dr.simulate(PROFILE, dr.api.policies.from_description(found.to_json()), sla_ms=60, workers=2)
    assert again.qps == found.qps
    assert again.static is None


def test_the_curve_of_batch_sizes_has_every_size_and_its_own_top(found: dr.SimulateRun) -> None:
    assert [p.batch_size for p in found.batch_curve] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 1000]
    at = {p.batch_size: p.qps or 0.0 for p in found.batch_curve}
    for size in (16, 256):
        one = dr.simulate(PROFILE, dr.DeepRecSched(size), sla_ms=60, workers=2).qps
        assert at[size] == pytest.approx(one, rel=0.05)
    assert at[1] < max(at.values())


def test_a_named_policy_or_knob_is_not_searched() -> None:
    for given in ({"policy": "coalescing"}, {"batch_size": 64}):
        one = dr.simulate(PROFILE, sla_ms=60, workers=2, **given)
        assert one.static is None
        assert one.candidates == ()


def test_results_cannot_be_changed(trial: dr.SimulateRun) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        trial.qps = 1.0  # type: ignore[misc]


def test_a_saved_result_is_loaded_again(trial: dr.SimulateRun, tmp_path: Path) -> None:
    again = dr.load_run(trial.save(tmp_path / "run"))
    assert isinstance(again, dr.SimulateRun)
    assert again.to_json() == trial.to_json()
    assert again == trial
    assert again.run.problems == ()
    assert (again.records["simulated"].log.finish_s == trial.records["simulated"].log.finish_s).all()
    assert list(again.plots()) == list(trial.plots())
    third = dr.load_run(again.save(tmp_path / "copy"))
    kinds = [[e["event"] for e in r.run.events] for r in (again, third)]
    assert kinds == [["started", "trial", "finished"]] * 2


def test_a_directory_written_as_it_runs_is_the_one_that_save_writes(tmp_path: Path) -> None:
    out, saved = tmp_path / "out", tmp_path / "saved"
    dr.simulate(PROFILE, "static", 300, queries=500, sla_ms=60, out=out).save(saved)
    assert {p.name for p in out.rglob("*")} == {p.name for p in saved.rglob("*")}
    assert json.loads((out / "result.json").read_text()) == json.loads((saved / "result.json").read_text())
    configs = [json.loads((d / "config.json").read_text())["config"] for d in (out, saved)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("name", sorted(p.name for p in RELEASE.iterdir() if (p / "config.json").exists()))
def test_a_run_of_release_0_1_is_loaded(name: str, tmp_path: Path) -> None:
    run = dr.load_run(RELEASE / name)
    assert run.to_json() == json.loads((RELEASE / name / "result.json").read_text())
    assert run.problems == ()
    assert str(run.model) in repr(run)
    assert dr.load_run(run.save(tmp_path / "again")).to_json() == run.to_json()
    if isinstance(run, TuneReport):
        assert run.tuned is not None
        assert run.tuned.qps == run.to_json()["tuned"]["qps"]


def test_a_run_that_did_not_end_gives_what_it_measured(tmp_path: Path) -> None:
    name = next(p for p in sorted(RELEASE.iterdir()) if p.name.startswith("tune"))
    broken = tmp_path / "run"
    dr.load_run(name).save(broken)
    (broken / "result.json").unlink()
    run = dr.load_run(broken)
    assert run.run.result is not None or run.run.problems
    assert any("result.json" in p for p in run.run.problems)
    assert repr(run)


def test_a_notebook_shows_text_and_the_first_plot(trial: dr.SimulateRun) -> None:
    assert repr(trial).startswith("ncf, simulated, 2 workers, coalescing")
    html = trial._repr_html_()
    assert html.startswith("<pre>ncf, simulated")
    assert html.count("<svg") == 1


def test_a_plot_is_a_figure(trial: dr.SimulateRun, tmp_path: Path) -> None:
    trial.plot("latency-tail").savefig(tmp_path / "tail.png")
    assert (tmp_path / "tail.png").stat().st_size > 1000
    with pytest.raises(dr.InputError, match=r"plot: expected one of latency-tail, .*, got latency"):
        trial.plot("latency")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: dr.bench("nfc", rate=10), "did you mean 'ncf'"),
        (lambda: dr.bench("ncf", rate=0), "--rate: expected a number above 0, got 0"),
        (lambda: dr.bench("ncf", rate=10, target="hgh"), "did you mean 'high'"),
        (lambda: dr.bench("ncf", rate=10, precision="fp8"), "fp32"),
        (lambda: dr.tune("ncf", method="guess"), "unknown method 'guess'"),
        (lambda: dr.tune("ncf", precision="fp8"), "unknown precision 'fp8'"),
        (lambda: dr.tune("ncf", profile="/nowhere.json"), "--profile /nowhere.json: expected"),
        (lambda: dr.simulate(PROFILE, dr.Static(8), 10, batch_size=9, sla_ms=9), "--batch-size, --offload"),
        (lambda: dr.simulate(PROFILE, "statik", 10), "did you mean 'static'"),
        (lambda: dr.load_run("/nowhere"), "run directory /nowhere: expected a directory"),
    ],
)
def test_bad_input_is_an_error_of_the_library(call, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(dr.InputError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="rows_scal"):
        dr.bench("ncf", rate=10, rows_scal=0.1)  # type: ignore[call-arg]


@pytest.mark.live
def test_bench_reports_progress_to_a_callback_and_nothing_to_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    heard: list[tuple[str, float, str]] = []
    run = dr.bench(
        "ncf", rate=200, queries=100, engine="null", slices=True, **SMALL,
        progress=lambda *told: heard.append(told),
    )  # fmt: skip
    assert {stage for stage, _, _ in heard} == {"ncf: starting", "ncf: 200 queries/s"}
    assert all(0 <= share <= 1 for _, share, _ in heard)
    assert capfd.readouterr() == ("", "")
    assert (run.served, run.engine, run.run.config["node"]["workers"]) == (1.0, "null", 1)
    assert "where-time-goes" in run.plots()


@pytest.mark.live
def test_a_profile_is_measured_and_simulated(tmp_path: Path) -> None:
    run = dr.profile("ncf", budget=1, engine="wait:1,0.05", progress=None, **SMALL)
    assert run.latency_profile.seconds(20) == pytest.approx(2e-3, rel=0.3)
    assert dr.simulate(run, "static", 100, queries=500, sla_ms=60).engine == "wait:1,0.05"
    assert dr.load_run(run.save(tmp_path / "p")) == run


@pytest.mark.live
def test_an_interrupted_search_carries_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = 0

    def interrupt(self: progress_.SearchProgress, share: float) -> None:
        nonlocal ended
        ended = len(self.found)
        if ended:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress_.SearchProgress, "tick", interrupt)
    with pytest.raises(dr.Interrupted) as error:
        dr.capacity("ncf", engine="wait:2", sla_ms=50, budget=2, progress=None, **SMALL)
    assert len(error.value.found) == ended == 1
    assert error.value.found[0].result.capacity_qps > 0


def test_a_bar_is_for_terminals_and_notebooks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_.stage("work", True) as report:
        report(0.5, "half")
    assert capsys.readouterr() == ("", "")
