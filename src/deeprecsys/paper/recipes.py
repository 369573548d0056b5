"""All figures, by number, and what is made of them: data files, plots, one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from deeprecsys.core.errors import unknown
from deeprecsys.paper.result import Result
from deeprecsys.paper.study import Study
from deeprecsys.report.json_values import dumps
from deeprecsys.report.plots.look import png

NUMBERS = (1, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14)
"""The paper's; each has a module in `figures`."""
_MODULES = {n: import_module(f"deeprecsys.paper.figures.figure{n:02d}") for n in NUMBERS}
RECIPES: Mapping[int, Callable[[Study], Result]] = {n: m.make for n, m in _MODULES.items()}
ASKS: Mapping[int, Callable[[Study, str], None]] = {
    n: m.ask for n, m in _MODULES.items() if hasattr(m, "ask")
}
"""What computes all that a figure needs of one model; anything else it computes itself, later."""


def chosen(names: Sequence[str]) -> tuple[int, ...]:
    """The numbers of the named figures, all without a name; InputError for one that is not made."""
    numbers = []
    for name in names:
        text = name.lower().removeprefix("figure").lstrip("0")
        if not text.isdigit() or int(text) not in RECIPES:
            raise unknown("figure", name, [str(n) for n in RECIPES])
        numbers.append(int(text))
    return tuple(dict.fromkeys(numbers)) or tuple(RECIPES)


def write(result: Result, folder: Path) -> None:
    """A figure's data file and plots."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / f"{result.name}.json", result.document())
    for plot in result.plots:
        png(plot.figure, folder / f"{result.name}-{plot.name}.png")


def save(path: Path, document: dict[str, Any]) -> None:
    path.write_text(dumps(document, indent=1) + "\n")
