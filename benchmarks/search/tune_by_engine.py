"""The main job with each engine: `tune` for all eight models with eager and with compiled, both live.

A model's two engines are tuned one right after the other, as a user would: each is profiled, searched by
simulation and run beside the static baseline by live trials. fp32, the paper's medium target. Results are
kept engine by engine. All eight take some twenty minutes; keep the machine idle.
"""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any

from benchmarks.harness import Benchmark, Result, Run, Tables, markdown, measured_on
from benchmarks.lib.experiments import MODELS, tuned
from deeprecsys.report import format as f

ENGINES = ("eager", "compiled")
FULL = ("--budget", "25")
"""Seconds of live trials in blocks of each of sixteen tunings."""
QUICK = ("--rows-scale", "0.01", "--budget", "2", "--sla-ms", "100")
KEYS = ("target", "static", "tuned", "ratio", "ratio_interval", "kept_static", "offline_qps", "node",
        "engine", "precision", "simulator_error", "pace", "paced_simulator_error", "wall_s")  # fmt: skip
"""What of a result is kept."""


def run(run: Run) -> None:
    def measure(name: str, engine: str) -> dict[str, Any]:
        found = tuned(name, "--engine", engine, *(QUICK if run.quick else FULL))
        return {k: found.get(k) for k in KEYS}

    run.each([(m, e) for m in MODELS for e in ENGINES], measure)


def tables(result: Result) -> Tables:
    """Both engines tuned; and what a user gains over the usual, one large batch size on eager torch."""
    rows: list[tuple[str, ...]] = []
    usual_rows: list[tuple[str, ...]] = []
    gains: list[float] = []
    usual_gains: list[float] = []
    for name in (m for m in MODELS if m in result["models"]):
        eager, compiled = (result["models"][name].get(e) or {} for e in ENGINES)
        target = f"{eager['target']['latency_ms']:g} ms"
        best, t, usual = (x or {} for x in (eager.get("tuned"), compiled.get("tuned"), eager.get("static")))
        rows.append((name, target, *_point(eager), *_point(compiled), _gain(t, best, gains)))
        tails = f"{f.figure(t['p95_ms'])}, {f.figure(t['p99_ms'])}" if t else "–"
        usual_rows.append((name, target, f"{usual.get('batch_size')}, {_qps(usual)}", _qps(best), _point(compiled)[0],
                           tails, _gain(t, usual, usual_gains)))  # fmt: skip
    for lines, found, columns in ((rows, gains, 7), (usual_rows, usual_gains, 5)):
        if found:
            lines.append(("geometric mean", *("",) * columns, f"{geometric_mean(found):.2f}"))
    header = ("model", "p95 target", "eager: policy, batch, QPS", "p95 ms", "memory",
              "compiled: policy, batch, QPS", "p95 ms", "memory", "gain")  # fmt: skip
    usual_header = ("model", "p95 target", "usual: batch, QPS", "tuned, eager",
                    "tuned, compiled: policy, batch, QPS", "p95, p99 ms", "gain")  # fmt: skip
    where = (
        f"{measured_on(result['machine'])}, fp32, sizes `production`, Poisson arrivals; every offered query served. "
        "`python -m benchmarks.search.tune_by_engine` makes this table."
    )
    return {
        "engine-tune": markdown(header, rows),
        "engine-usual": f"{markdown(usual_header, usual_rows)}\n\n{where}",
    }


def _gain(point: dict[str, Any], over: dict[str, Any], kept: list[float]) -> str:
    """The ratio of two limits, kept for the mean; "–" where one is missing. Former results have one rate."""
    limits = [p.get("limit_today_qps") or p.get("qps") for p in (point, over)]
    if not all(limits):
        return "–"
    kept.append(limits[0] / limits[1])
    return f"{kept[-1]:.2f}"


def _qps(point: dict[str, Any]) -> str:
    return f.figure(point["qps"]) if point.get("qps") else "–"


def _point(result: dict[str, Any]) -> tuple[str, str, str]:
    """Operating point, its p95, and the node's memory (sum of PSS) beside its tables'."""
    if not result.get("tuned"):
        return "–", "–", "–"
    t, node = result["tuned"], result["node"]
    batch = t.get("batch_size") or t.get("finest")
    memory = f"{node['pss_bytes'] / 1e9:.2f} GB, tables {node['table_bytes'] / 1e9:.2f}"
    return f"{t.get('policy')}, {batch}, {f.figure(t['qps'])}", f.figure(t["p95_ms"]), memory


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
