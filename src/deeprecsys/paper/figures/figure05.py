"""Figure 5: size distributions."""

from __future__ import annotations

import numpy as np

from deeprecsys.paper import charts
from deeprecsys.paper.result import Claim, Illustration, Result, TextTable, seen
from deeprecsys.paper.study import Study
from deeprecsys.workload.sizes import Discrete, parse

NAMES = ("production", "lognormal", "normal", "mlperf", "ribbon")


def make(study: Study) -> Result:
    found: dict[str, Discrete] = {}
    for name in NAMES:
        sizes = parse(name)
        assert isinstance(sizes, Discrete)
        found[name] = sizes
    tails = {n: (np.arange(1, d.cap + 1), np.maximum(1 - d.cdf, 2e-5)) for n, d in found.items()}
    shown = {n: (x[9:-1].tolist(), (100 * y[9:-1]).tolist()) for n, (x, y) in tails.items()}
    production, lognormal = found["production"], found["lognormal"]
    beyond = [1 - float(d.cdf[399]) for d in (production, lognormal)]
    claims = (
        Claim("production sizes have a heavier tail than a lognormal", "heavier",
              f"{100 * beyond[0]:.1f} % against {100 * beyond[1]:.3f} % above 400 items",
              seen(beyond[0] > 2 * beyond[1]), "ours is made after the paper's description; the original is not public"),
        Claim("the top quarter of queries takes about half of the work", "about 50 %",
              f"{100 * production.top_share():.0f} % of items", seen(abs(production.top_share() - 0.5) < 0.05),
              "by construction: one of the few published facts"),
    )  # fmt: skip
    rows = tuple(
        (n, f"{d.mean:.0f}", *(f"{d.quantile(q)}" for q in (0.5, 0.75, 0.95, 0.99)), f"{d.cap}",
         f"{100 * d.top_share():.0f} %") for n, d in found.items()
    )  # fmt: skip
    header = ("distribution", "mean", "p50", "p75", "p95", "p99", "cap", "items in the top quarter")
    plot = charts.lines(
        shown, "query size, items", "% of queries larger", log_y=True, least_y=0.01, markers=False
    )
    return Result(
        5, "Query sizes", "defined", claims,
        (Illustration("sizes", "Share of queries larger than a size", "both axes logarithmic", plot),),
        (TextTable(header, rows, title="Size distributions"),),
        {n: d.describe() for n, d in found.items()},
    )  # fmt: skip
