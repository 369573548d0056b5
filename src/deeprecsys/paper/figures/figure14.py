"""Figure 14: the accelerator's share, throughput and throughput per watt against the target."""

from __future__ import annotations

from deeprecsys.paper import charts
from deeprecsys.paper.figures.figure10 import both, readings
from deeprecsys.paper.figures.figure11 import mean, per_watt, ratios
from deeprecsys.paper.published import LEVELS, MODELS, SHORT
from deeprecsys.paper.result import Claim, ClaimVerdict, Illustration, Result, TextTable, direction
from deeprecsys.paper.study import Case, Study


def _ends(model: str) -> tuple[Case, Case]:
    return Case(model, LEVELS[0]), Case(model, LEVELS[-1])


def ask(study: Study, model: str) -> None:
    """All that the figure needs of one model."""
    for s in readings(study).values():
        s.threshold_rises(*_ends(model))
        s.with_gpu(Case(model))


SHARE = "the accelerator's share of the work falls as the target loosens"


def moves(study: Study) -> dict[str, list[int]]:
    """Reading → by model, 1 where the share falls, -1 where it rises."""
    return {n: [s.threshold_rises(*_ends(m)) for m in MODELS] for n, s in readings(study).items()}


def verdicts(study: Study) -> dict[str, ClaimVerdict]:
    """Direction → whether it is seen."""
    return {SHARE: both([direction(v.count(1), v.count(-1), 8) for v in moves(study).values()])}


def make(study: Study) -> Result:
    of = readings(study)
    share = {
        n: {m: [s.with_gpu(Case(m, lv)).gpu_share for lv in LEVELS] for m in MODELS} for n, s in of.items()
    }
    claims = (
        Claim(SHARE, "falls", "; ".join(f"{n}: falls for {v.count(1)}, rises for {v.count(-1)} of 8 models"
                                        for n, v in moves(study).items()), verdicts(study)[SHARE],
              "the CPU meets these targets with whole queries per core even at the low level, so a looser one does not "
              "change what it can take; the share is set by where both devices are full"),
    )  # fmt: skip
    gain = {n: {lv: mean(ratios(s, "Skylake", lv)) for lv in LEVELS} for n, s in of.items()}
    watts = {n: {lv: mean(per_watt(s, "Skylake", lv)) for lv in LEVELS} for n, s in of.items()}
    rows = tuple(
        (SHORT[m], *(" / ".join(f"{100 * x:.0f} %" for x in share[n][m]) for n in of)) for m in MODELS
    )
    totals = tuple(
        (f"{what}, {n}", *(f"{table[n][lv][1]:.2f}" for lv in LEVELS))
        for what, table in (("throughput", gain), ("throughput per watt", watts)) for n in of
    )  # fmt: skip
    groups = [SHORT[m] for m in MODELS]
    drawings = tuple(
        Illustration(f"share-{i}", f"Speed-ups {n}", "share of items on the accelerator, by target", charts.bars(
            groups, {lv: [100 * share[n][m][k] for m in MODELS] for k, lv in enumerate(LEVELS)}, "% of items"))
        for i, n in enumerate(of)
    )  # fmt: skip
    return Result(
        14, "The accelerator against the target", "simulated; card by published speed-ups", claims, drawings,
        (TextTable(("model", *of), rows, title="Share of items on the accelerator, low / medium / high target"),
         TextTable(("", *LEVELS), totals, title="CPU+GPU over static, geometric mean, Skylake")),
        {"share": share, "ratio": gain, "per_watt": watts},
    )  # fmt: skip
