"""The page needs nothing but itself, shows what there is, and fits a desk and a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.report.html import html as html_of
from deeprecsys.report.illustrate import illustrations
from deeprecsys.report.page import run_page
from deeprecsys.report.render import render, run_text
from deeprecsys.report.rundir import read_run
from deeprecsys.report.trialfile import read_queries, write_queries
from deeprecsys.report.view import view
from tests.fixtures.commands import RELEASE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PLOTS = {"qps-by-batch-size", "latency-tail", "latency-by-rate", "where-time-goes", "time-line"}
EMPTY = {"meta", "link", "br", "path", "use", "image", "rect"}


class Checker(HTMLParser):
    """Tags that close as they opened, no request, no id twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "action", "data"):
                self.links.append(value or "")
        if tag not in EMPTY:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.stack.pop() == tag


def checked(page: str) -> str:
    """The page's text, once it is known to be sound and to ask for nothing."""
    checker = Checker()
    checker.feed(page)
    assert checker.stack == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(link == "data:," or link.startswith("#") for link in checker.links)
    assert "://" not in page
    assert "@import" not in page
    return html.unescape(re.sub(r"<(style|svg).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL))


def rendered(path: Path, out: Path) -> str:
    return checked(render(read_run(path), out)[0].read_text())


def test_a_tuned_run(tuned: Path, tmp_path: Path) -> None:
    run = read_run(tuned)
    written = render(run, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "report.txt", *(f"{n}.png" for n in PLOTS)}
    assert set(written) == set(tmp_path.iterdir())
    page = written[0].read_text()
    said = checked(page)
    assert page.count("<svg") == len(PLOTS)
    doc = run.result
    limits = [doc[role]["limit_today_qps"] for role in ("static", "tuned")]
    for figure in (*limits, doc["tuned"]["qps"], doc["tuned"]["p99_ms"]):
        assert f"{figure:#.3g}".rstrip(".") in said
    words = ["dlrm-rmc1, p95 ≤ 100 ms", "100 %", "Why", "Xeon", "cores", "search", "zipf:0.9", "computing on"]
    for word in words:
        assert word in said
    text = written[1].read_text()
    assert "undecided" in text
    rows = [line.split() for line in text.splitlines()]
    assert any(row[:1] == ["static"] and "500" in row for row in rows), "the tables too"
    assert "Why (trial tuned" in text
    assert "Incomplete" not in said


def test_what_is_shown_is_what_was_measured(tuned: Path) -> None:
    run = read_run(tuned)
    seen = view(run)
    assert seen.kind == "tune"
    assert seen.complete
    assert seen.main is not None
    assert seen.main.about["role"] == "tuned"
    assert [c.role for c in seen.curves] == ["static", "tuned"]
    for curve in seen.curves:
        point = run.result[curve.role]
        assert 1e3 * sorted(curve.latency_s)[int(0.95 * len(curve.latency_s))] == pytest.approx(
            point["p95_ms"], rel=0.05
        )
        assert seen.marks[curve.role] == (point["batch_size"], point["limit_today_qps"])
    assert len(seen.probes) == len(run.result["tuned"]["capacity"]["probes"])


@pytest.mark.parametrize(("method", "searched"), [("model", "simulated"), ("live", "live")])
def test_every_plot_and_table_says_whether_it_is_live_or_simulated(
    tuned_copy: Path, method: str, searched: str
) -> None:
    run = read_run(tuned_copy)
    curve = [{"batch_size": 2**k, "qps": 100.0 + k} for k in range(10)]
    run = replace(run, result={**(run.result or {}), "method": method, "batch_curve": curve})
    shown = view(run)
    basis = {i.name: i.figure.get_suptitle() for i in illustrations(shown)}
    assert basis == {
        "qps-by-batch-size": "curve simulated, static and tuned live"
        if method == "model"
        else "curve simulated, points with bars live, static and tuned live",
        "latency-tail": "live",
        "latency-by-rate": searched,
        "where-time-goes": "live",
        "time-line": "live",
    }
    page = run_page(run, shown, [])
    assert [t.title for t in page.tables] == ["Operating points, live"]
    assert [t.title for t in page.details] == [
        f"Every candidate, {searched}",
        f"Every rate that was tried for the best point, {searched}",
    ]


def test_a_simulation_says_so_on_every_plot() -> None:
    for name in ("simulate", "simulate_rate"):
        basis = {i.figure.get_suptitle() for i in illustrations(view(read_run(RELEASE / name)))}
        assert basis == {"simulated"}


def test_void_trials_are_kept_and_not_shown(tuned_copy: Path) -> None:
    before = view(read_run(tuned_copy))
    path = next((tuned_copy / "trials").glob("tuned*.parquet"))
    log, about = read_queries(path)
    late = replace(log, issued_s=log.arrival_s + 1, finish_s=log.finish_s + 1)
    write_queries(path, late, about)
    after = view(read_run(tuned_copy))
    assert len(after.curves[1].latency_s) < len(before.curves[1].latency_s)
    assert after.curves[1].latency_s.max() < 1


def test_where_static_is_best_it_is_shown_once(tuned: Path, tmp_path: Path) -> None:
    run = read_run(tuned)
    run = replace(
        run, result={**run.result, "kept_static": True, "tuned": run.result["static"], "ratio": 1.0}
    )
    seen = view(run)
    assert list(seen.marks) == ["static"]
    assert [c.role for c in seen.curves] == ["static"]
    assert "nothing proved better" in checked(html_of(run_page(run, seen, [])))


def test_quality_is_on_the_page(tmp_path: Path) -> None:
    said = rendered(RELEASE / "quality", tmp_path)
    for words in ("compared with those of the reference", "Spearman's rho", "top 10 kept"):
        assert words in said


@pytest.mark.parametrize("gone", ["config.json", "machine.json", "events.jsonl", "result.json", "trials"])
def test_a_page_of_what_is_left(tuned_copy: Path, tmp_path: Path, gone: str) -> None:
    path = tuned_copy / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = rendered(tuned_copy, tmp_path / "out")
    assert "Incomplete run directory" in said
    assert f"{gone}{'/' if gone == 'trials' else ''} is missing" in said
    left = {p.stem for p in (tmp_path / "out").glob("*.png")}
    assert left >= ({"where-time-goes", "time-line"} if gone != "trials" else {"qps-by-batch-size"})
    if gone == "result.json":  # the search is read from the events instead
        assert left >= {"qps-by-batch-size", "latency-by-rate"}
        assert "an unfinished run" in said
        assert "dlrm-rmc1" in said


def test_nothing_but_a_configuration(tuned_copy: Path, tmp_path: Path) -> None:
    for path in tuned_copy.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = rendered(tuned_copy, tmp_path / "out")
    assert said.count(" is missing") == 4


def test_names_from_outside_are_escaped(tuned_copy: Path, tmp_path: Path) -> None:
    doc = json.loads((tuned_copy / "result.json").read_text())
    doc["model"] = doc["machine"]["cpu"] = "<script>alert(1)</script>"
    doc["warnings"] = ['"><img src=x>']
    (tuned_copy / "result.json").write_text(json.dumps(doc))
    page = render(read_run(tuned_copy), tmp_path / "out")[0].read_text()
    checked(page)
    assert "<script" not in page
    assert "<img" not in page


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [None], {"batch_size": "many", "qps": None}])
@pytest.mark.parametrize(
    "key", sorted(["static", "tuned", "candidates", "target", "node", "search", "ratio", "machine", "bounds"])
)
def test_a_result_of_any_shape_is_shown(tuned: Path, key: str, value: object) -> None:
    run = read_run(tuned)
    run = replace(run, result={**run.result, key: value})
    seen = view(run)
    checked(html_of(run_page(run, seen, [])))
    assert run_text(seen)
    if isinstance(value, int | str) and key != "ratio":
        assert any(p.startswith(f"result {key}: expected") for p in seen.problems)


