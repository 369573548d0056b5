"""The plots of the figures, in the look of all reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from deeprecsys.report.plots.look import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
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

FILLS = ((BLUE, ""), (VERMILION, "//"), (GREEN, ".."), (ORANGE, "\\\\"), (SKY, "xx"), (PURPLE, "--"))
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def lines(
    series: Series,
    x_label: str,
    y_label: str,
    *,
    log_x: bool = True,
    log_y: bool = False,
    least_y: float | None = None,
    markers: bool = True,
    level: float | None = None,
) -> Figure:
    """Lines, each named at its end.

    Args:
        series: name → x and y.
        least_y: of the axis; by default 0, or below the least where logarithmic.
        level: a horizontal line to compare with.
    """
    with style():
        fig, (ax,) = figure(3.0)
        ends = []
        xs = sorted({x for at, _ in series.values() for x in at})
        for order, (name, (x, y)) in enumerate(series.items()):
            at = {**look("", order), **({} if markers else {"marker": ""})}
            ax.plot(x, y, **at)
            if len(y):
                ends.append((name, float(y[-1]), str(at["color"])))
        values = [v for _, y in series.values() for v in y if np.isfinite(v)]
        if level is not None:
            ax.axhline(level, color=MUTED, linewidth=1.0, zorder=1)
        if log_x and xs:
            batch_axis(ax, xs if len(xs) < 100 else (10, 20, 50, 100, 200, 500, 1000))
        if log_y:
            log_ticks(ax.yaxis, least_y or 0.8 * min(values), 1.25 * max(values))
        else:
            ax.set_ylim(least_y or 0.0, 1.08 * max(values, default=1.0))
            ax.yaxis.set_major_formatter(thousands())
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        end_labels(ax, ends)
        return fig


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    y_label: str,
    *,
    log_y: bool = False,
    level: float | None = None,
    stacked: bool = False,
) -> Figure:
    """Bars in groups, or stacked; each colour has a hatch of its own. The legend stands above."""
    with style():
        fig, (ax,) = figure(3.0)
        x = np.arange(len(groups))
        width = 0.8 if stacked else 0.82 / max(len(series), 1)
        base = np.zeros(len(groups))
        for order, (name, values) in enumerate(series.items()):
            colour, hatch = FILLS[order % len(FILLS)]
            y = np.array(values, float)
            place = x if stacked else x + (order - (len(series) - 1) / 2) * width
            ax.bar(
                place, y, width * 0.94, bottom=base if stacked else 0.0, color=colour, hatch=hatch,
                label=name, edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            base = base + np.nan_to_num(y) if stacked else base
        if log_y:
            known = [v for vs in series.values() for v in vs if np.isfinite(v) and v > 0]
            log_ticks(ax.yaxis, 0.6 * min(known), 1.5 * max(known))
        if level is not None:
            ax.axhline(level, color=INK, linewidth=0.8, zorder=3)
        ax.set_xticks(x, groups, rotation=35, ha="right", rotation_mode="anchor")
        ax.grid(axis="x", visible=False)
        ax.set_ylabel(y_label)
        columns = 3 if max(map(len, series)) < 14 else 2
        fig.legend(
            loc="outside upper left", ncols=columns, frameon=False, handlelength=1.4, columnspacing=1.0
        )
        return fig


def scatter(points: Mapping[str, Sequence[tuple[str, float, float]]], x_label: str, y_label: str) -> Figure:
    """Named points of some kinds on logarithmic axes."""
    with style():
        fig, (ax,) = figure(3.4)
        for order, (kind, members) in enumerate(points.items()):
            at = look("", order)
            xs, ys = [x for _, x, _ in members], [y for _, _, y in members]
            ax.plot(xs, ys, color=at["color"], marker=at["marker"], linestyle="", markersize=6, label=kind)
            for name, x, y in members:
                crowded = any(
                    1 <= y / v < 1.4 and 0.6 < u / x < 1.7 and (u, v) != (x, y) for _, u, v in members
                )
                place = (3, 6) if crowded else (7, -4)
                ax.annotate(name, (x, y), place, textcoords="offset points", color=at["color"])
        every = [p for members in points.values() for p in members]
        log_ticks(ax.xaxis, 0.5 * min(p[1] for p in every), 4 * max(p[1] for p in every))
        log_ticks(ax.yaxis, 0.5 * min(p[2] for p in every), 2 * max(p[2] for p in every))
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        fig.legend(loc="outside upper left", ncols=2, frameon=False)
        return fig
