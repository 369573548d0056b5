"""The experiments that benchmarks are made on: the paper's eight models, and what most of them run."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.harness import PROFILES
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.profiles import sample_sizes
from deeprecsys.api.virtual import sample_path
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.node.runtime.layout import FeaturePool, ModelLayout, ModelMemory
from deeprecsys.paper.published import MODELS, SHORT
from deeprecsys.search.rank import Ranking
from deeprecsys.search.saturation import saturation_qps

__all__ = ["LOCALITY", "MODELS", "SHORT", "experiment", "filled_memory", "kept_profile", "ranking_of"]

LOCALITY = "zipf:0.9"


def experiment(name: str, **changes: Any) -> Experiment:
    """A model as most benchmarks run it: eager torch at fp32, whole tables, ids by Zipf's law."""
    usual: dict[str, Any] = {"rows_scale": 1.0, "engine": "eager", "precision": "fp32", "threads": 1,
                             "workers": None, "seed": 0, "locality": LOCALITY}  # fmt: skip
    return Experiment.resolve(model=name, **{**usual, **changes})


def kept_profile(name: str, machine: str = "*") -> LatencyProfile | None:
    """A model's profile of `profiles/`: the first of those machines that match."""
    # Vendor, vector width and cores stand before the model's name, which may hold a dash itself.
    files = (f for f in sorted(PROFILES.glob(f"{machine}-*.json")) if f.stem.split("-", 3)[3:] == [name])
    file = next(files, None)
    return LatencyProfile.from_json(json.loads(file.read_text())) if file else None


def ranking_of(job: Experiment, profile: LatencyProfile, workers: int) -> Ranking:
    """A ranking of policies in virtual time, from about the load that saturates the static baseline."""
    hint = saturation_qps(profile, job.baseline(workers).batch_size, sample_sizes(job), workers)
    return Ranking(sample_path(profile, job.workload, workers, job.target), job.target, hint)


def filled_memory(
    name: str, scale: float, items: int, locality: str = "uniform", rows: str = "fp32"
) -> ModelMemory:
    """A model's tables, and features of queries of up to so many items."""
    pool = FeaturePool(items, max_open=1, locality=locality)
    return ModelMemory.of_trials(ModelLayout(name, scale, rows, pool), seed=0)