def test_a_void_trial_says_void_before_anything_else(tmp_path: Path) -> None:
    run = read_run(RELEASE / "bench")
    shown = run_page(run, view(run), [])
    assert "VOID" not in html_of(shown)
    void = replace(run, result={**(run.result or {}), "void": True, "lateness_p99_ms": 7.0})
    page = html_of(run_page(void, view(void), []))
    body = re.sub(r"<[^>]+>", " ", page.split("<body>")[1])
    assert body.split()[0] == "VOID:"
    assert body.count("VOID") == 1


def test_a_trial_that_was_given_up_says_so_in_a_notice(tmp_path: Path) -> None:
    run = read_run(RELEASE / "bench")
    result = {**(run.result or {}), "extra": {"abandoned": True}, "gave_up_after_s": 3.0, "asked_s": 10.0}
    page = html_of(run_page(run, view(replace(run, result=result)), []))
    assert "gave up after 3 s of 10 s" in page


def test_several_runs_are_compared(tuned: Path, tuned_copy: Path, tmp_path: Path) -> None:
    doc = json.loads((tuned_copy / "result.json").read_text())
    doc["model"], doc["machine"]["cores"] = "ncf", 40
    (tuned_copy / "result.json").write_text(json.dumps(doc))
    written = render([read_run(tuned), read_run(tuned_copy)], tmp_path / "out")
    said = checked(written[0].read_text())
    for words in ("2 runs compared", "tuned", "run", "not have the same model", "on different machines"):
        assert words in said
    assert {p.stem for p in written[2:]} == {"qps-by-batch-size", "latency-tail"}
    assert "ncf" in written[1].read_text()


