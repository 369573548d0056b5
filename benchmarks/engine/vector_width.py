"""How vector width moves the optimum: batch times, best batch size and capacity at the two widest that the CPU has.

Workers are held to a width by `--isa`, before their libraries are loaded. Only engines all of whose
libraries heed that are compared: eager torch, and the gather kernel with torch's layers (ONNX Runtime and
OpenVINO have no switch). The profile s(b) of a model is measured on a node at each width one right after
the other; capacities are simulated from it for every fixed batch size, on the same sample path at each
width. Medium target, fp32. Half an hour and more; keep the machine idle.
"""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any

from benchmarks.harness import Benchmark, Result, Run, Tables, UnavailableError, markdown
from benchmarks.lib.experiments import MODELS, experiment, ranking_of
from deeprecsys.api.profiles import measure_profile, start
from deeprecsys.api.virtual import NodeModel
from deeprecsys.core.policy import CPU, DeepRecSched
from deeprecsys.engine.isa import ISAS, cpu_flags, ignores_isa
from deeprecsys.engine.spec import EngineSpec
from deeprecsys.report import format as f

ENGINES = ("eager", "compiled:eager")
SHOWN = (16, 256)
PROFILE_S = 5.0


def widths() -> tuple[str, ...]:
    """The two widest that the CPU has, the narrower first."""
    return tuple(n for n, isa in ISAS.items() if isa.needs <= cpu_flags())[-2:]


def measure(name: str, engine: str, isa: str, profile_s: float, rows_scale: float) -> dict[str, Any]:
    """s(b) at a width, and the capacity by fixed batch size that follows from it."""
    job = experiment(name, rows_scale=rows_scale, engine=engine, isa=isa)
    with start(job) as node:
        profile, workers = measure_profile(node, job, profile_s), node.workers
    ranking = ranking_of(job, profile, workers)
    sizes = NodeModel.of(job, profile, workers).policies.batches
    rates = {b: ranking.score(DeepRecSched(b), None).capacity_qps or 0.0 for b in sizes}
    best = max(rates, key=lambda b: rates[b])
    return {"workers": {CPU: workers}, "batch_size": best, "qps": rates[best], "qps_by_batch_size": rates,
            "ms": {p.batch: 1e3 * p.median_s for p in profile.curve(workers)}}  # fmt: skip


def run(run: Run) -> None:
    assert not any(ignores_isa(EngineSpec.parse(e)) for e in ENGINES)
    if len(widths()) < 2:
        raise UnavailableError("this CPU has one vector width only")
    how = (2.0, 0.01) if run.quick else (PROFILE_S, 1.0)
    run.each(
        [(m, e) for m in MODELS for e in ENGINES],
        lambda name, engine: {w: measure(name, engine, w, *how) for w in widths()},
    )


def tables(result: Result) -> Tables:
    """Batch times, best batch size and capacity, the narrower width → the wider."""
    rows: list[tuple[str, ...]] = []
    gains: dict[str, list[float]] = {}
    for name in (m for m in MODELS if m in result["models"]):
        for engine, by_width in result["models"][name].items():
            (a, narrow), (b, wide) = by_width.items()
            times = [f"{_ms(narrow, size)} → {_ms(wide, size)}" for size in SHOWN]
            best, rates = (f"{_best(narrow, k)} → {_best(wide, k)}" for k in ("batch_size", "qps"))
            gain = wide["qps"] / narrow["qps"] if narrow["qps"] else None
            gains.setdefault(engine, []).extend([gain] if gain else [])
            rows.append((name, engine, f"{a} → {b}", *times, best, rates, f"{gain:.2f}" if gain else "–"))
    empty = ("",) * (3 + len(SHOWN))
    rows += [("geometric mean", e, *empty, f"{geometric_mean(g):.2f}") for e, g in gains.items() if g]
    header = (
        "model",
        "engine",
        "widths",
        *(f"s({b}), ms" for b in SHOWN),
        "best batch",
        "capacity, QPS",
        "gain",
    )
    return {"isa": markdown(header, rows)}


def _best(found: dict[str, Any], what: str) -> str:
    """The best batch size, or what it carries; "none" where none meets the target at any load."""
    return f.figure(found[what]) if found["qps"] else "none"


def _ms(found: dict[str, Any], batch: int) -> str:
    """The median batch time with all workers busy."""
    ms = found["ms"].get(str(batch))
    return f"{ms:.3g}" if ms else "–"


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
