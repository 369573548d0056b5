"""Render run directories: report.html, report.txt and a PNG of every plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deeprecsys.core.errors import InputError
from deeprecsys.report import text
from deeprecsys.report.explain import explain, overview
from deeprecsys.report.html import html
from deeprecsys.report.illustrate import comparisons, illustrations
from deeprecsys.report.page import comparison_page, differences, run_page
from deeprecsys.report.plots.look import png
from deeprecsys.report.rundir import Run
from deeprecsys.report.view import RunView, view


def render(runs: Run | Sequence[Run], out: Path) -> list[Path]:
    """Write the report of a run, or the comparison of several.

    Args:
        runs: as `read_run` gives them.
        out: the directory to write to; made where it does not exist. It may be a run directory.

    Returns:
        What was written, the page first.

    Raises:
        InputError: no runs, or a directory that cannot be written to.
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    if not several:
        raise InputError("report: expected at least one run directory, got none")
    views = _named(several)
    one = len(several) == 1
    plots = list(illustrations(views[0]) if one else comparisons(views))
    page = run_page(several[0], views[0], plots) if one else comparison_page(several, views, plots)
    words = run_text(views[0]) if one else comparison_text(views)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = [out / "report.html", out / "report.txt"]
        for path, content in zip(written, (html(page), words), strict=True):
            path.write_text(content, encoding="utf-8", errors="replace")
        for plot in plots:
            written.append(out / f"{plot.name}.png")
            png(plot.figure, written[-1])
    except OSError as e:
        raise InputError(
            f"report: expected a directory that can be written to, got {out}: {e.strerror}"
        ) from e
    return written


def run_text(shown: RunView) -> str:
    """One run for a terminal: what is missing, the result, why."""
    parts = ["\n".join(f"incomplete: {p}" for p in shown.problems), text.whole_of(shown.report)]
    if shown.main is not None and len(shown.main.log.size):
        log, slices = shown.main.log, shown.main.slices
        stories = [f"- {s}" for s in explain(log, slices, shown.target)]
        parts.append("\n".join([f"Why (trial {shown.main.name}):", *overview(log, slices), *stories]))
    return "\n\n".join(p for p in parts if p) + "\n"


def comparison_text(views: Sequence[RunView]) -> str:
    """Several runs for a terminal."""
    parts = [
        "\n".join(f"incomplete: {v.name}: {p}" for v in views for p in v.problems),
        text.compare([(v.name, v.report) for v in views]),
        "\n".join(f"warning: {d}" for d in differences(views)),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _named(runs: Sequence[Run]) -> list[RunView]:
    """Views whose names differ: by directory, with as many parents as that takes."""
    views = [view(r) for r in runs]
    names = [v.name for v in views]
    if len(set(names)) < len(names):
        paths = [r.path.resolve() for r in runs]
        names = [str(Path(*p.parts[-2:])) for p in paths]
        if len(set(names)) < len(names):
            names = [f"{i}: {n}" for i, n in enumerate(names, 1)]
    return [replace(v, name=n) for v, n in zip(views, names, strict=True)]
