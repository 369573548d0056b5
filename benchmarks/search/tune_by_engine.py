"""The main job with each engine: `tune` for all eight models with eager and with compiled, confirmed live.

    python -m benchmarks.search.tune_by_engine [MODEL ...]      measure (all eight: some twenty minutes)
    python -m benchmarks.search.tune_by_engine --more ...      keep what was measured before, measure the rest
    python -m benchmarks.search.tune_by_engine --quick ...      smallest tables and budgets: to try the script; saves nothing
    python -m benchmarks.search.tune_by_engine --tables         only write the table from what was measured before

A model's two engines are tuned one right after the other, as a user would: each is profiled, searched by
simulation and confirmed beside the static baseline by live trials. fp32, the paper's medium target. Results are
kept engine by engine, so that an interrupted run can go on (--more). Keep the machine idle.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from math import exp, log
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, load, measured_on, put_in, save
from deeprecsys.report import format as f

MODELS = ("dlrm-rmc1", "dlrm-rmc2", "dlrm-rmc3", "ncf", "wnd", "mt-wnd", "din", "dien")
ENGINES = ("eager", "compiled")
FULL = ("--budget", "25")
"""Seconds of live confirmation of each of sixteen tunings."""
QUICK = ("--rows-scale", "0.01", "--budget", "2", "--sla-ms", "100")


def tuned(name: str, *options: str) -> dict[str, Any]:
    """What `tune` says, and how long the whole command took (`wall_s`)."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "result.json"
        command = [sys.executable, "-m", "deeprecsys", "tune", name, "--json", str(file)]
        began = time.monotonic()
        ended = subprocess.run([*command, *options], stdout=subprocess.DEVNULL)
        if ended.returncode:
            raise SystemExit(f"tune {' '.join((name, *options))}: exit status {ended.returncode}")
        return {**json.loads(file.read_text()), "wall_s": time.monotonic() - began}


def brief(result: dict[str, Any]) -> dict[str, Any]:
    """What of a result is kept."""
    keys = ("target", "static", "tuned", "ratio", "ratio_interval", "kept_static", "offline_qps", "node",
            "engine", "precision", "simulator_error", "pace", "paced_simulator_error", "wall_s")  # fmt: skip
    return {k: result.get(k) for k in keys}


def gain(entry: dict[str, Any]) -> float | None:
    """Tuned capacity with the compiled engine over that with eager."""
    rates = [((entry.get(e) or {}).get("tuned") or {}).get("qps") for e in ENGINES]
    return rates[1] / rates[0] if all(rates) else None


def table(results: dict[str, Any]) -> str:
    lines = ["| model | p95 target | eager: policy, batch, QPS | p95 ms | memory | compiled: policy, batch, QPS | p95 ms | memory "
             "| gain |", "|---" * 9 + "|"]  # fmt: skip
    gains = []
    for name in (m for m in MODELS if m in results):
        entry = results[name]
        cells = [cell for e in ENGINES for cell in _point(entry.get(e))]
        g = gain(entry)
        gains += [g] if g else []
        target = entry[ENGINES[0]]["target"]["latency_ms"]
        lines.append(f"| {name} | {target:g} ms | {' | '.join(cells)} | {f'{g:.2f}' if g else '–'} |")
    if gains:
        mean = exp(sum(map(log, gains)) / len(gains))
        lines.append(f"| geometric mean | | | | | | | | {mean:.2f} |")
    return "\n".join(lines)


def summary(results: dict[str, Any], machine: dict[str, Any]) -> str:
    """What a user gains over the usual: one large batch size on eager torch."""
    lines = ["| model | p95 target | usual: batch, QPS | tuned, eager | tuned, compiled: policy, batch, QPS | p95, p99 ms | gain |",
             "|---" * 7 + "|"]  # fmt: skip
    gains = []
    for name in (m for m in MODELS if m in results):
        eager, ours = (results[name].get(e) or {} for e in ENGINES)
        usual, t = eager.get("static") or {}, ours.get("tuned") or {}
        g = t["qps"] / usual["qps"] if t.get("qps") and usual.get("qps") else None
        gains += [g] if g else []
        tails = f"{f.figure(t['p95_ms'])}, {f.figure(t['p99_ms'])}" if t else "–"
        lines.append(
            f"| {name} | {eager['target']['latency_ms']:g} ms | {usual.get('batch_size')}, {_qps(usual)} "
            f"| {_qps(eager.get('tuned') or {})} | {_point(ours)[0]} | {tails} | {f'{g:.2f}' if g else '–'} |"
        )
    if gains:
        lines.append(f"| geometric mean | | | | | | {exp(sum(map(log, gains)) / len(gains)):.2f} |")
    return "\n".join(lines) + (
        f"\n\n{measured_on(machine)}, fp32, sizes `production`, Poisson arrivals; every offered query served. "
        "`python -m benchmarks.search.tune_by_engine` makes this table."
    )


def _qps(point: dict[str, Any]) -> str:
    return f.figure(point["qps"]) if point.get("qps") else "–"


def _point(result: dict[str, Any] | None) -> tuple[str, str, str]:
    """Operating point, its p95, and the node's memory (sum of PSS) beside its tables'."""
    if not result or not result.get("tuned"):
        return "–", "–", "–"
    t, node = result["tuned"], result["node"]
    batch = t.get("batch_size") or t.get("finest")
    memory = f"{node['pss_bytes'] / 1e9:.2f} GB, tables {node['table_bytes'] / 1e9:.2f}"
    return f"{t.get('policy')}, {batch}, {f.figure(t['qps'])}", f.ms(t["p95_ms"]), memory


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(MODELS)
    quick, kept = "--quick" in sys.argv, bool({"--more", "--tables"} & set(sys.argv))
    results = load("search_tune_by_engine").get("models", {}) if kept and not quick else {}
    if "--tables" not in sys.argv:
        for name in names:
            entry = results.setdefault(name, {})
            for engine in (e for e in ENGINES if e not in entry):
                entry[engine] = brief(tuned(name, "--engine", engine, *(QUICK if quick else FULL)))
                if not quick:
                    save("search_tune_by_engine", {"models": results})
            print(
                f"{name}: {' → '.join(_point(entry[e])[0] for e in ENGINES)}, gain {gain(entry)}", flush=True
            )
    print(table(results))
    if not quick:
        put_in(ROOT / "docs" / "results.md", "engine-tune", table(results))
        put_in(ROOT / "README.md", "engine-tune", summary(results, load("search_tune_by_engine")["machine"]))


if __name__ == "__main__":
    main()
