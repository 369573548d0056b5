"""How latency is distributed: its tail against the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from deeprecsys.core.target import Target
from deeprecsys.report.plots.look import GRID, INK, figure, log_ticks, look, style


@dataclass(frozen=True, slots=True)
class Curve:
    """Latencies of one operating point, in seconds; infinite where a query was not served."""

    label: str
    latency_s: NDArray[np.float64]
    role: str = ""


def latency_tail(curves: Sequence[Curve], target: Target | None = None) -> Figure:
    """The share of queries that take longer, both axes logarithmic; the target is a corner to stay below."""
    with style():
        fig, (ax,) = figure(3.0)
        tails = [(c, look(c.role, k), *_tail(c.latency_s)) for k, c in enumerate(curves)]
        tails = [t for t in tails if len(t[2])]
        for curve, at, x, y in tails:
            ax.step(x, y, where="post", color=at["color"], linestyle=at["linestyle"], label=curve.label)
        shown = [v for _, _, x, _ in tails for v in (x[0], x[-1])]
        if target is not None:
            shown += [0.3e3 * target.latency_s, 3.5e3 * target.latency_s]
        if shown:
            log_ticks(ax.xaxis, min(shown) / 1.15, max(shown) * 1.15)
        smallest = min([0.01, *(y[-1] for *_, y in tails)])
        ax.set_yscale("log")
        ax.set_ylim(max(smallest / 1.5, 1e-6), 1.3)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
        ax.yaxis.set_minor_locator(NullLocator())
        if target is not None:
            _corner(ax, target)
        if len(tails) > 2:
            ax.legend(loc="lower left", frameon=False, handlelength=2.5)
        else:
            _label(ax, tails)
        ax.set_xlabel("latency, ms")
        ax.set_ylabel("share of queries that take longer")
        return fig


_TailLine = tuple[Curve, dict[str, Any], NDArray[np.float64], NDArray[np.float64]]


def _label(ax: Axes, tails: Sequence[_TailLine]) -> None:
    """Names of one or two curves: the slower one's on its right, the other's on its left."""
    order = sorted(tails, key=lambda t: -_at(t, 0.3)[0])
    for k, tail in enumerate(order):
        right = k == 0 and len(order) == 2
        ax.annotate(
            tail[0].label, _at(tail, 0.5), (5, 3) if right else (-5, -3),
            textcoords="offset points", ha="left" if right else "right", va="bottom" if right else "top",
            color=tail[1]["color"], weight="bold",
        )  # fmt: skip


def _at(tail: _TailLine, height: float) -> tuple[float, float]:
    """The curve's point at a share of queries."""
    _, _, x, y = tail
    i = int(np.clip(np.searchsorted(-y, -height), 0, len(x) - 1))
    return float(x[i]), float(y[i])


def _tail(
    latency_s: NDArray[np.float64], points: int = 300
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The complementary distribution in ms, thinned evenly in the logarithm of the share."""
    n = len(latency_s)
    finite = 1e3 * np.sort(latency_s[np.isfinite(latency_s)])
    if not len(finite):
        return np.array([]), np.array([])
    later = n - 1 - np.arange(len(finite))  # how many queries take longer
    keep = np.unique(np.searchsorted(-later, -np.geomspace(n, 0.5, points)).clip(0, len(finite) - 1))
    x, y = finite[keep], later[keep] / n
    shown = y > 0
    return np.append(x[shown], x[-1]), np.append(y[shown], max(y[shown][-1] if shown.any() else 1.0, 1 / n))


def _corner(ax: Axes, target: Target) -> None:
    """The region that misses the target, and its corner named."""
    x, y = 1e3 * target.latency_s, target.miss_rate
    right, top = ax.get_xlim()[1], ax.get_ylim()[1]
    ax.fill_between([x, right], y, top, color=GRID, alpha=0.6, linewidth=0, zorder=0.5)
    ax.plot([x, x, right], [top, y, y], color=INK, linewidth=1.0, zorder=2)
    ax.annotate(
        f"too many\nlater than\n{x:g} ms", (right, y), (-5, 5), textcoords="offset points", ha="right",
        va="bottom", color=INK, linespacing=1.3,
    )  # fmt: skip