def test_runs_of_one_name_are_told_apart(tuned: Path, tmp_path: Path) -> None:
    other = tmp_path / "x" / tuned.name
    shutil.copytree(tuned, other)
    written = render([read_run(tuned), read_run(other), read_run(other)], tmp_path / "out")
    names = {line.split("  ")[0] for line in written[1].read_text().splitlines() if "tuned  " in line}
    assert len(names) == 3


def test_no_runs_and_no_place_to_write(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="at least one run directory"):
        render([], tmp_path)
    with pytest.raises(InputError, match="that can be written to"):
        render(read_run(tuned), tmp_path / "file")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("width", [1280, 375])
def test_in_a_browser(tuned: Path, tmp_path: Path, width: int, runs: int) -> None:
    page = render([read_run(tuned)] * runs, tmp_path / "out")[0].read_text()
    probe = (
        "<script>onload = () => {const d = frames[0].document, e = d.documentElement;"
        "document.body.dataset.seen = JSON.stringify({"
        "over: e.scrollWidth - e.clientWidth, width: e.clientWidth, plots: d.querySelectorAll('svg').length,"
        "small: [...d.querySelectorAll('svg text')].filter(t => t.getBoundingClientRect().height < 8).length,"
        "wide: [...d.querySelectorAll('figure, section, h1, h2, p, svg')]"
        ".filter(x => x.getBoundingClientRect().right > e.clientWidth + 1).length})}</script>"
    )
    frame = f'<iframe style="width:{width}px;height:2000px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    (tmp_path / "probe.html").write_text(f"<!doctype html><body>{probe}{frame}")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--enable-logging=stderr", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
         f"--window-size={width + 100},2000", "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', done.stdout)[1]))
    assert seen["width"] == width
    assert seen["over"] <= 0
    assert seen["wide"] == 0
    assert seen["small"] == 0
    assert seen["plots"] == (len(PLOTS) if runs == 1 else 2)
    assert "CONSOLE" not in done.stderr
