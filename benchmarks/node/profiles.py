"""Latency profiles of all eight models on this machine, kept in `profiles/` for simulations.

python -m benchmarks.node.profiles [MODEL ...]     about half a minute a model; keep the machine idle
"""

from __future__ import annotations

import sys

from benchmarks.harness import ROOT
from benchmarks.search.eight_models import MODELS
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.trials import measure_profile
from deeprecsys.cli.output import write_json
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.node.node import Node

SECONDS = 20.0
FOLDER = ROOT / "profiles"


def machine_name(profile: LatencyProfile) -> str:
    """Vendor, vector width and cores of the machine: what a profile's file is named by."""
    m = profile.machine
    vendor = str(m["cpu"]).split()[0].lower()
    isa = "avx512" if "avx512f" in m["isa"] else "avx2"
    return f"{vendor}-{isa}-{m['cores']}c"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MODELS:
        job = Experiment.resolve(
            model_name=name, rows_scale=1.0, engine="eager", precision="fp32", threads=1, workers=None,
            seed=0, locality="zipf:0.9",
        )  # fmt: skip
        with Node(job.node) as node:
            found = measure_profile(node, job, SECONDS)
        file = FOLDER / f"{machine_name(found)}-{name}.json"
        write_json("profile", file, found.to_json())
        print(f"{file.name}: {len(found.points)} points", flush=True)


if __name__ == "__main__":
    main()
