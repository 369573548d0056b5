"""Goodput at three times capacity: what a run of 10 seconds says, beside a run of 60.

Short and long runs are made in turn, `--rounds` times, under the default policy, which answers in order of arrival,
under `deadline`, which lets late queries wait, and by a server over HTTP, which refuses what would be late.
Capacity is that of the default policy, by a search of its own before them. The HTTP client shares the machine's cores:
a run in which it was late is void, and counted. Saved after each run: `--more` goes on. Keep the machine idle.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, duration, markdown, measured_on, now
from deeprecsys.report import format as f

EXCESS, LENGTHS_S = 3.0, (10.0, 60.0)
JOB = {"rows_scale": 0.5, "sla_ms": 25.0}
QUICK = {"rows_scale": 0.001, "sla_ms": 50.0, "engine": "wait:2", "workers": 1, "sizes": "fixed:20"}
POLICIES, SERVER = ("deeprecsched", "deadline"), "server"
START_S = 12.0
"""About what starting a node takes."""
FIGURES = ("goodput_qps", "throughput_qps")


def agreement(short: list[float], long: list[float]) -> float:
    """How far the median of the short runs is from that of the long ones, relative; 0 where both are nothing."""
    a, b = float(np.median(short)), float(np.median(long))
    return abs(a / b - 1) if b else float(a > 0)


def one(
    model: str,
    job: dict[str, Any],
    profile: dr.LatencyProfile,
    rate: float,
    case: str,
    seconds: float,
    seed: int,
) -> Result:
    """One run of a case. Servers start with a profile's batch times."""
    about: dict[str, Any] = {"rate": rate, "duration": seconds, "seed": seed, "progress": False}
    if case in POLICIES:
        found = dr.bench(model, policy=case, abandon=False, **about, **job)
    else:
        with dr.ServerProcess(
            model, batch_size=256, retune=False, spares=0, profile=profile, **job
        ) as server:
            own = {k: job[k] for k in ("sla_ms", "sizes") if k in job}
            found = dr.bench(model, url=server.url, **about, **own)
    return {"case": case, "seconds": seconds, "seed": seed, "void": bool(found.void), "at": now(),
            **{x: getattr(found, x) for x in FIGURES}}  # fmt: skip


def run(run: Run) -> None:
    model, job = ("ncf", QUICK) if run.quick else (run.options.model, JOB)
    lengths, rounds = ((0.5, 1.0), 1) if run.quick else (LENGTHS_S, run.options.rounds)
    goes_on = run.options.more and not run.quick and run.result.get("model") == model
    result = dict(run.result) if goes_on else {"model": model, "excess": EXCESS, "runs": []}
    if "capacity_qps" not in result:
        found = dr.capacity(model, budget=1.0 if run.quick else None, progress=False, **job)
        run.save(result := {**result, "capacity_qps": found.qps})
    if "profile" not in result:
        node = {k: v for k, v in job.items() if k != "sla_ms"}
        measured = dr.profile(model, budget=0.5 if run.quick else 20.0, progress=False, **node)
        run.save(result := {**result, "profile": measured.latency_profile.to_json()})
    profile = dr.LatencyProfile.from_json(result["profile"])
    rate = EXCESS * result["capacity_qps"]
    parts = [(c, s, seed) for seed in range(rounds) for s in lengths for c in (*POLICIES, SERVER)]
    done = {(r["case"], r["seconds"], r["seed"]) for r in result["runs"]}
    parts = [p for p in parts if p not in done]
    for n, (case, seconds, seed) in enumerate(parts):
        ran = run.tried(f"{case} {seconds:g} s", one, model, job, profile, rate, case, seconds, seed)
        if ran is not None:
            result["runs"].append(ran)
            run.save(result)
            left_s = sum(s + START_S for _, s, _ in parts[n + 1 :])
            print(f"{case} {seconds:g} s: goodput {f.figure(ran['goodput_qps'])}; {n + 1} of {len(parts)}, "
                  f"about {duration(left_s)} left", flush=True)  # fmt: skip


def tables(result: Result) -> Tables:
    lengths = sorted({r["seconds"] for r in result["runs"]})
    rows = []
    for case in (*POLICIES, SERVER):
        cells = []
        for x in FIGURES:
            values = [
                [r[x] for r in result["runs"] if (r["case"], r["seconds"]) == (case, s)] for s in lengths
            ]
            known = len(lengths) == 2 and all(v and None not in v for v in values)
            cells += [", ".join(map(f.figure, v)) for v in values]
            cells.append(f.share(agreement(*values)) if known else f.NONE)
        voids = sum(r["void"] for r in result["runs"] if r["case"] == case)
        rows.append((case, *cells, f.count(voids)))
    head = [
        h
        for name in ("goodput", "throughput")
        for h in (*(f"{name} in {s:g} s, QPS" for s in lengths), "differs")
    ]
    header = ("case", *head, "void runs")
    said = f"{result['model']} at {result['excess']:g} times {f.figure(result['capacity_qps'])} queries/s"
    return {"overload": f"{markdown(header, rows)}\n\n{said}. {measured_on(result['machine'])}. "
                        "`python -m benchmarks.search.overload` makes this table."}  # fmt: skip


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables,
    options={
        "--model": {"default": "wnd", "help": "of the zoo"},
        "--rounds": {"type": int, "default": 3, "help": "short and long runs of each case"},
    },
    resumes=True,
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()
