"""Bar charts as SVG files: equal figures give equal text, and colours follow the reader's light or dark mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, BAR, GAP, LEFT, RIGHT = 560, 11, 9, 104, 58
"""In the SVG's own units, pixels at full size: the whole, a bar, between groups, left and right of the bars."""
STYLE = """
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1c2126}
.m{fill:#5a646e;font-size:12px}.p{fill:#fff}.g{stroke:#dfe3e7}
.s0{fill:#b3bcc4}.s1{fill:#e69f00}.s2{fill:#0072b2}
@media (prefers-color-scheme:dark){text{fill:#e7eaed}.m{fill:#9aa5af}.p{fill:#14171a}.g{stroke:#31383f}
.s0{fill:#65717c}.s1{fill:#e6a726}.s2{fill:#56a8e0}}
""".replace("\n", "")


@dataclass(frozen=True)
class Bars:
    """A chart of horizontal bars in groups.

    Attributes:
        title: what is shown, with its unit. note: where it was measured.
        series: names, of at most three.
        groups: a name and a value for each series; None is not drawn.
        show: a value as text. mark: a value with a line across, and what it means.
    """

    title: str
    note: str
    series: Sequence[str]
    groups: Sequence[tuple[str, Sequence[float | None]]]
    show: Callable[[float], str]
    mark: tuple[float, str] | None = None

    def described(self) -> str:
        """The chart in words, for readers who cannot see it."""
        parts = []
        for name, values in self.groups:
            pairs = zip(self.series, values, strict=True)
            said = ", ".join(
                f"{s} {self.show(v)}" if len(self.series) > 1 else self.show(v) for s, v in pairs if v
            )
            parts.append(f"{name}: {said}")
        return "; ".join(parts)

    def svg(self) -> str:
        most = max(v for _, values in self.groups for v in values if v is not None)
        most = max(most, self.mark[0] if self.mark else 0.0)

        def x(value: float) -> float:
            return LEFT + (WIDTH - LEFT - RIGHT) * value / most

        out = [f'<text x="8" y="20">{escape(self.title)}</text>']
        y = 32
        if len(self.series) > 1:
            at = LEFT
            for k, name in enumerate(self.series):
                out.append(
                    f'<rect class="s{_colour(k, self.series)}" x="{at}" y="{y}" width="11" height="11"/>'
                )
                out.append(f'<text class="m" x="{at + 16}" y="{y + 10}">{escape(name)}</text>')
                at += 34 + round(6.5 * len(name))
            y += 22
        top = y
        for name, values in self.groups:
            height = BAR * len(self.series)
            out.append(
                f'<text x="{LEFT - 8}" y="{y + height / 2 + 4.5:g}" text-anchor="end">{escape(name)}</text>'
            )
            for k, value in enumerate(values):
                if value is not None:
                    colour, at = _colour(k, self.series), y + k * BAR
                    out.append(
                        f'<rect class="s{colour}" x="{LEFT}" y="{at}" width="{x(value) - LEFT:.1f}" height="{BAR - 1}"/>'
                    )
                    if k == len(self.series) - 1:
                        out.append(
                            f'<text class="m" x="{x(value) + 5:.1f}" y="{at + 9.5:g}">{escape(self.show(value))}</text>'
                        )
            y += height + GAP
        if self.mark:
            value, text = self.mark
            out.append(f'<path class="g" style="stroke:#d55e00" d="M{x(value):.1f} {top - 4}V{y - 4}"/>')
            out.append(
                f'<text class="m" x="{x(value):.1f}" y="{y + 8}" text-anchor="middle">{escape(text)}</text>'
            )
            y += 14
        out.append(f'<text class="m" x="8" y="{y + 12}">{escape(self.note)}</text>')
        words = escape(f"{self.title}. {self.described()}")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 22}" width="{WIDTH}" height="{y + 22}" '
            f'role="img" aria-label="{words}"><style>{STYLE}</style>'
            f'<rect class="p" width="100%" height="100%" rx="6"/>{"".join(out)}</svg>\n'
        )


def _colour(k: int, series: Sequence[str]) -> int:
    """The last series has the strongest colour."""
    return k + 3 - len(series)
