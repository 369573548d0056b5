"""Capacity: against batch size, and latency against the offered rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deeprecsys.core.target import Target
from deeprecsys.report import format as f
from deeprecsys.report.documents import ProbeDocument
from deeprecsys.report.plots.look import (
    BLUE,
    INK,
    MUTED,
    PURPLE,
    SKY,
    VERMILION,
    batch_axis,
    end_labels,
    figure,
    log_ticks,
    look,
    style,
    thousands,
)


@dataclass(frozen=True, slots=True)
class PlottedCandidate:
    """One operating point that a search tried.

    Attributes:
        batch_size: items.
        qps: its capacity; None where only `high_qps` is known, 0 where it meets the target at no load.
        low_qps, high_qps: its interval, queries/s.
    """

    batch_size: int
    qps: float | None
    low_qps: float | None = None
    high_qps: float | None = None


def qps_by_batch_size(
    curves: Mapping[str, Sequence[PlottedCandidate]],
    marks: Mapping[str, tuple[int, float]] | None = None,
    simulated: Sequence[PlottedCandidate] = (),
) -> Figure:
    """Capacity against batch size, with intervals; marks name the static and the tuned point.

    Args:
        curves: candidates by name of the run; one unnamed curve needs no label.
        marks: (batch size, queries/s) by role.
        simulated: the whole curve in virtual time, behind the others.
    """
    with style():
        fig, (ax,) = figure(3.0)
        sizes = {c.batch_size for c in simulated}
        ends = []
        _capacities(ax, simulated, {"color": SKY, "linestyle": "-", "marker": "."}, first=not curves)
        for order, (name, candidates) in enumerate(curves.items()):
            drawn = sorted(candidates, key=lambda c: c.batch_size)
            sizes |= {c.batch_size for c in drawn}
            at = look("", order) if len(curves) > 1 else {"color": MUTED, "linestyle": "-"}
            _capacities(ax, drawn, at, first=order == 0)
            if name and drawn:
                ends.append((name, drawn[-1].qps or drawn[-1].high_qps or 0.0, str(at["color"])))
        for role, (size, qps) in (marks or {}).items():
            sizes.add(size)
            at = look(role, 0)
            ax.plot(
                [size], [qps], marker=at["marker"], color=at["color"], markersize=8, zorder=5, linestyle=""
            )
        batch_axis(ax, sorted(sizes))
        _label_marks(ax, marks or {}, [*simulated, *(c for cs in curves.values() for c in cs)])
        ax.set_ylabel("capacity, queries/s")
        ax.yaxis.set_major_formatter(thousands())
        end_labels(ax, ends)
        return fig


def _capacities(ax: Axes, drawn: Sequence[PlottedCandidate], at: Mapping[str, Any], first: bool) -> None:
    """One search's candidates: points with intervals, upper bounds as carets, unreachable ones at 0."""
    found = [(c.batch_size, c.qps, c.low_qps, c.high_qps) for c in drawn if c.qps]
    if found:
        size, qps = [c[0] for c in found], np.array([c[1] for c in found], float)
        low = np.array([q if lo is None else lo for _, q, lo, _ in found], float)
        high = np.array([q if hi is None or not np.isfinite(hi) else hi for _, q, _, hi in found], float)
        spread = np.maximum(np.stack([qps - low, high - qps]), 0)
        ax.errorbar(
            size, qps, yerr=spread if spread.any() else None, color=at["color"], linestyle=at["linestyle"],
            linewidth=1.3, marker=at.get("marker", "o"), markersize=3.5, capsize=2.5, elinewidth=0.9,
            zorder=3,
        )  # fmt: skip
    below = [(c.batch_size, c.high_qps) for c in drawn if c.qps is None and c.high_qps]
    if below:
        ax.plot(
            *zip(*below, strict=True), linestyle="", marker=7, color=at["color"], zorder=3
        )  # a caret down
        if first:
            ax.annotate("at most", below[0], (-3, 5), textcoords="offset points", color=MUTED)
    never = [c.batch_size for c in drawn if c.qps == 0]
    if never:
        ax.plot(never, [0] * len(never), linestyle="", marker="x", color=at["color"], clip_on=False, zorder=4)
        ax.annotate(
            "misses the target at any rate", (never[-1], 0), (0, 7), textcoords="offset points", color=MUTED,
            ha="right" if never[-1] > drawn[len(drawn) // 2].batch_size else "left",
        )  # fmt: skip


def _label_marks(
    ax: Axes, marks: Mapping[str, tuple[int, float]], candidates: Sequence[PlottedCandidate]
) -> None:
    """Role, size and rate: above the interval of the higher mark, below that of the lower."""
    values = [v for c in candidates for v in (c.qps, c.low_qps, c.high_qps) if v and np.isfinite(v)]
    top = max([*values, *(qps for _, qps in marks.values())], default=1.0)
    ax.set_ylim(0, 1.2 * top)
    highest = max((qps for _, qps in marks.values()), default=0.0)
    left, right = ax.get_xlim()
    for role, (size, qps) in marks.items():
        above = qps >= highest
        ends = [v for c in candidates if c.batch_size == size for v in (c.qps, c.low_qps, c.high_qps)]
        reach = [qps, *(v for v in ends if v and np.isfinite(v))]
        place = np.log(size / left) / np.log(right / left)
        if above:
            ax.plot([size, size], [qps, max(reach)], color=look(role, 0)["color"], linewidth=1.0, zorder=4)
        ax.annotate(
            f"{role} {size:,}: {f.figure(qps)}",
            (size, max(reach) if above else min(reach)),
            (0, 7) if above else (6, -7),
            textcoords="offset points",
            ha="right" if place > 0.7 else "left" if place < 0.2 or not above else "center",
            va="bottom" if above else "top",
            color=look(role, 0)["color"],
            weight="bold",
        )


def latency_by_rate(
    probes: Sequence[ProbeDocument],
    target: Target | None = None,
    interval: tuple[float | None, float | None] | None = None,
    qps: float | None = None,
) -> Figure:
    """p50, p95 and p99 against the offered rate, the target, and the capacity with its interval.

    Args:
        probes: those whose rate is known; an infinite or missing latency is drawn at the top.
        target: what is to be met.
        interval: of the capacity, queries/s, and qps: the capacity itself.
    """
    with style():
        fig, (ax,) = figure(3.0)
        rows = sorted((p for p in probes if p.rate_qps), key=lambda p: p.rate_qps or 0.0)
        rate = np.array([p.rate_qps for p in rows], float)
        values = {
            "p50": np.array([p.p50_ms for p in rows], float),
            "p95": np.array([p.p95_ms for p in rows], float),
            "p99": np.array([p.p99_ms for p in rows], float),
        }
        known = [v for a in values.values() for v in a if np.isfinite(v)]
        limit = 1e3 * target.latency_s if target else None
        top = 1.5 * max([*known, limit or 0.0, 1e-3])
        if interval is not None:
            _band(ax, rate, interval)
        looks = ((PURPLE, "D", (0, (1, 1))), (BLUE, "o", "-"), (VERMILION, "s", (0, (5, 2))))
        labels = []
        for (name, value), (color, marker, line) in zip(values.items(), looks, strict=True):
            shown = np.where(np.isfinite(value), value, top)
            ax.plot(rate, shown, color=color, marker=marker, linestyle=line, markersize=3.5, zorder=3)
            labels += [(name, float(shown[-1]), color)] if len(rate) else []
        if limit:
            ax.axhline(limit, color=INK, linewidth=1.0, zorder=2)
            labels.append(("target", limit, INK))
        log_ticks(ax.yaxis, min([*known, limit or top, top / 10]) / 1.3, top)
        ax.margins(x=0.05)
        ax.set_xlabel("offered rate, queries/s")
        ax.xaxis.set_major_formatter(thousands())
        ax.set_ylabel("latency, ms")
        end_labels(ax, labels)
        if interval is not None and qps is not None:
            _capacity_line(ax, qps)
        return fig


def _band(ax: Axes, rate: NDArray[np.float64], interval: tuple[float | None, float | None]) -> None:
    low, high = interval
    left, right = (float(rate.min()), float(rate.max())) if len(rate) else (0.0, 1.0)
    low, high = left if low is None else low, right if high is None else high
    ax.axvspan(low, high, color=SKY, alpha=0.3, linewidth=0, zorder=1)


def _capacity_line(ax: Axes, qps: float) -> None:
    """A line at the capacity, and its label on the side where there is room; the limits of x are set."""
    ax.axvline(qps, color=BLUE, linewidth=0.9, linestyle=(0, (2, 2)), zorder=2)
    left, right = ax.get_xlim()
    ax.set_xlim(left, right)
    on_left = qps - left > 0.4 * (right - left)
    ax.annotate(
        f"capacity {f.figure(qps)}", (qps, 1), (-3 if on_left else 3, -2), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="right" if on_left else "left", va="top", color=BLUE,
    )  # fmt: skip
