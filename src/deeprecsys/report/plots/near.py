"""Latency against the rate near the limit: simulated, with the point that ran live."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deeprecsys.core.target import Target
from deeprecsys.report import format as f
from deeprecsys.report.documents import NearDocument
from deeprecsys.report.plots.look import BLUE, INK, MUTED, SKY, VERMILION, figure, log_ticks, style, thousands


def near_the_limit(report: NearDocument, live: tuple[float, float] | None, target: Target | None) -> Figure:
    """The latency at the target's quantile against the rate, in virtual time; a rate without end at the top.

    Args:
        live: rate and latency of the point that ran, queries/s and milliseconds.
    """
    rows = sorted((p.rate_qps, p.latency_ms) for p in report.near if p.rate_qps is not None and p.latency_ms)
    limit_ms = 1e3 * target.latency_s if target else None
    known = [ms for _, ms in rows] + ([live[1]] if live else []) + ([limit_ms] if limit_ms else [])
    top = 1.5 * max([*known, 1e-3])
    endless = [p.rate_qps for p in report.near if p.rate_qps is not None and p.latency_ms is None]
    with style():
        fig, (ax,) = figure(3.0)
        drawn = [*rows, *((rate, top) for rate in sorted(endless)[:1])]
        if drawn:
            ax.plot(*zip(*drawn, strict=True), color=MUTED, marker="o", markersize=3.5, label="simulated")
        low, high = report.limit_interval_qps or (None, None)
        if low is not None and high is not None:
            ax.axvspan(low, high, color=SKY, alpha=0.3, linewidth=0, zorder=1)
        if report.limit_today_qps is not None:
            ax.axvline(
                report.limit_today_qps, color=BLUE, linewidth=0.9, linestyle=(0, (2, 2)), label="limit today"
            )
        if limit_ms:
            ax.axhline(limit_ms, color=INK, linewidth=1.0, label="target")
        if live:
            name = f"live, {f.figure(live[0])} queries/s"
            ax.plot([live[0]], [live[1]], color=VERMILION, marker="s", linestyle="", label=name, zorder=5)
        log_ticks(ax.yaxis, min([*known, top / 10]) / 1.3, top)
        ax.margins(x=0.05)
        ax.set_xlabel("offered rate, queries/s")
        ax.xaxis.set_major_formatter(thousands())
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set_ylabel(f"{f.percentile(target.quantile) if target else 'latency'}, ms")
        ax.legend(loc="center left", frameon=False)
        return fig
