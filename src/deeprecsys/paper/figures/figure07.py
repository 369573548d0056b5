"""Figure 7: a handful of machines against the whole fleet."""

from __future__ import annotations

import numpy as np

from deeprecsys.paper import charts
from deeprecsys.paper.fleet import VARIATION, Fleet
from deeprecsys.paper.fleet_day import handfuls
from deeprecsys.paper.published import HANDFUL, SHORT
from deeprecsys.paper.result import Claim, Illustration, Result, TextTable, seen
from deeprecsys.paper.study import Study, memoised

FEW = (2, 4, 8)
DRAWS = 60
QUANTILES = tuple(float(q) for q in np.linspace(0.5, 0.999, 60))


@memoised("distances")
def distances(study: Study, model: str) -> dict[str, dict[str, float]]:
    """How far handfuls of a model's machines are from all: median and 95th of 100 draws, by how they are drawn."""
    fleet, found = Fleet(study), {}
    for variation in (0.0, VARIATION):
        log = fleet.day(model, "static", variation=variation)
        for k in FEW:
            for q in (0.95, 0.99):
                apart = np.abs(handfuls(log, k, q, DRAWS))
                key = f"{k} machines, p{100 * q:.0f}, speeds ± {100 * variation:.0f} %"
                found[key] = {"median": float(np.median(apart)), "p95": float(np.quantile(apart, 0.95))}
    return found


@memoised("handful")
def curves(study: Study, model: str) -> dict[str, list[float]]:
    """Percentiles of all machines and of a handful, ms."""
    log = Fleet(study).day(model, "static")
    kept = np.isin(log.machine, _few(log.kinds))
    return {
        "fleet": [1e3 * log.quantile_s(q) for q in QUANTILES],
        "handful": [1e3 * log.quantile_s(q, kept) for q in QUANTILES],
    }


def ask(study: Study, model: str) -> None:
    """All that the figure needs of one model."""
    models = Fleet(study).models
    if model in models:
        distances(study, model)
    if model == models[0]:
        curves(study, model)


def make(study: Study) -> Result:
    fleet = Fleet(study)
    found = {m: distances(study, m) for m in fleet.models}
    usual = f"4 machines, p95, speeds ± {100 * VARIATION:.0f} %"
    worst = max(v[usual]["p95"] for v in found.values())
    alike = max(v["4 machines, p95, speeds ± 0 %"]["p95"] for v in found.values())
    claim = Claim(
        "a handful of machines tracks the latency of the whole fleet", f"within {100 * HANDFUL:.0f} %",
        f"four machines, in 95 of 100 draws: within {100 * alike:.1f} % if machines of a kind are alike, "
        f"{100 * worst:.1f} % if their speeds differ by {100 * VARIATION:.0f} %", seen(worst <= HANDFUL),
        "drawn from all kinds in proportion; where the peak comes close to what a machine can do, a slower one is "
        "much later, and a few that are late make the fleet's tail",
    )  # fmt: skip
    columns = list(next(iter(found.values())))
    rows = tuple(
        (c, *(f"{100 * found[m][c]['median']:.1f}, {100 * found[m][c]['p95']:.1f}" for m in found))
        for c in columns
    )
    first = fleet.models[0]
    at = [100 * q for q in QUANTILES]
    series = {name: (at, ms) for name, ms in curves(study, first).items()}
    plot = charts.lines(series, "percentile of the day's queries", "latency, ms", log_x=False, markers=False)
    return Result(
        7, "A handful of machines against the fleet", "simulated, on modelled machines", (claim,),
        (Illustration("handful", f"{SHORT[first]}: four machines and all {sum(fleet.counts(first).values())}", "a day, static batch size", plot),),
        (TextTable(("machines", *(SHORT[m] for m in found)), rows, title="Distance from the fleet in per cent: median, 95th of 100 draws"),),
        {"distance": found, "machines": fleet.machines},
    )  # fmt: skip


def _few(kinds: tuple[str, ...]) -> list[int]:
    """Two machines of each kind."""
    return [m for kind in dict.fromkeys(kinds) for m in [i for i, k in enumerate(kinds) if k == kind][:2]]
