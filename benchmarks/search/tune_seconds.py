"""How long `tune` of one model takes once a profile exists, all eight models at the medium target.

    python -m benchmarks.search.tune_seconds [MODEL ...]     about a minute a model
    python -m benchmarks.search.tune_seconds --tables        only write the table from what was measured before

The profiles are those of `profiles/`; `tune` sets them right by a trial of its own. Keep the machine idle.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.harness import ROOT, load, measured_on, put_in, save
from benchmarks.search.eight_models import MODELS
from benchmarks.search.tune_by_engine import tuned
from deeprecsys.report import format as f

PROFILES = ROOT / "profiles"


def measure(name: str) -> dict[str, Any]:
    """Wall seconds of the whole command, and what it says of search, confirmation and error."""
    profile = next(p for p in sorted(PROFILES.glob("*.json")) if json.loads(p.read_text())["model"] == name)
    doc = tuned(name, "--profile", str(profile))
    keys = ("search", "confirmation", "simulator_error", "pace", "paced_simulator_error", "fraction_of_bound")
    point = {k: doc["tuned"].get(k) for k in ("policy", "batch_size", "qps", "p95_ms", "verdict")}
    return {"wall_s": doc["wall_s"], "tuned": point, **{k: doc[k] for k in keys}}


def table(results: dict[str, Any]) -> str:
    lines = ["| model | seconds | simulated queries | live queries, seconds, of its trials void | tuned: policy, batch, QPS | of its bound "
             "| simulator error in p95, at its pace | pace |", "|---" * 8 + "|"]  # fmt: skip
    for name in (m for m in MODELS if m in results):
        r = results[name]
        simulated, live, tuned = r["search"]["simulated"], r["confirmation"], r["tuned"]
        lines.append(
            f"| {name} | {r['wall_s']:.0f} | {f.count(simulated['queries'])} | {f.count(live['queries'])}, "
            f"{live['seconds']:.0f} s, {live.get('voids', '–')} of {live['trials']} | {tuned['policy']}, {tuned['batch_size']}, {f.figure(tuned['qps'])} "
            f"| {f.share(r['fraction_of_bound']['value'])} | {f.signed_share(r['simulator_error'])}, "
            f"{f.signed_share(r['paced_simulator_error'])} | {f.figure(r['pace'])} |"
        )
    where = measured_on(load("search_tune_seconds")["machine"])
    return "\n".join(lines) + f"\n\n{where}. `python -m benchmarks.search.tune_seconds` makes this table."


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(MODELS)
    results = load("search_tune_seconds").get("models", {})
    if "--tables" not in sys.argv:
        for name in names:
            results[name] = measure(name)
            print(f"{name}: {results[name]['wall_s']:.0f} s", flush=True)
            save("search_tune_seconds", {"models": results})
    print(table(results))
    put_in(ROOT / "docs" / "results.md", "tune-seconds", table(results))


if __name__ == "__main__":
    main()
