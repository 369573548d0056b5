"""The experiments that benchmarks are made on: the paper's eight models, and what most of them run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import deeprecsys as dr
from benchmarks.harness import PROFILES
from deeprecsys.api.methods import tune_settings
from deeprecsys.api.virtual import NodeModel
from deeprecsys.node.runtime.layout import FeaturePool, ModelLayout, ModelMemory
from deeprecsys.paper.published import MODELS, SHORT
from deeprecsys.search.rank import Ranking

__all__ = ["MODELS", "SHORT", "experiment", "filled_memory", "kept_profile", "profile_file",
           "ranking_of", "tune_settings", "tuned"]  # fmt: skip


def experiment(name: str, **changes: Any) -> dr.Experiment:
    """A model as most benchmarks run it: eager torch at fp32, whole tables, ids by Zipf's law."""
    return dr.Experiment.resolve(name, **{"engine": "eager", **changes})


def profile_file(name: str) -> Path | None:
    """The file of a model's profile in `profiles/`; of several machines' the first."""
    return next(iter(sorted(PROFILES.glob(f"*/{name}.json"))), None)


def kept_profile(name: str) -> dr.LatencyProfile:
    """A model's profile of `profiles/`."""
    file = profile_file(name)
    if file is None:
        raise FileNotFoundError(f"no profile of {name} in {PROFILES}")
    return dr.LatencyProfile.from_json(json.loads(file.read_text()))


def ranking_of(job: dr.Experiment, profile: dr.LatencyProfile, workers: int) -> Ranking:
    """A ranking of policies in virtual time, from about the load that saturates the static baseline."""
    node = NodeModel.of(job, profile, workers)
    return Ranking(node.path(), job.target, node.saturation_qps())


def filled_memory(
    name: str, scale: float, items: int, locality: str = "uniform", rows: str = "fp32"
) -> ModelMemory:
    """A model's tables, and features of queries of up to `items` items."""
    pool = FeaturePool(items, max_open=1, locality=locality)
    return ModelMemory.of_trials(ModelLayout(name, scale, rows, pool), seed=0)


def tuned(name: str, *options: str) -> dict[str, Any]:
    """The document of the command `tune`, and how long the whole command took (`wall_s`)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "-m", "deeprecsys", "tune", name, "--json", str(file), *options]
        began = time.monotonic()
        ended = subprocess.run(command, stdout=subprocess.DEVNULL)
        if ended.returncode:
            raise SystemExit(f"{' '.join(command)}: exit status {ended.returncode}")
        return {**json.loads(file.read_text()), "wall_s": time.monotonic() - began}
