"""Plots: none raises on trials in which little or nothing worked, and each becomes SVG that needs nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from deeprecsys.core.runlog import RunLog, Status
from deeprecsys.core.target import Target
from deeprecsys.report.breakdown import breakdown, by_size
from deeprecsys.report.documents import ProbeDocument
from deeprecsys.report.plots.capacity import PlottedCandidate, latency_by_rate, qps_by_batch_size
from deeprecsys.report.plots.latency import Curve, latency_tail
from deeprecsys.report.plots.look import VARIABLES, png, stamp, svg
from deeprecsys.report.plots.trial import time_line, where_time_goes
from deeprecsys.report.slices import Slices
from tests.report.trials import poisson, run

TARGET = Target(latency_s=0.1)
INF, NAN = np.inf, np.nan


def unserved(log: RunLog) -> RunLog:
    """The same trial with every query shed."""
    n = len(log.size)
    nothing = np.full(n, NAN)
    return replace(
        log, start_s=nothing, finish_s=nothing, status=np.full(n, Status.SHED, np.uint8), busy_s=0.0
    )


def probe(rate: float, *ms: float | None) -> ProbeDocument:
    return ProbeDocument(rate_qps=rate, **dict(zip(("p50_ms", "p95_ms", "p99_ms"), ms, strict=True)))


def cases() -> Iterator[tuple[str, Callable[[], Figure]]]:
    yield "no candidates", lambda: qps_by_batch_size({})
    yield "empty curve", lambda: qps_by_batch_size({"": []})
    yield (
        "one candidate",
        lambda: qps_by_batch_size({"": [PlottedCandidate(1, 5.0, 0.0, INF)]}, {"tuned": (1, 4.0)}),
    )
    yield (
        "none reachable",
        lambda: qps_by_batch_size({"": [PlottedCandidate(1, 0.0), PlottedCandidate(8, 0.0)]}),
    )
    yield (
        "only bounds",
        lambda: qps_by_batch_size({"": [PlottedCandidate(4, None, 0.0, 9.0)]}, {"static": (4, 9.0)}),
    )
    yield (
        "many runs",
        lambda: qps_by_batch_size(
            {f"r{i}": [PlottedCandidate(2**k, 9.0 + i) for k in range(9)] for i in range(9)}
        ),
    )
    yield "no curves", lambda: latency_tail([])
    yield "no curves but a target", lambda: latency_tail([], TARGET)
    yield "no latencies", lambda: latency_tail([Curve("a", np.array([]))], TARGET)
    yield "none served", lambda: latency_tail([Curve("static", np.full(9, INF), "static")], TARGET)
    yield "one query", lambda: latency_tail([Curve("tuned", np.array([0.01]), "tuned")], TARGET)
    yield (
        "half served",
        lambda: latency_tail([Curve("a", np.array([0.01, INF])), Curve("b", np.array([1e-6, 9.0]))]),
    )
    yield (
        "many curves",
        lambda: latency_tail([Curve(f"r{i}", np.geomspace(0.01, 1 + i, 99)) for i in range(9)], TARGET),
    )
    yield "equal latencies", lambda: latency_tail([Curve("a", np.full(50, 0.02))])
    yield "no probes", lambda: latency_by_rate([], TARGET, (None, None), None)
    yield "one probe", lambda: latency_by_rate([probe(10, 1, 2, 3)], TARGET, (8.0, 12.0), 10.0)
    yield (
        "infinite",
        lambda: latency_by_rate([probe(10, 1, INF, INF), probe(20, INF, INF, INF)], TARGET, (9.0, None)),
    )
    yield "nothing known", lambda: latency_by_rate([probe(10, None, None, None)])
    log, batches = poisson(200, 2)
    slices = Slices.of(batches)
    for name, trial, parts in (
        ("a trial", log, slices),
        ("without slices", log, None),
        ("none served", unserved(log), None),
        ("one query", *_one()),
        ("nothing", run([], [])[0], None),
        ("warm-up is all", replace(log, warmup_s=1e9), slices),
    ):
        yield f"time line of {name}", lambda t=trial, s=parts: time_line(t, s, TARGET)
        yield (
            f"parts of {name}",
            lambda t=trial, s=parts: where_time_goes(by_size(t, breakdown(t, s)), s is not None),
        )


def _one() -> tuple[RunLog, Slices]:
    log, batches = run([0.5], [7])
    return log, Slices.of(batches)


@pytest.mark.parametrize(("name", "draw"), list(cases()), ids=[name for name, _ in cases()])
def test_a_plot_stands_on(name: str, draw: Callable[[], Figure], tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    figure = draw()
    png(figure, tmp_path / "plot.png", dpi=50)
    text = svg(figure, "plot", 'a "title"')
    assert (tmp_path / "plot.png").stat().st_size > 500
    assert "://" not in text
    ET.fromstring(text)
    assert dict(mpl.rcParams) == before
    colours = set(re.findall(r"#[0-9a-f]{6}\b", text))
    assert not colours - {"#000000", "#ffffff"}, "a colour that dark mode cannot change"
    assert not colours & set(VARIABLES)


def words(figure: Figure) -> list[str]:
    """The texts of a figure's SVG."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg(figure, "plot", "title"))


