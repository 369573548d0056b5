"""The style of all plots, and their conversion to inline SVG and PNG.

Draw inside `with style():` on axes from `figure`; take colour, marker and line style of a curve from `look`,
name curves by `end_labels`, and use `thousands`, `log_ticks` and `batch_axis` for axes. `Illustration` is a
plot with its title and caption, for a page.

Colours are those of Okabe and Ito, which readers with colour blindness can tell apart; line styles, markers
and hatches make the same distinctions in grey print. In SVG every colour is a variable of the page's style
sheet, so that dark mode works.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

WIDTH_IN = 4.2  # a phone shows it at about 85 %
FONT_PT = 8.5
STAMP_WIDTH = 64
"""Characters of a line above a plot."""

INK, MUTED, GRID, PAPER = "#1c2126", "#5a646e", "#dfe3e7", "#fdfefe"
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    BLUE: "--blue",
    VERMILION: "--vermilion",
    GREEN: "--green",
    ORANGE: "--orange",
    SKY: "--sky",
    PURPLE: "--purple",
}
ROLES: dict[str, dict[str, Any]] = {
    "static": {"color": VERMILION, "marker": "s", "linestyle": (0, (5, 2))},
    "tuned": {"color": BLUE, "marker": "o", "linestyle": "-"},
}
"""How the static and the tuned point look in every plot."""
_OTHERS: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": VERMILION, "marker": "s", "linestyle": (0, (5, 2))},
    {"color": GREEN, "marker": "^", "linestyle": (0, (1, 1))},
    {"color": PURPLE, "marker": "D", "linestyle": (0, (3, 1, 1, 1))},
    {"color": ORANGE, "marker": "v", "linestyle": (0, (8, 2))},
    {"color": SKY, "marker": "P", "linestyle": (0, (2, 3))},
)
_STYLE: Any = {
    "font.size": FONT_PT,
    "axes.titlesize": FONT_PT,
    "axes.labelsize": FONT_PT,
    "xtick.labelsize": FONT_PT,
    "ytick.labelsize": FONT_PT,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "deeprecsys",
    "path.simplify": True,
}


def style() -> AbstractContextManager[None]:
    """The plots' style, for a `with` block around making or writing one."""
    return mpl.rc_context(_STYLE)


def look(role: str, order: int) -> dict[str, Any]:
    """Colour, marker and line style of a role; of the `order`-th thing where it has none."""
    return ROLES.get(role) or _OTHERS[order % len(_OTHERS)]


def figure(height_in: float, rows: int = 1, heights: list[float] | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of the common width, and its axes from top to bottom, which share x."""
    fig = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    FigureCanvasAgg(fig)
    grid = fig.add_gridspec(rows, 1, height_ratios=heights)
    axes: list[Axes] = []
    for i in range(rows):
        axes.append(fig.add_subplot(grid[i, 0], sharex=axes[0] if axes else None))
    for ax in axes[:-1]:
        ax.tick_params(labelbottom=False)
    return fig, axes


def stamp(fig: Figure, basis: str) -> Figure:
    """Write on a figure what its values are: live, simulated, modelled, counted."""
    with style():
        write = fig.supxlabel if fig.legends else fig.suptitle  # a legend stands above the axes
        write(textwrap.fill(basis, STAMP_WIDTH), x=0.01, ha="left", fontsize=FONT_PT, color=MUTED)
    return fig


def thousands() -> FuncFormatter:
    """Labels of a linear axis in the format of the text: 1,750."""
    return FuncFormatter(lambda v, _: f"{v:,.6g}")


def batch_axis(ax: Axes, sizes: Sequence[float]) -> None:
    """Make x logarithmic from the first to the last of `sizes`, with labels at as many of them as fit."""
    ax.set_xscale("log", base=2)
    ax.set_xlabel("batch size, items")
    if not sizes:
        return
    ax.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    ticks: list[float] = []
    for s in sizes:
        if not ticks or s >= 1.75 * ticks[-1]:
            ticks.append(s)
    ax.set_xticks(ticks, [f"{t:,.6g}" for t in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.minorticks_off()


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Make an axis logarithmic from `low` to `high`, with round labels: 1, 2, 5, or powers of ten alone."""
    ax = axis.axes
    across = axis is ax.xaxis
    (ax.set_xlim if across else ax.set_ylim)(low, high)
    (ax.set_xscale if across else ax.set_yscale)("log")
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    ticks = [s * 10.0**p for p in range(-7, 9) for s in steps if low <= s * 10.0**p <= high]
    axis.set_ticks(ticks, [f"{t:g}" if t < 1e4 else f"{t:,.0f}" for t in ticks])
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def end_labels(ax: Axes, labels: Sequence[tuple[str, float, str]], gap: float = 0.075) -> None:
    """Put the names of lines right of the axes, at the heights at which the lines end, without overlap.

    Args:
        ax: its limits set.
        labels: text, height in data and colour.
        gap: the least distance between two, as a share of the axes' height.
    """
    to_axes = ax.transData + ax.transAxes.inverted()
    placed = sorted((min(max(float(to_axes.transform((1, y))[1]), 0.0), 1.0), t, c) for t, y, c in labels)
    heights = [h for h, _, _ in placed]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    if max(heights, default=0.0) > 1.0:
        heights[-1] = 1.0
        for i in range(len(heights) - 2, -1, -1):
            heights[i] = min(heights[i], heights[i + 1] - gap)
    for height, (_, text, color) in zip(heights, placed, strict=True):
        ax.annotate(
            text, (1, height), (4, 0), xycoords="axes fraction", textcoords="offset points", color=color,
            va="center", annotation_clip=False,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Illustration:
    """A plot and its words.

    Attributes:
        name: of its file, and prefix of its ids in a page.
        title: one line.
        caption: how to read it.
        figure: the plot.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    @property
    def svg(self) -> Markup:
        """The plot as inline SVG; the plotting library escapes every text in it."""
        return Markup(svg(self.figure, self.name, self.title))


def png(fig: Figure, path: Path, dpi: int = 200) -> None:
    """Write a figure on white paper."""
    with style():
        fig.savefig(path, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})


def svg(fig: Figure, name: str, title: str) -> str:
    """A figure as an `<svg>` element for a page: its texts can be selected, its colours are the page's.

    Args:
        fig: the figure.
        name: prefix of its ids; each plot of a page needs its own.
        title: for screen readers.
    """
    buffer = io.StringIO()
    with style():
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    # Ids in order of appearance, coordinates to a hundredth: equal plots give equal text, and short.
    ids = {old: f"{name}-{i}" for i, old in enumerate(dict.fromkeys(re.findall(r'\sid="([^"]+)"', text)))}
    text = re.sub(
        r'((?:\sid=|href=)"#?|url\(#)([^")]+)', lambda m: m[1] + ids.get(m[2], f"{name}-{m[2]}"), text
    )
    text = re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    width, height = (72 * x for x in fig.get_size_inches())
    label = escape(title)
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}" stroke-linejoin="round"'
    return head + text[text.index(">", text.index("<svg")) :].strip()
