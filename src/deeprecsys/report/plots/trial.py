"""One trial: its time line, and where the time of its queries goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deeprecsys.core.runlog import RunLog
from deeprecsys.core.target import Target, percentile
from deeprecsys.report import format as f
from deeprecsys.report.breakdown import Group
from deeprecsys.report.plots.look import (
    BLUE,
    GRID,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    end_labels,
    figure,
    log_ticks,
    style,
    thousands,
)
from deeprecsys.report.slices import Slices
from deeprecsys.report.timeline import level


def time_line(
    log: RunLog, slices: Slices | None = None, target: Target | None = None, bins: int = 90
) -> Figure:
    """Load, latency and queue length over the trial, in `bins` stretches of equal length."""
    with style():
        fig, (load, late, line) = figure(4.4, rows=3, heights=[1, 1.5, 1])
        end = max(log.duration_s, 1e-9)
        edges = np.linspace(0, end, bins + 1)
        at = (edges[:-1] + edges[1:]) / 2
        which = np.clip(np.searchsorted(edges, log.arrival_s, side="right") - 1, 0, bins - 1)
        arrived = np.bincount(which, minlength=bins) / (edges[1] - edges[0])
        load.fill_between(at, arrived, step="mid", color=SKY, alpha=0.55, linewidth=0)
        load.axhline(log.rate_qps, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        load.set_ylabel("load,\nqueries/s")
        load.set_ylim(bottom=0)
        load.yaxis.set_major_formatter(thousands())
        _latency_panel(late, log, end, target)
        _queue_panel(line, log, slices, edges)
        line.set_xlabel("time, s")
        line.set_xlim(0, end)
        for ax in (load, late, line):
            if log.warmup_s > 0:
                ax.axvspan(0, log.warmup_s, color=GRID, alpha=0.8, linewidth=0, zorder=0.5)
        if log.warmup_s > 0:
            load.annotate("warm-up", (0, 1), (0, 1), xycoords="axes fraction", textcoords="offset points",
                          va="bottom", color=MUTED)  # fmt: skip
        return fig


def _latency_panel(ax: Axes, log: RunLog, end: float, target: Target | None) -> None:
    """p50 and p95 of stretches with some 40 queries each, and every late query as a dot."""
    latency = 1e3 * log.latency_s
    finite = latency[np.isfinite(latency)]
    bins = int(np.clip(len(finite) / PER_BIN, 8, 60))
    edges = np.linspace(0, end, bins + 1)
    which = np.clip(np.searchsorted(edges, log.arrival_s, side="right") - 1, 0, bins - 1)
    at = (edges[:-1] + edges[1:]) / 2
    limit = 1e3 * target.latency_s if target else None
    labels = [("target", limit, INK)] if limit else []
    if limit:
        ax.axhline(limit, color=INK, linewidth=1.0, zorder=2)
        late = np.flatnonzero(np.isfinite(latency) & (latency > limit))
        late = late[np.argsort(-latency[late])][:MOST_DOTS]
        ax.plot(log.arrival_s[late], latency[late], ".", color=VERMILION, markersize=2.5, alpha=0.7)
        labels += [("late", float(latency[late].max()), VERMILION)] if len(late) else []
    if len(finite):
        low, high = max(float(finite.min()), 1e-3), max(float(finite.max()), limit or 0.0)
        log_ticks(ax.yaxis, max(low, high / 1000) / 1.2, 1.3 * max(high, 10 * low / 3))
    for name, (q, color, line) in {"p50": (0.5, PURPLE, (0, (1, 1))), "p95": (0.95, BLUE, "-")}.items():
        value = np.array([_observed(latency[which == i], q) for i in range(bins)])
        ax.plot(at, value, color=color, linestyle=line, linewidth=1.3)
        known = value[np.isfinite(value)]
        labels += [(name, float(known[-1]), color)] if len(known) else []
    ax.set_ylabel("latency, ms")
    end_labels(ax, labels, gap=0.14)


def _observed(values: NDArray[np.float64], quantile: float) -> float:
    value = percentile(values, quantile)
    return value if np.isfinite(value) else np.nan


def _queue_panel(ax: Axes, log: RunLog, slices: Slices | None, edges: NDArray[np.float64]) -> None:
    """The most that was in line in each stretch."""
    if slices is not None and len(slices):
        times, depth = level(log.arrival_s[slices.query], slices.posted_s, slices.items.astype(float))
        ax.set_ylabel("in line,\nitems")
    else:
        started = np.isfinite(log.start_s)
        times, depth = level(log.arrival_s[started], log.start_s[started], np.ones(int(started.sum())))
        ax.set_ylabel("in line,\nqueries")
    peak = np.zeros(len(edges) - 1)
    if len(times):
        which = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(peak) - 1)
        np.maximum.at(peak, which, depth)
        carried = depth[np.clip(np.searchsorted(times, edges[:-1], side="right") - 1, 0, None)]
        peak = np.maximum(peak, np.where(edges[:-1] >= times[0], carried, 0))
    ax.fill_between((edges[:-1] + edges[1:]) / 2, peak, step="mid", color=ORANGE, alpha=0.6, linewidth=0)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(thousands())


PER_BIN = 40
MOST_DOTS = 400

PARTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("in line", {"color": ORANGE}),
    ("computing", {"color": BLUE}),
    ("last slice", {"color": SKY, "hatch": "////", "edgecolor": BLUE, "linewidth": 0}),
)


def where_time_goes(groups: Sequence[Group], split: bool = True) -> Figure:
    """Mean time in line, computing and waiting for the last slice, one bar a group of queries."""
    with style():
        fig, (ax,) = figure(max(0.9 + 0.34 * len(groups), 1.6))
        labels = [g.label for g in groups]
        values = 1e3 * np.array([[g.queue_s, g.compute_s, g.merge_s] for g in groups]).reshape(-1, 3)
        left = np.zeros(len(groups))
        place = np.arange(len(groups))[::-1] + np.where([g.by_size for g in groups], 0.3, 0.0)
        for k, (name, at) in enumerate(PARTS):
            if not split and k == 2:
                continue
            ax.barh(
                place,
                values[:, k],
                left=left,
                height=0.62,
                label=name if split or k == 0 else "on workers",
                **at,
            )
            left += values[:, k]
        for y, total in zip(place, left, strict=True):
            ax.annotate(f.figure(float(total)), (total, y), (3, 0), textcoords="offset points", va="center")
        ax.set_yticks(place, labels)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.spines["left"].set_visible(False)
        ax.margins(x=0.14)
        ax.set_xlim(left=0)
        ax.set_xlabel("mean time, ms")
        if groups:
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, handlelength=1.2,
                      columnspacing=1.2, borderaxespad=0.1)  # fmt: skip
        return fig