@pytest.mark.parametrize(("qps", "rates"), [(101.0, (100, 104, 200, 500)), (490.0, (100, 300, 500))])
def test_the_label_of_the_capacity_stays_within_the_axes(qps: float, rates: tuple[float, ...]) -> None:
    figure = latency_by_rate([probe(r, 1, 2, 3) for r in rates], TARGET, (0.98 * qps, 1.02 * qps), qps)
    figure.canvas.draw()
    (ax,) = figure.axes
    (label,) = (t for t in ax.texts if t.get_text().startswith("capacity"))
    box, room = label.get_window_extent(), ax.get_window_extent()
    assert room.x0 <= box.x0 <= box.x1 <= room.x1


def test_the_whole_simulated_curve_is_drawn_behind_what_was_tried() -> None:
    curve = [PlottedCandidate(2**k, 100.0 - (k - 5) ** 2) for k in range(10)]
    figure = qps_by_batch_size({"": [PlottedCandidate(32, 90.0, 80.0, 95.0)]}, {"tuned": (32, 88.0)}, curve)
    drawn = {
        (x, y)
        for line in figure.axes[0].lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    assert drawn >= {(c.batch_size, c.qps) for c in curve}
    assert {"1", "512", "tuned 32: 88.0"} <= set(words(figure))


@pytest.mark.parametrize("legend", [False, True])
def test_a_stamp_is_on_the_picture_and_beside_the_legend(legend: bool) -> None:
    figure = latency_tail([Curve("a", np.geomspace(0.01, 1, 99))], TARGET)
    if legend:
        figure.legend(figure.axes[0].lines[:1], ["name"], loc="outside upper left")
    stamp(figure, "simulated")
    stamp(figure, "live")
    assert "live" in words(figure)
    assert "simulated" not in words(figure)
    figure.canvas.draw()
    at = (figure._supxlabel if legend else figure._suptitle).get_window_extent()
    assert not any(at.overlaps(other.get_window_extent()) for other in (*figure.legends, *figure.axes))


def test_ids_of_two_plots_do_not_meet() -> None:
    log, batches = poisson(100, 1)
    figure = time_line(log, Slices.of(batches), TARGET)
    texts = [svg(figure, name, name) for name in ("a", "b")]
    ids = [set(re.findall(r'\sid="([^"]+)"', text)) for text in texts]
    assert not ids[0] & ids[1]
    for text, known in zip(texts, ids, strict=True):
        used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
        assert used
        assert used <= known


def test_the_same_plot_gives_the_same_svg() -> None:
    log, batches = poisson(100, 1)
    a, b = (svg(time_line(log, Slices.of(batches), TARGET), "x", "x") for _ in range(2))
    assert a == b
