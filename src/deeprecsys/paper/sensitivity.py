"""What the ratios over static become when one modelled part is varied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deeprecsys.paper.figures.figure11 import mean, ratios
from deeprecsys.paper.result import TextTable
from deeprecsys.paper.study import SPECS
from deeprecsys.paper.variants import VARIANTS

QUICK = ("as it is", "launch of an operator × 10", "speed-ups over 40 cores (the node)")


def names(quick: bool) -> tuple[str, ...]:
    """What is varied."""
    return QUICK if quick else tuple(VARIANTS)


def one(name: str) -> dict[str, tuple[float, float]]:
    """(CPU, CPU and accelerator) over static, geometric means at the medium target, by platform."""
    study = VARIANTS[name]()
    return {p: mean(ratios(study, p, "medium")) for p in SPECS}


def vary(quick: bool, progress: Callable[[float, str], None]) -> dict[str, dict[str, tuple[float, float]]]:
    """The ratios by variant."""
    found = {}
    for i, name in enumerate(names(quick)):
        progress(i / len(names(quick)), name)
        found[name] = one(name)
    return found


def table(found: dict[str, dict[str, tuple[float, float]]]) -> TextTable:
    """The ratios as a table."""
    header = ("varied", *(f"{p}: {what}" for p in SPECS for what in ("CPU", "CPU+GPU")))
    rows = tuple((n, *(f"{x:.2f}" for p in SPECS for x in by[p])) for n, by in found.items())
    return TextTable(
        header, rows, title="Throughput over static, medium target, geometric means, one part varied"
    )


def document(found: dict[str, dict[str, tuple[float, float]]]) -> dict[str, Any]:
    return {n: {p: {"cpu": v[0], "cpu_gpu": v[1]} for p, v in by.items()} for n, by in found.items()}
