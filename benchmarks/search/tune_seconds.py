"""How long `tune` of one model takes once a profile exists, all eight models at the medium target.

The profiles are those of `profiles/`; `tune` calibrates them by a trial of its own. About a minute a model; keep the
machine idle.
"""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Benchmark, Result, Run, Tables, markdown, measured_on
from benchmarks.lib.experiments import MODELS, profile_file, tuned
from deeprecsys.report import format as f

KEYS = ("search", "confirmation", "simulator_error", "pace", "paced_simulator_error", "fraction_of_bound")
QUICK = ("--rows-scale", "0.01", "--budget", "2")


def measure(name: str, *options: str) -> dict[str, Any]:
    """Wall seconds of the whole command, and its search, confirmation and error."""
    doc = tuned(name, "--profile", str(profile_file(name)), *options)
    point = {k: doc["tuned"].get(k) for k in ("policy", "batch_size", "qps", "p95_ms", "verdict")}
    return {"wall_s": doc["wall_s"], "tuned": point, **{k: doc[k] for k in KEYS}}


def run(run: Run) -> None:
    run.each([(m,) for m in MODELS], lambda name: measure(name, *(QUICK if run.quick else ())))


def tables(result: Result) -> Tables:
    rows = []
    for name, r in ((m, result["models"][m]) for m in MODELS if m in result["models"]):
        simulated, live, t = r["search"]["simulated"], r["confirmation"], r["tuned"]
        trials = f"{live['seconds']:.0f} s, {live.get('voids', '–')} of {live['trials']}"
        errors = f"{f.signed_share(r['simulator_error'])}, {f.signed_share(r['paced_simulator_error'])}"
        rows.append((name, f"{r['wall_s']:.0f}", f.count(simulated["queries"]), f"{f.count(live['queries'])}, {trials}",
                     f"{t['policy']}, {t['batch_size']}, {f.figure(t['qps'])}", f.share(r["fraction_of_bound"]["value"]),
                     errors, f.figure(r["pace"])))  # fmt: skip
    header = ("model", "seconds", "simulated queries", "live queries, seconds, of its trials void",
              "tuned: policy, batch, QPS", "of its bound", "simulator error in p95, at its pace", "pace")  # fmt: skip
    where = f"{measured_on(result['machine'])}. `python -m benchmarks.search.tune_seconds` makes this table."
    return {"tune-seconds": f"{markdown(header, rows)}\n\n{where}"}


BENCHMARK = Benchmark(__file__, __doc__, run, tables, MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
