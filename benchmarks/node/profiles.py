"""Latency profiles of the eight models on this machine, kept in `profiles/` for simulations.

About half a minute a model; keep the machine idle.
"""

from __future__ import annotations

import json

import deeprecsys as dr
from benchmarks.harness import PROFILES, Benchmark, Run
from benchmarks.lib.experiments import MODELS, experiment
from deeprecsys.api.profiles import measure_profile
from deeprecsys.report.json_values import plain

SECONDS = 20.0


def machine_name(profile: dr.LatencyProfile) -> str:
    """Vendor, vector width and cores of the machine: what a profile's file is named by."""
    m = profile.machine
    isa = "avx512" if "avx512f" in m["isa"] else "avx2"
    return f"{str(m['cpu']).split()[0].lower()}-{isa}-{m['cores']}c"


def run(run: Run) -> None:
    PROFILES.mkdir(exist_ok=True)
    for name in run.options.models or MODELS[: 1 if run.quick else None]:
        job = experiment(name, rows_scale=0.01 if run.quick else 1.0)
        with dr.Node(job.node) as node:
            found = measure_profile(node, job, 1.0 if run.quick else SECONDS)
        file = PROFILES / f"{machine_name(found)}-{name}.json"
        if not run.quick:
            file.write_text(json.dumps(plain(found.to_json()), indent=1) + "\n")
        print(f"{file.name}: {len(found.points)} points", flush=True)


BENCHMARK = Benchmark(__file__, __doc__, run, models=MODELS)

if __name__ == "__main__":
    BENCHMARK.main()
