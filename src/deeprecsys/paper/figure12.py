"""Figure 12: the best batch size by target, size distribution, model and hardware."""

from __future__ import annotations

import numpy as np

from deeprecsys.paper import draw
from deeprecsys.paper.published import CLASS, LEVELS, MODELS, OPTIMAL_BATCH, SHORT
from deeprecsys.paper.result import Claim, Drawing, Result, Table, seen
from deeprecsys.paper.study import Case, Study

SIZES = ("production", "lognormal", "normal", "mlperf")


def enough(study: Study, case: Case) -> int:
    """The least batch size that is as good as the best: tops are flat, and the highest point of one is noise."""
    return study.as_good(case)[0]


def typical(values: list[int]) -> float:
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(values))))


def make(study: Study) -> Result:
    least = {
        p: {lv: {m: enough(study, Case(m, lv, p)) for m in MODELS} for lv in LEVELS} for p in study.specs
    }
    some = ("dlrm-rmc1", "wnd") if study.quick else MODELS
    by_sizes = {s: {m: enough(study, Case(m, sizes=s)) for m in some} for s in SIZES}
    by_class = {
        k: typical([least["Skylake"]["medium"][m] for m in MODELS if CLASS[m] == k]) for k in OPTIMAL_BATCH
    }
    machine = {p: typical([v for lv in LEVELS for v in least[p][lv].values()]) for p in least}
    target = {lv: typical([v for p in least for v in least[p][lv].values()]) for lv in LEVELS}
    claims = (
        Claim("embedding models want larger batches than MLP models, and those than attention models",
              "1024, 128, 64", ", ".join(f"{k} {v:.0f}" for k, v in by_class.items()),
              seen(by_class["embedding"] > by_class["MLP"] > by_class["attention"]),
              "look-ups have hardly a cost per batch to spread, so the top of their curve is flat from small "
              "sizes on; recurrent models pay hundreds of launches per batch"),
        Claim("Broadwell wants larger batches than Skylake", "larger",
              ", ".join(f"{p} {v:.0f}" for p, v in machine.items()), seen(machine["Broadwell"] > machine["Skylake"]),
              "wider vectors need larger batches to be filled, which speaks for Skylake; fewer cores for Broadwell"),
        Claim("a looser target wants larger batches", "larger",
              ", ".join(f"{lv} {v:.0f}" for lv, v in target.items()),
              seen(target["high"] > target["low"]), "targets are many batches long already at their low level"),
        Claim("the size distribution moves the optimum", "differs by distribution",
              ", ".join(f"{s} {typical(list(v.values())):.0f}" for s, v in by_sizes.items()),
              seen(len({tuple(v.values()) for v in by_sizes.values()}) > 1)),
    )  # fmt: skip
    rows = tuple(
        (SHORT[m], CLASS[m], *(_range(study, Case(m, lv, p)) for p in study.specs for lv in LEVELS))
        for m in MODELS
    )
    header = ("model", "bound by", *(f"{p}, {lv}" for p in study.specs for lv in LEVELS))
    size_rows = tuple((SHORT[m], *(f"{by_sizes[s][m]:,}" for s in SIZES)) for m in some)
    groups = [SHORT[m] for m in MODELS]
    plot = draw.bars(groups, {p: [float(least[p]["medium"][m]) for m in MODELS] for p in least},
                     "batch size, items", log_y=True)  # fmt: skip
    targets = draw.bars(groups, {lv: [float(least["Skylake"][lv][m]) for m in MODELS] for lv in LEVELS},
                        "batch size, items", log_y=True)  # fmt: skip
    return Result(
        12, "The best batch size", "simulated, on modelled machines", claims,
        (Drawing("machines", "By machine, medium target", "least batch size within 2 % of the best", plot),
         Drawing("targets", "By target, Skylake", "least batch size within 2 % of the best", targets)),
        (Table("Batch sizes within 2 % of the best", header, rows, left=2),
         Table("Least such size by size distribution, Skylake, medium", ("model", *SIZES), size_rows)),
        {"least": least, "by_sizes": by_sizes, "by_class": by_class, "by_machine": machine, "by_target": target},
    )  # fmt: skip


def _range(study: Study, case: Case) -> str:
    low, high = study.as_good(case)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
