"""Where a batch's time goes, operator by operator: eager torch, one thread, the artefact's models at batch 64.

Two minutes; keep the machine idle.
"""

from __future__ import annotations

from benchmarks.harness import Benchmark, Result, Run
from deeprecsys.paper.operators import BATCH, shares
from deeprecsys.paper.published import MODELS, SHARES


def run(run: Run) -> Result:
    found = {}
    for name in run.options.models or MODELS[: 1 if run.quick else None]:
        found[name] = shares(f"{name}-artefact", rounds=2 if run.quick else 30)
        ranked = ", ".join(f"{k} {100 * v:.0f} %" for k, v in found[name].items())
        published = ", ".join(f"{k} {v:g} %" for k, v in SHARES.get(name, {}).items()) or "not published"
        print(f"{name}: {ranked} (published: {published})", flush=True)
    return {"batch": BATCH, "measured": found}


BENCHMARK = Benchmark(__file__, __doc__, run, models=MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
