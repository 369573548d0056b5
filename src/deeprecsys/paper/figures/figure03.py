"""Figure 3: where a batch's time goes, measured here beside the published shares."""

from __future__ import annotations

from deeprecsys.paper import charts
from deeprecsys.paper.platforms import SKYLAKE, batch_time, work_of
from deeprecsys.paper.published import MODELS, SHARES, SHORT
from deeprecsys.paper.result import Claim, Illustration, Result, TextTable, seen
from deeprecsys.paper.study import Study
from deeprecsys.zoo import MODELS as ZOO

QUICK = ("dlrm-rmc1", "ncf", "wnd")
KINDS = ("fc", "embedding", "recurrent", "softmax", "concat", "other")


def make(study: Study) -> Result:
    from deeprecsys.paper.operators import BATCH, shares  # imports torch

    names = QUICK if study.quick else MODELS
    measured = {m: shares(f"{m}-artefact", rounds=2 if study.quick else 8) for m in names}
    claims, rows = [], []
    for m in names:
        published = SHARES.get(m)
        mine = measured[m]
        part = batch_time(SKYLAKE, work_of(ZOO[f"{m}-artefact"]), BATCH)
        modelled = {"products": part.products, "embedding": part.gathers, "launches": part.launches}
        theirs = _words({k: v / 100 for k, v in published.items()}) if published else "not published"
        rows.append(
            (SHORT[m], theirs, _words(mine), _words({k: s / part.total for k, s in modelled.items()}))
        )
        if published:
            top, ours = max(published, key=lambda k: published[k]), max(mine, key=lambda k: mine[k])
            why = "" if top == ours else "eager torch runs many small operators: launches and copies count"
            claims.append(Claim(f"{SHORT[m]}: the operator that takes most", f"{top} {published[top]:.0f} %",
                                f"{ours} {100 * mine[ours]:.0f} %", seen(top == ours), why))  # fmt: skip
    stacked = {k: [100 * measured[m].get(k, 0.0) for m in names] for k in KINDS}
    plot = charts.bars([SHORT[m] for m in names], stacked, "% of run time", stacked=True)
    return Result(
        3, "Operator breakdown on a CPU", "measured here, artefact configurations, eager torch, one thread, "
        "batch 64; beside it the model of a Skylake core", tuple(claims),
        (Illustration("operators", "Measured here", "artefact configurations, batch 64", plot),),
        (TextTable(("model", "published", "measured here", "modelled Skylake"), tuple(rows), title="Shares of run time"),),
        {"measured": measured, "published": {m: dict(v) for m, v in SHARES.items()}, "batch": BATCH},
    )  # fmt: skip


def _words(shares: dict[str, float]) -> str:
    ranked = sorted(shares.items(), key=lambda p: -p[1])[:3]
    return ", ".join(f"{k} {100 * v:.0f} %" for k, v in ranked)
