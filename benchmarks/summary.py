"""Write the pictures and sentences of docs/results.md, and the picture of the README, from the saved results.

python -m benchmarks.summary
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import geometric_mean

from benchmarks.harness import ROOT, Result, load
from benchmarks.lib.bars import Bars

PICTURES = ROOT / "docs" / "_static" / "pictures"


@dataclass(frozen=True)
class Topic:
    """A result of the page.

    Attributes:
        name: of its picture. result: of the saved result.
        sentence, bars: made of the result.
    """

    name: str
    result: str
    sentence: Callable[[Result], str]
    bars: Callable[[Result], Bars]

    def picture(self) -> str:
        """Text of the SVG file."""
        return self.bars(load(self.result)).svg()


def machine(result: Result) -> str:
    m = result["machine"]
    return f"{m['cpu']}, {m['cores']} cores, {result['date']}"


def gains(result: Result) -> list[tuple[str, float, float]]:
    """For each model the fastest engine and the tuned point, as multiples of the usual rate."""
    found = []
    for model, by_engine in result["models"].items():
        eager, compiled = by_engine["eager"], by_engine["compiled"]
        usual = eager["static"]["qps"]
        found.append((model, compiled["static"]["qps"] / usual, compiled["tuned"]["qps"] / usual))
    return found


def gain_sentence(result: Result) -> str:
    engine, tuned = (geometric_mean(x) for x in zip(*((e, t) for _, e, t in gains(result)), strict=True))
    return (
        f"Over eager PyTorch with one large batch size, the fastest engine carries {engine:.2f} times as many queries per "
        f"second within the p95 target, and the tuned operating point {tuned:.2f} times (geometric mean of eight models)."
    )


def gain_bars(result: Result) -> Bars:
    groups = [(model, (1.0, engine, tuned)) for model, engine, tuned in gains(result)]
    return Bars(
        "Queries per second at each model's p95 target, relative to the usual",
        f"{machine(result)}; live trials of two seconds, so not a sustained rate",
        ("usual: eager, one batch size", "fastest engine", "tuned"),
        groups,
        lambda v: f"{v:.2f}×",
    )


TOPICS = (Topic("gain", "search_tune_by_engine", gain_sentence, gain_bars),)


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for topic in TOPICS:
        (PICTURES / f"{topic.name}.svg").write_text(topic.picture())


if __name__ == "__main__":
    main()
