"""How far off the modelled servers may be, and what the ratios over static become within that.

Data sheets were held against one machine whose batches were measured: there each part of a batch took longer
than they say, by a factor of its own. The paper's servers may be off by anything from nothing to that factor:
so each draw lengthens every part of every server by a power of it, evenly distributed from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deeprecsys.paper import directions
from deeprecsys.paper.figures.figure11 import mean, ratios
from deeprecsys.paper.platforms import EPYC_7003, Anchor, eager
from deeprecsys.paper.platforms.anchored import BatchParts
from deeprecsys.paper.platforms.anchors import epyc_7003_limits
from deeprecsys.paper.platforms.limits import limits_of
from deeprecsys.paper.published import LEVELS, MEAN_RATIO, MODELS, RATIOS, SHORT
from deeprecsys.paper.result import ClaimVerdict, TextTable
from deeprecsys.paper.study import SPECS, Study

DRAWS, QUICK_DRAWS = 50, 2
BATCHES = (32, 64, 128, 256, 512)
ENDS = (0.05, 0.95)
PRODUCT_ROWS = 64


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of one draw.

    Attributes:
        ratios: platform → target → model → (CPU, CPU and accelerator) over static.
        verdicts: direction → whether it is seen.
    """

    ratios: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]
    verdicts: Mapping[str, ClaimVerdict]


def part_errors() -> BatchParts:
    """How many times longer each part took than data sheets say, on the machine they were held against."""
    said, was = limits_of(EPYC_7003, eager().limits), epyc_7003_limits()
    return BatchParts(
        products=was.product_s(PRODUCT_ROWS) / said.product_s(PRODUCT_ROWS),
        rows=was.row_s(0.5) / said.row_s(0.5),
        other=said.stream_gb_per_s["l2"] / was.stream_gb_per_s["l2"],
        launches=was.operator_us / said.operator_us,
    )


def anchors(draw: int) -> Mapping[str, Anchor]:
    """The platforms of one draw."""
    rng = np.random.default_rng(draw)
    errors = asdict(part_errors())
    return {p: eager().but(**{part: by ** rng.random() for part, by in errors.items()}) for p in SPECS}


def one(draw: int) -> Drawn:
    """One draw: all ratios and directions, on short paths."""
    anchor_of = anchors(draw)
    study = Study(quick=True, anchor=anchor_of.__getitem__, batches=BATCHES)
    found = {p: {lv: ratios(study, p, lv) for lv in LEVELS} for p in SPECS}
    return Drawn(found, directions.verdicts(study))


def numbers(quick: bool) -> tuple[int, ...]:
    """Which draws are made."""
    return tuple(range(QUICK_DRAWS if quick else DRAWS))


def tables(drawn: list[Drawn]) -> tuple[TextTable, TextTable]:
    """The paper's bars beside the intervals of ours, and how often each direction was seen."""
    rows = []
    for m in (*MODELS, None):
        cells = []
        for i, lv in enumerate(LEVELS):
            paper = RATIOS[m][i][0] if m else MEAN_RATIO[lv][0]
            for p in SPECS:
                values = [d.ratios[p][lv][m][0] if m else mean(dict(d.ratios[p][lv]))[0] for d in drawn]
                low, high = np.nanquantile(values, ENDS)
                where = "inside" if low <= paper <= high else "above" if paper > high else "below"
                cells.append(f"{low:.2f} to {high:.2f}" + (f"; {paper:g} {where}" if p == "Skylake" else ""))
        rows.append((SHORT[m] if m else "geometric mean", *cells))
    header = ("model", *(f"{p}, {lv}" for lv in LEVELS for p in SPECS))
    of = len(drawn)
    seen = [
        (what, *(str(sum(d.verdicts[what] is v for d in drawn)) for v in directions.WORDS))
        for what in drawn[0].verdicts
    ]
    title = f"CPU over static: 90 % of {of} draws; where the paper's bar lies"
    return (
        TextTable(header, tuple(rows), title=title),
        TextTable(("direction", *directions.WORDS.values()), tuple(seen), title=f"Directions in {of} draws"),
    )  # fmt: skip


def document(drawn: list[Drawn]) -> list[dict[str, Any]]:
    return [asdict(d) for d in drawn]
