"""Files of weights, good and bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from deeprecsys.zoo import model
from deeprecsys.zoo.networks import weighted
from tests.serve.harness import SMALL

NAME = "dlrm-rmc1"


def tensors(seed: int, name: str = NAME, rows_scale: float = SMALL.rows_scale) -> dict[str, Any]:
    """All weights of a model: tables that are not those of a seed, and a dense stage that is."""
    built, rng = model(name).scaled(rows_scale), np.random.default_rng(seed)
    tables = {t.name: torch.from_numpy(rng.random((t.rows, t.dim), np.float32)) for t in built.schema.tables}
    return tables | dense(seed, name)


def dense(seed: int, name: str = NAME) -> dict[str, Any]:
    """A model's dense stage."""
    return dict(weighted(model(name), seed).state_dict())


def write(path: Path, found: dict[str, Any]) -> Path:
    """A file with some tensors, which appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(found, part)
    return part.rename(path)
