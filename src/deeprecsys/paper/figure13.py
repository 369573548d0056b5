"""Figure 13: latency over a day of the fleet, static against tuned batch sizes."""

from __future__ import annotations

import time

import numpy as np

from deeprecsys.paper import draw
from deeprecsys.paper.fleets import PEAK, POLICIES, Fleets, fleets_of
from deeprecsys.paper.published import PRODUCTION, SHORT
from deeprecsys.paper.result import Claim, Drawing, Result, Table, seen
from deeprecsys.paper.study import Study
from deeprecsys.report import format as f

PEAKS = (0.9, 1.0)
QUANTILES = (("p95", 0.95), ("p99", 0.99))


def make(study: Study) -> Result:
    fleets = fleets_of(study)
    start = time.perf_counter()
    logs = {p: {m: fleets.day(m, p) for m in fleets.models} for p in POLICIES}
    took_s = time.perf_counter() - start
    ms = {
        p: {m: {n: 1e3 * log.quantile_s(q) for n, q in QUANTILES} for m, log in by.items()}
        for p, by in logs.items()
    }
    gain = {
        p: {n: _mean([ms["static"][m][n] / ms[p][m][n] for m in fleets.models]) for n, _ in QUANTILES}
        for p in POLICIES[1:]
    }
    peaks = (0.9, 1.0) if study.quick else PEAKS
    models = fleets.models[:1] if study.quick else fleets.models
    by_peak = {peak: _gains(fleets, models, peak) for peak in peaks}
    claims = tuple(
        Claim(f"the day's {n} is lower than at the static batch size", f"{PRODUCTION[n]:g}×",
              f"{gain['tuned'][n]:.2f}× tuned for throughput; {gain['for latency'][n]:.2f}× tuned for latency at the "
              f"peak; {by_peak[peaks[-1]]['tuned'][n]:.2f}× if the peak is {100 * peaks[-1]:.0f} % of what static can do",
              seen(gain["tuned"][n] > 1.0),
              "a larger batch lets a large query run on fewer cores: slower while cores are idle, and quicker only "
              "where the static size is short of cores")
        for n, _ in QUANTILES
    )  # fmt: skip
    rows = tuple(
        (SHORT[m], *(f"{f.figure(ms[p][m]['p95'])}, {f.figure(ms[p][m]['p99'])}" for p in POLICIES),
         f"{ms['static'][m]['p95'] / ms['tuned'][m]['p95']:.2f}, {ms['static'][m]['p99'] / ms['tuned'][m]['p99']:.2f}")
        for m in fleets.models
    )  # fmt: skip
    peak_rows = tuple(
        (f"{100 * peak:.0f} %", *(f"{by[p]['p95']:.2f}, {by[p]['p99']:.2f}" for p in POLICIES[1:]))
        for peak, by in by_peak.items()
    )
    routers = {r: _router(fleets, r) for r in ("random", "weighted", "least-loaded")}
    router_rows = tuple((r, *(f.figure(v) for v in values)) for r, values in routers.items())
    first = fleets.models[0]
    hours = [(w + 0.5) * 24 / fleets.windows for w in range(fleets.windows)]
    series = {
        p: (
            hours,
            [
                1e3 * logs[p][first].quantile_s(0.95, logs[p][first].window == w)
                for w in range(fleets.windows)
            ],
        )
        for p in POLICIES
    }
    sampled = sum(len(log.latency_s) for by in logs.values() for log in by.values())
    plot = draw.lines(series, "hour of the day", f"p95 of {SHORT[first]}, ms", log_x=False)
    return Result(
        13, "A day of the fleet", f"simulated: {fleets.machines} modelled machines of two kinds, {len(fleets.models)} "
        f"models, {fleets.windows} windows, {sampled:,} queries", claims,
        (Drawing("day", f"{SHORT[first]} through the day", f"peak at {100 * PEAK:.0f} % of static's capacity", plot),),
        (Table(f"p95, p99 of the day in ms, peak at {100 * PEAK:.0f} % of static's capacity; static over tuned",
               ("model", *POLICIES, "ratio"), rows),
         Table("static over tuned by load, p95 and p99, geometric means",
               ("peak, of static's capacity", *(f"{p}" for p in POLICIES[1:])), peak_rows),
         Table(f"{SHORT[first]}, static, peak at half of static's capacity, by router", ("router", "p95 ms", "p99 ms"),
               router_rows)),
        {"ms": ms, "gain": gain, "gain_by_peak": by_peak, "routers": routers, "seconds": took_s, "queries": sampled},
    )  # fmt: skip


def _gains(fleets: Fleets, models: tuple[str, ...], peak: float) -> dict[str, dict[str, float]]:
    """Static over tuned at another load."""
    logs = {p: {m: fleets.day(m, p, peak) for m in models} for p in POLICIES}
    return {
        p: {
            n: _mean([logs["static"][m].quantile_s(q) / logs[p][m].quantile_s(q) for m in models])
            for n, q in QUANTILES
        }
        for p in POLICIES[1:]
    }


def _router(fleets: Fleets, router: str) -> tuple[float, float]:
    log = fleets.day(fleets.models[0], "static", 0.5, router)
    return 1e3 * log.quantile_s(0.95), 1e3 * log.quantile_s(0.99)


def _mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))
