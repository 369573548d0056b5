"""Figure 13: latency over a day of the fleet, static against tuned batch sizes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deeprecsys.paper import charts
from deeprecsys.paper.fleet import PEAK, POLICIES, Fleet
from deeprecsys.paper.fleet_day import DayLog
from deeprecsys.paper.published import PRODUCTION, SHORT
from deeprecsys.paper.result import Claim, Illustration, Result, TextTable, seen
from deeprecsys.paper.study import Study, memoised
from deeprecsys.report import format as f

PEAKS = (0.5, 0.8, 0.9, 1.0)
"""Loads that are compared. Beyond 1 a queue is carried from hour to hour, which windows do not show."""
QUICK_PEAKS = (0.9, 1.0)
QUANTILES = (("p95", 0.95), ("p99", 0.99))
ROUTERS = ("random", "weighted", "least-loaded")
By = Mapping[str, Mapping[str, float]]
"""Policy → p95 and p99."""


@dataclass(frozen=True, slots=True)
class ModelsDay:
    """What came of one model's machines in a day.

    Attributes:
        ms: latencies at the usual peak.
        gain: peak → static over the others.
        hours: policy → p95 of each window, ms.
        routers: router → p95 and p99, ms, at half of the load; of the first model alone.
        queries, seconds: simulated at the usual peak, and how long that took one core.
    """

    ms: By
    gain: Mapping[float, By]
    hours: Mapping[str, list[float]]
    routers: By
    queries: int
    seconds: float


@memoised("day")
def of_model(study: Study, model: str) -> ModelsDay:
    """One model's day, under all policies and peaks."""
    fleet = Fleet(study)
    for p in POLICIES:
        fleet.batch(model, "Skylake", p)  # found before the clock starts
    first, quick = model == fleet.models[0], study.quick
    ms, hours, queries, start = {}, {}, 0, time.perf_counter()
    for p in POLICIES:
        log = fleet.day(model, p)
        ms[p] = _ms(log)
        hours[p] = [1e3 * log.quantile_s(0.95, log.window == w) for w in range(fleet.windows)]
        queries += len(log.latency_s)
    seconds = time.perf_counter() - start
    gain = {PEAK: _over(ms)}
    for peak in (QUICK_PEAKS if quick else PEAKS) if first or not quick else ():
        if peak != PEAK:
            gain[peak] = _over({p: _ms(fleet.day(model, p, peak)) for p in POLICIES})
    routers = {r: _ms(fleet.day(model, "static", 0.5, r)) for r in ROUTERS} if first else {}
    return ModelsDay(ms, dict(sorted(gain.items())), hours, routers, queries, seconds)


def ask(study: Study, model: str) -> None:
    """All that the figure needs of one model."""
    if model in Fleet(study).models:
        of_model(study, model)


def _ms(log: DayLog) -> dict[str, float]:
    return {n: 1e3 * log.quantile_s(q) for n, q in QUANTILES}


def _over(ms: By) -> By:
    """Static over the others."""
    return {p: {n: ms["static"][n] / ms[p][n] for n, _ in QUANTILES} for p in POLICIES[1:]}


def make(study: Study) -> Result:
    fleet = Fleet(study)
    days = {m: of_model(study, m) for m in fleet.models}
    first = days[fleet.models[0]]
    by_peak = {peak: _means([d.gain[peak] for d in days.values() if peak in d.gain]) for peak in first.gain}
    gain, last = by_peak[PEAK], max(by_peak)
    claims = tuple(
        Claim(f"the day's {n} is lower than at the static batch size", f"{PRODUCTION[n]:g}×",
              f"{gain['tuned'][n]:.2f}× tuned for throughput; {gain['for latency'][n]:.2f}× tuned for latency at the "
              f"peak; {by_peak[last]['tuned'][n]:.2f}× if the peak is {100 * last:.0f} % of what static can do",
              seen(gain["tuned"][n] > 1.0),
              "a larger batch lets a large query run on fewer cores: slower while cores are idle, and quicker only "
              "where the static size is short of cores")
        for n, _ in QUANTILES
    )  # fmt: skip
    queries = sum(d.queries for d in days.values())
    hours = [(w + 0.5) * 24 / fleet.windows for w in range(fleet.windows)]
    name = SHORT[fleet.models[0]]
    plot = charts.lines({p: (hours, first.hours[p]) for p in POLICIES}, "hour of the day", f"p95 of {name}, ms",
                      log_x=False)  # fmt: skip
    return Result(
        13, "A day of the fleet", f"simulated: {fleet.machines} modelled machines of two kinds, {len(fleet.models)} "
        f"models, {fleet.windows} windows, {queries:,} queries", claims,
        (Illustration("day", f"{name} through the day", f"peak at {100 * PEAK:.0f} % of static's capacity", plot),),
        _tables(fleet, days, by_peak),
        {"ms": {p: {m: d.ms[p] for m, d in days.items()} for p in POLICIES}, "gain": gain, "gain_by_peak": by_peak,
         "routers": first.routers, "core_seconds": sum(d.seconds for d in days.values()), "queries": queries},
    )  # fmt: skip


def _tables(
    fleet: Fleet, days: Mapping[str, ModelsDay], by_peak: Mapping[float, By]
) -> tuple[TextTable, ...]:
    rows = tuple(
        (SHORT[m], *(f"{f.figure(d.ms[p]['p95'])}, {f.figure(d.ms[p]['p99'])}" for p in POLICIES),
         f"{d.gain[PEAK]['tuned']['p95']:.2f}, {d.gain[PEAK]['tuned']['p99']:.2f}",
         f"{d.gain[PEAK]['for latency']['p95']:.2f}, {d.gain[PEAK]['for latency']['p99']:.2f}")
        for m, d in days.items()
    )  # fmt: skip
    peak_rows = tuple(
        (f"{100 * peak:.0f} %", *(f"{by[p]['p95']:.2f}, {by[p]['p99']:.2f}" for p in POLICIES[1:]))
        for peak, by in by_peak.items()
    )
    first = fleet.models[0]
    routers = tuple((r, *(f.figure(v) for v in by.values())) for r, by in days[first].routers.items())
    usual = f"{100 * PEAK:.0f} % of static's capacity"
    return (
        TextTable(("model", *POLICIES, *(f"static over {p}" for p in POLICIES[1:])), rows, title=f"p95, p99 of the day in ms, peak at {usual}; static over the others"),
        TextTable(("peak, of static's capacity", *POLICIES[1:]), peak_rows, title="static over tuned by load, p95 and p99, geometric means"),
        TextTable(("router", *(f"{n} ms" for n, _ in QUANTILES)), routers, title=f"{SHORT[first]}, static, peak at half of static's capacity, by router"),
        TextTable(("machines", "queries", "seconds of one core"), ((str(fleet.machines), f"{sum(d.queries for d in days.values()):,}",
                f"{sum(d.seconds for d in days.values()):.0f}"),), title="Cost of the day under the three policies"),
    )  # fmt: skip


def _means(gains: Sequence[By]) -> By:
    """Geometric means over the models."""
    return {
        p: {n: float(np.exp(np.mean([np.log(g[p][n]) for g in gains]))) for n, _ in QUANTILES}
        for p in POLICIES[1:]
    }
