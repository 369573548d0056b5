"""What the ratios over static, and the directions, become when one modelled part is varied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deeprecsys.paper import directions
from deeprecsys.paper.figures.figure11 import Ratios, mean, ratios
from deeprecsys.paper.published import LEVELS, MODELS, RATIOS, SHORT
from deeprecsys.paper.result import ClaimVerdict, TextTable
from deeprecsys.paper.study import SPECS
from deeprecsys.paper.variants import VARIANTS

QUICK = ("as it is", "launches × 5", "speed-ups over 40 cores (the node)")
MEDIUM = LEVELS.index("medium")


@dataclass(frozen=True, slots=True)
class Varied:
    """One variation.

    Attributes:
        ratios: platform → (CPU, CPU and accelerator) over static by model, medium target.
        verdicts: direction → whether it is seen.
    """

    ratios: Mapping[str, Ratios]
    verdicts: Mapping[str, ClaimVerdict]


def names(quick: bool) -> tuple[str, ...]:
    """What is varied."""
    return QUICK if quick else tuple(VARIANTS)


def one(name: str) -> Varied:
    """The ratios and directions of one variation."""
    study = VARIANTS[name]()
    return Varied({p: ratios(study, p, "medium") for p in SPECS}, directions.verdicts(study))


def tables(found: Mapping[str, Varied]) -> tuple[TextTable, TextTable, TextTable]:
    """Means by platform; each model's ratio beside the paper's; what changes each direction."""
    header = ("varied", *(f"{p}: {what}" for p in SPECS for what in ("CPU", "CPU+GPU")))
    rows = tuple((n, *(f"{x:.2f}" for p in SPECS for x in mean(v.ratios[p]))) for n, v in found.items())
    paper = ("the paper", *(f"{RATIOS[m][MEDIUM][0]:g}" for m in MODELS))
    models = [(n, *(f"{v.ratios['Skylake'][m][0]:.2f}" for m in MODELS)) for n, v in found.items()]
    first = next(iter(found.values()))
    changes, word = [], directions.WORDS
    for what, usual in first.verdicts.items():
        verdicts = {n: v.verdicts[what] for n, v in found.items()}
        others = "; ".join(f"{n}: {word[v]}" for n, v in verdicts.items() if v is not usual)
        changes.append((what, word[usual], others or "nothing that was varied"))
    by_model = "CPU over static by model, Skylake, medium target"
    return (
        TextTable(header, rows, title="Throughput over static, medium target, geometric means"),
        TextTable(("varied", *(SHORT[m] for m in MODELS)), (paper, *models), title=by_model),
        TextTable(
            ("direction", "as it is", "what changes it"), tuple(changes), title="What decides a direction"
        ),
    )


def document(found: Mapping[str, Varied]) -> dict[str, Any]:
    return {
        n: {
            **{p: dict(zip(("cpu", "cpu_gpu"), mean(v.ratios[p]), strict=True)) for p in SPECS},
            "by_model": asdict(v),
        }
        for n, v in found.items()
    }
