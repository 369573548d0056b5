"""Figure 6: CPU time by quantile of query size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from deeprecsys.paper import charts
from deeprecsys.paper.published import MODELS, SHORT
from deeprecsys.paper.result import Claim, Illustration, Result, TextTable, seen
from deeprecsys.paper.study import Case, Study
from deeprecsys.workload.sizes import Discrete, parse


def make(study: Study) -> Result:
    found = {m: quarters(study, Case(m)) for m in MODELS}
    top = [v[3] for v in found.values()]
    claim = Claim(
        "the largest quarter of queries takes about half of the CPU time", "about 50 %",
        f"{100 * min(top):.0f} to {100 * max(top):.0f} %", seen(all(0.4 <= x <= 0.6 for x in top)),
        "launches and weights, paid per slice, even it out a little",
    )  # fmt: skip
    names = ("1st quarter", "2nd", "3rd", "largest")
    stacked = {n: [100 * found[m][i] for m in MODELS] for i, n in enumerate(names)}
    rows = tuple((SHORT[m], *(f"{100 * v:.0f} %" for v in found[m])) for m in MODELS)
    plot = charts.bars([SHORT[m] for m in MODELS], stacked, "% of CPU time", stacked=True)
    return Result(
        6, "Time by query size", "modelled Skylake, static batch size", (claim,),
        (Illustration("quarters", "CPU time by quarter of queries, by size", "production sizes", plot),),
        (TextTable(("model", *names), rows, title="CPU time by quarter of queries"),),
        {"share_by_quarter": found},
    )  # fmt: skip


def quarters(study: Study, case: Case) -> list[float]:
    """Shares of the CPU time of the four quarters of queries, by size."""
    sizes = parse(case.sizes)
    assert isinstance(sizes, Discrete)
    profile, spec = study.cpu(case.model, case.platform), study.specs[case.platform]
    batch = study.static_batch(case)
    n = np.arange(1, sizes.cap + 1)
    parts = -(-n // batch)
    mean = np.array([p * profile.seconds(int(-(-s // p)), spec.cores) for s, p in zip(n, parts, strict=True)])
    edges = np.linspace(0, 1, 5)
    cdf = sizes.cdf
    below = np.concatenate([[0.0], cdf[:-1]])
    shares = [
        float((np.clip(np.minimum(cdf, b) - np.maximum(below, a), 0, None) * mean).sum())
        for a, b in pairwise(edges)
    ]
    total = sum(shares)
    return [s / total for s in shares]
