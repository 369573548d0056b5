"""Goodput at three times capacity: what a run of 10 seconds says, beside a run of 60.

Short and long runs are made in turn, `--rounds` times, under the default policy, which answers in order of arrival,
under `deadline`, which lets late queries wait, and by a server over HTTP, which refuses what would be late.
Capacity is that of the default policy, by a search of its own before them. The HTTP client shares the machine's cores:
a run in which it was late is void, and counted. Keep the machine idle.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown, measured_on
from deeprecsys.report import format as f

EXCESS, LENGTHS_S = 3.0, (10.0, 60.0)
JOB = {"rows_scale": 0.5, "sla_ms": 25.0}
QUICK = {"rows_scale": 0.001, "sla_ms": 50.0, "engine": "wait:2", "workers": 1, "sizes": "fixed:20"}
POLICIES = ("deeprecsched", "deadline")
FIGURES = ("goodput_qps", "throughput_qps")


def agreement(short: list[float], long: list[float]) -> float:
    """How far the median of the short runs is from that of the long ones, relative; 0 where both are nothing."""
    a, b = float(np.median(short)), float(np.median(long))
    return abs(a / b - 1) if b else float(a > 0)


def measured(
    model: str,
    job: dict[str, Any],
    profile: dr.ProfileRun,
    rate: float,
    lengths: tuple[float, float],
    rounds: int,
) -> list[Result]:
    """Every case's figures in short and long runs, in turn. The servers start with a profile's batch times."""
    rows: list[Result] = [
        {"case": p, "voids": 0, **{x: {s: [] for s in lengths} for x in FIGURES}}
        for p in (*POLICIES, "server")
    ]
    for seed in range(rounds):
        for seconds in lengths:
            for row in rows[: len(POLICIES)]:
                _keep(row, seconds, dr.bench(model, rate=rate, duration=seconds, policy=row["case"], seed=seed,
                                             abandon=False, progress=False, **job))  # fmt: skip
            with dr.ServerProcess(
                model, batch_size=256, retune=False, spares=0, profile=profile, **job
            ) as server:
                own = {k: job[k] for k in ("sla_ms", "sizes") if k in job}
                _keep(rows[-1], seconds, dr.bench(model, rate=rate, duration=seconds, url=server.url, seed=seed,
                                                  progress=False, **own))  # fmt: skip
    for row in rows:
        for x in FIGURES:
            values = row.pop(x)
            row[x] = {f"{s:g} s": values[s] for s in lengths}
            row[f"{x}_differs"] = agreement(*(values[s] for s in lengths))
    return rows


def _keep(row: Result, seconds: float, found: dr.BenchRun) -> None:
    row["voids"] += bool(found.void)
    for x in FIGURES:
        row[x][seconds].append(getattr(found, x))


def run(run: Run) -> Result:
    model, job = ("ncf", QUICK) if run.quick else (run.options.model, JOB)
    lengths, rounds = ((0.5, 1.0), 1) if run.quick else (LENGTHS_S, run.options.rounds)
    node = {k: v for k, v in job.items() if k != "sla_ms"}
    profile = dr.profile(model, budget=0.5 if run.quick else 20.0, progress=False, **node)
    found = dr.capacity(model, budget=1.0 if run.quick else None, progress=False, **job)
    capacity_qps = found.qps or 0.0
    rows = measured(model, job, profile, EXCESS * capacity_qps, lengths, rounds)
    return {"model": model, "capacity_qps": capacity_qps, "excess": EXCESS, "rounds": rounds, "rows": rows}


def tables(result: Result) -> Tables:
    rows = []
    for r in result["rows"]:
        cells = [", ".join(map(f.figure, values)) for x in FIGURES for values in r[x].values()]
        rows.append((r["case"], *cells[:2], f.share(r["goodput_qps_differs"]), *cells[2:],
                     f.share(r["throughput_qps_differs"]), f.count(r["voids"])))  # fmt: skip
    lengths = list(result["rows"][0]["goodput_qps"])
    head = [f"{name} in {s}, QPS" for name in ("goodput", "throughput") for s in lengths]
    header = ("case", *head[:2], "differs", *head[2:], "differs", "void runs")
    said = f"{result['model']} at {result['excess']:g} times {f.figure(result['capacity_qps'])} queries/s"
    return {"overload": f"{markdown(header, rows)}\n\n{said}. {measured_on(result['machine'])}. "
                        "`python -m benchmarks.search.overload` makes this table."}  # fmt: skip


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables,
    options={
        "--model": {"default": "wnd", "help": "of the zoo"},
        "--rounds": {"type": int, "default": 3, "help": "short and long runs of each case"},
    },
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
