"""Figure 12: the best batch size by target, size distribution, model and hardware."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from deeprecsys.paper import charts
from deeprecsys.paper.published import CLASS, LEVELS, MODELS, OPTIMAL_BATCH, SHORT
from deeprecsys.paper.result import Claim, ClaimVerdict, Illustration, Result, TextTable, direction
from deeprecsys.paper.study import Case, Study

Counts = tuple[int, int, int]
SIZES = ("production", "lognormal", "normal", "mlperf")


def enough(study: Study, case: Case) -> int:
    """The least batch size that is as good as the best: tops are flat, and the highest point of one is noise."""
    return study.as_good(case)[0]


def typical(values: list[int]) -> float:
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(values))))


def some_of(study: Study) -> tuple[str, ...]:
    """Models whose size distribution is varied."""
    return ("dlrm-rmc1", "wnd") if study.quick else MODELS


def ask(study: Study, model: str) -> None:
    """All that the figure needs of one model."""
    for p in study.specs:
        for lv in LEVELS:
            study.curve(Case(model, lv, p))
    for s in SIZES if model in some_of(study) else ():
        study.curve(Case(model, sizes=s))


CLASSES = "embedding models want larger batches than MLP models, and those than attention models"
MACHINES = "Broadwell wants larger batches than Skylake"
TARGETS = "a looser target wants larger batches"


def rises(study: Study) -> dict[str, Counts]:
    """Direction → for how many pairs the second wants larger batches, smaller ones; of how many."""
    return {
        CLASSES: _pairs(study, [(Case(a), Case(b)) for few, many in pairwise(reversed(OPTIMAL_BATCH))
                                for a in MODELS for b in MODELS if CLASS[a] == few and CLASS[b] == many]),
        MACHINES: _pairs(study, [(Case(m, lv, "Skylake"), Case(m, lv, "Broadwell")) for m in MODELS for lv in LEVELS]),
        TARGETS: _pairs(study, [(Case(m, LEVELS[0], p), Case(m, LEVELS[-1], p)) for m in MODELS for p in study.specs]),
    }  # fmt: skip


def verdicts(study: Study) -> dict[str, ClaimVerdict]:
    """Direction → whether it is seen."""
    return {what: direction(*pairs) for what, pairs in rises(study).items()}


def make(study: Study) -> Result:
    least = {
        p: {lv: {m: enough(study, Case(m, lv, p)) for m in MODELS} for lv in LEVELS} for p in study.specs
    }
    some = some_of(study)
    by_sizes = {s: {m: enough(study, Case(m, sizes=s)) for m in some} for s in SIZES}
    by_class = {
        k: typical([least["Skylake"]["medium"][m] for m in MODELS if CLASS[m] == k]) for k in OPTIMAL_BATCH
    }
    machine = {p: typical([v for lv in LEVELS for v in least[p][lv].values()]) for p in least}
    target = {lv: typical([v for p in least for v in least[p][lv].values()]) for lv in LEVELS}
    found = rises(study)
    moved = _pairs(study, [(Case(m), Case(m, sizes=s)) for m in some for s in SIZES[1:]])
    claims = (
        Claim(CLASSES, "1024, 128, 64", f"{_counts(found[CLASSES])}; least, {_list(by_class)}", direction(*found[CLASSES]),
              "look-ups have hardly a cost per batch to spread, so the top of their curve is flat from small "
              "sizes on; recurrent models pay hundreds of launches per batch"),
        Claim(MACHINES, "larger", f"{_counts(found[MACHINES])}; least, {_list(machine)}", direction(*found[MACHINES]),
              "wider vectors need larger batches to be filled, which speaks for Skylake; fewer cores for Broadwell"),
        Claim(TARGETS, "larger", f"{_counts(found[TARGETS])}; least, {_list(target)}", direction(*found[TARGETS]),
              "targets are many batches long already at their low level"),
        Claim("the size distribution moves the optimum", "differs by distribution",
              f"{_counts(moved)}; least, {_list({s: typical(list(v.values())) for s, v in by_sizes.items()})}",
              ClaimVerdict.AGREES if sum(moved[:2]) else ClaimVerdict.ALIKE),
    )  # fmt: skip
    rows = tuple(
        (SHORT[m], CLASS[m], *(_range(study, Case(m, lv, p)) for p in study.specs for lv in LEVELS))
        for m in MODELS
    )
    header = ("model", "bound by", *(f"{p}, {lv}" for p in study.specs for lv in LEVELS))
    size_rows = tuple((SHORT[m], *(f"{by_sizes[s][m]:,}" for s in SIZES)) for m in some)
    groups = [SHORT[m] for m in MODELS]
    plot = charts.bars(groups, {p: [float(least[p]["medium"][m]) for m in MODELS] for p in least},
                     "batch size, items", log_y=True)  # fmt: skip
    targets = charts.bars(groups, {lv: [float(least["Skylake"][lv][m]) for m in MODELS] for lv in LEVELS},
                        "batch size, items", log_y=True)  # fmt: skip
    return Result(
        12, "The best batch size", "simulated, on modelled machines", claims,
        (Illustration("machines", "By machine, medium target", "least batch size within 2 % of the best", plot),
         Illustration("targets", "By target, Skylake", "least batch size within 2 % of the best", targets)),
        (TextTable(header, rows, left=2, title="Batch sizes within 2 % of the best"),
         TextTable(("model", *SIZES), size_rows, title="Least such size by size distribution, Skylake, medium")),
        {"least": least, "by_sizes": by_sizes, "by_class": by_class, "by_machine": machine, "by_target": target},
    )  # fmt: skip


def _pairs(study: Study, pairs: list[tuple[Case, Case]]) -> Counts:
    """For how many pairs the second wants larger batches, smaller ones; of how many. It does where no size is
    within 2 % of the best for both."""
    moves = [study.batch_rises(a, b) for a, b in pairs]
    return moves.count(1), moves.count(-1), len(pairs)


def _counts(pairs: Counts) -> str:
    up, down, of = pairs
    return f"larger in {up}, smaller in {down} of {of} pairs, one size fits both in {of - up - down}"


def _list(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.0f}" for k, v in sizes.items())


def _range(study: Study, case: Case) -> str:
    low, high = study.as_good(case)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
