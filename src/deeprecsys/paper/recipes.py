"""All figures, by number, and what is made of them: data files, plots, one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deeprecsys.core.errors import unknown
from deeprecsys.paper.figures import (
    figure01,
    figure03,
    figure04,
    figure05,
    figure06,
    figure07,
    figure09,
    figure10,
    figure11,
    figure12,
    figure13,
    figure14,
)
from deeprecsys.paper.result import Result
from deeprecsys.paper.study import Study
from deeprecsys.report.json_values import plain
from deeprecsys.report.plots.look import png

RECIPES: Mapping[int, Callable[[Study], Result]] = {
    1: figure01.make,
    3: figure03.make,
    4: figure04.make,
    5: figure05.make,
    6: figure06.make,
    7: figure07.make,
    9: figure09.make,
    10: figure10.make,
    11: figure11.make,
    12: figure12.make,
    13: figure13.make,
    14: figure14.make,
}
"""Numbers are the paper's."""


def chosen(names: Sequence[str]) -> tuple[int, ...]:
    """The numbers of the named figures; all of them without a name.

    Raises:
        InputError: a figure that is not made; names those that are.
    """
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
    path.write_text(json.dumps(plain(document), indent=1) + "\n")
