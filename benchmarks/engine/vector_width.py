"""How vector width moves the optimum: batch times, best batch size and capacity at every width that the CPU has.

    python -m benchmarks.engine.vector_width [MODEL ...]     measure (all eight, two widths, two engines: half an hour and more)
    python -m benchmarks.engine.vector_width --more ...      keep what was measured before, measure the rest
    python -m benchmarks.engine.vector_width --quick ...     smallest tables and budgets: to try the script; saves nothing
    python -m benchmarks.engine.vector_width --tables        only write the table from what was measured before

Workers are held to a width by `--isa`, before their libraries are loaded. Only engines all of whose
libraries heed that are compared: eager torch, and our gather kernel with torch's layers (ONNX Runtime and
OpenVINO have no switch). The profile s(b) of a model is measured on a node at each width one right after
the other; capacities are simulated from it for every fixed batch size, on the same sample path at each
width. Medium target, fp32. Keep the machine idle.
"""

from __future__ import annotations

import sys
from math import exp, log
from typing import Any

from benchmarks.harness import ROOT, load, put_in, save
from deeprecsys.api.engines import sizes_of
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.trials import measure_profile, sample_sizes, start
from deeprecsys.api.virtual import sample_path
from deeprecsys.core.policy import CPU, DeepRecSched, Static
from deeprecsys.engine.isa import ISAS, cpu_flags, ignores_isa
from deeprecsys.engine.spec import EngineSpec
from deeprecsys.report import format as f
from deeprecsys.search.rank import Ranking
from deeprecsys.search.saturation import saturation_qps

MODELS = ("dlrm-rmc1", "dlrm-rmc2", "dlrm-rmc3", "ncf", "wnd", "mt-wnd", "din", "dien")
ENGINES = ("eager", "compiled:eager")
SHOWN = (16, 256)
PROFILE_S = 5.0


def widths() -> tuple[str, ...]:
    """The two widest that the CPU has, the narrower first."""
    return tuple(n for n, isa in ISAS.items() if isa.needs <= cpu_flags())[-2:]


def measure(name: str, engine: str, isa: str, profile_s: float, rows_scale: float) -> dict[str, Any]:
    """s(b) at a width, and what it is good for by fixed batch size."""
    job = Experiment.resolve(
        model_name=name, rows_scale=rows_scale, engine=engine, precision="fp32", threads=1, workers=None,
        seed=0, locality="zipf:0.9", isa=isa,
    )  # fmt: skip
    with start(job) as node:
        profile, workers = measure_profile(node, job, profile_s), node.workers
    static = Static.baseline(job.workload.sizes.cap, workers)
    hint = saturation_qps(profile, static.batch_size, sample_sizes(job), workers)
    ranking = Ranking(sample_path(profile, job.workload, workers, job.target), job.target, hint)
    rates = {b: ranking.score(DeepRecSched(b), None).capacity_qps or 0.0 for b in sizes_of(job, workers)}
    best = max(rates, key=lambda b: rates[b])
    return {
        "workers": {CPU: workers},
        "batch_size": best,
        "qps": rates[best],
        "qps_by_batch_size": rates,
        "ms": {p.batch: 1e3 * p.median_s for p in profile.curve(workers)},
    }


def table(results: dict[str, Any]) -> str:
    """Batch times, best batch size and capacity, the narrower width → the wider."""
    lines = [f"| model | engine | widths | {' | '.join(f's({b}), ms' for b in SHOWN)} | best batch | capacity, QPS | gain |",
             "|---" * (6 + len(SHOWN)) + "|"]  # fmt: skip
    gains: dict[str, list[float]] = {}
    for name in (m for m in MODELS if m in results):
        for engine, by_width in results[name].items():
            (a, narrow), (b, wide) = by_width.items()
            times = [f"{_ms(narrow, size)} → {_ms(wide, size)}" for size in SHOWN]
            best, rates = _best(narrow, "batch_size"), _best(narrow, "qps")
            best, rates = f"{best} → {_best(wide, 'batch_size')}", f"{rates} → {_best(wide, 'qps')}"
            gain = wide["qps"] / narrow["qps"] if narrow["qps"] else None
            gains.setdefault(engine, []).extend([gain] if gain else [])
            lines.append(
                f"| {name} | {engine} | {a} → {b} | {' | '.join(times)} | {best} | {rates} | "
                f"{f'{gain:.2f}' if gain else '–'} |"
            )
    for engine, found in gains.items():
        if found:
            mean = exp(sum(map(log, found)) / len(found))
            lines.append(f"| geometric mean | {engine} | {' | ' * (2 + len(SHOWN))} | {mean:.2f} |")
    return "\n".join(lines)


def _best(found: dict[str, Any], what: str) -> str:
    """What the best batch size is or carries; nothing where none meets the target at any load."""
    return f.figure(found[what]) if found["qps"] else "none"


def _ms(found: dict[str, Any], batch: int) -> str:
    """The median batch time with all workers busy; keys are text once they have been JSON."""
    by_batch = {int(k): v for k, v in found["ms"].items()}
    return f"{by_batch[batch]:.3g}" if batch in by_batch else "–"


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(MODELS)
    quick, kept = "--quick" in sys.argv, bool({"--more", "--tables"} & set(sys.argv))
    results = load("engine_vector_width").get("models", {}) if kept and not quick else {}
    if "--tables" not in sys.argv:
        assert not any(ignores_isa(EngineSpec.parse(e)) for e in ENGINES)
        if len(widths()) < 2:
            raise SystemExit("this CPU has but one vector width to be held to")
        for name in names:
            entry = results.setdefault(name, {})
            for engine in (e for e in ENGINES if e not in entry):
                entry[engine] = {
                    w: measure(name, engine, w, 2.0 if quick else PROFILE_S, 0.01 if quick else 1.0)
                    for w in widths()
                }
                told = {w: (r["batch_size"], round(r["qps"], 1)) for w, r in entry[engine].items()}
                print(f"{name} {engine}: {told}", flush=True)
                if not quick:
                    save("engine_vector_width", {"models": results})
    print(table(results))
    if not quick:
        put_in(ROOT / "docs" / "results.md", "isa", table(results))


if __name__ == "__main__":
    main()
