"""A small instance of any model of the zoo, and queries to score with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from deeprecsys.zoo import Model, model
from deeprecsys.zoo.networks import weighted
from deeprecsys.zoo.networks.sparse import SparseStage
from deeprecsys.zoo.schema import Per, Schema
from deeprecsys.zoo.tables import fill

TOLERANCE = 1e-5
"""Of scores, relative to max(1, |score|): float32 sums in another order, nothing more."""

Features = dict[str, Tensor]
"""One query's features: ids and dense values by input name; one row where the input is per query."""


def make_tables(schema: Schema) -> dict[str, Tensor]:
    tables = {}
    for index, t in enumerate(schema.tables):
        rows = np.empty((t.rows, t.dim), dtype=np.float32)
        fill(rows, (5, index))
        tables[t.name] = torch.from_numpy(rows)
    return tables


@dataclass(frozen=True)
class Instance:
    """A model with tables of order 1 and seeded weights."""

    config: Model
    sparse: SparseStage
    dense: nn.Module

    @property
    def schema(self) -> Schema:
        return self.config.schema

    def query(self, size: int, seed: int) -> Features:
        """A query of `size` items with random features."""
        rng = np.random.default_rng(seed)
        x = {}
        for i in self.schema.inputs:
            n = size if i.per is Per.ITEM else 1
            if i in self.schema.sparse:
                rows = self.schema.table(i.table).rows
                lookups = int(i.expected or i.lookups)
                x[i.name] = torch.from_numpy(rng.integers(rows, size=(n, lookups), dtype=np.int32))
            else:
                x[i.name] = torch.from_numpy(rng.standard_normal((n, i.width), dtype=np.float32))
        return x

    def part(self, x: Features, start: int, stop: int) -> Features:
        """Items `start` to `stop` of a query."""
        return {i.name: x[i.name][start:stop] if i.per is Per.ITEM else x[i.name] for i in self.schema.inputs}

    def stages(self, x: Features) -> Features:
        """The dense stage's input."""
        pooled = self.sparse({i.name: x[i.name] for i in self.schema.sparse})
        return pooled | {i.name: x[i.name] for i in self.schema.dense}

    @torch.inference_mode()
    def score(self, x: Features) -> Tensor:
        """[items, outputs] of one slice."""
        return self.dense(self.stages(x), None)

    @torch.inference_mode()
    def score_merged(self, parts: list[Features], sizes: list[int]) -> Tensor:
        """[all items, outputs] of several slices in one batch."""
        x = {i.name: torch.cat([p[i.name] for p in parts]) for i in self.schema.inputs}
        slice_of_item = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        return self.dense(self.stages(x), slice_of_item)


def instantiate(config: Model, rows_scale: float = 1e-4) -> Instance:
    small = config.scaled(rows_scale)
    return Instance(small, SparseStage(small.schema, make_tables(small.schema)), weighted(small, seed=3))


@cache
def instance(name: str) -> Instance:
    return instantiate(model(name))


def error(got: Tensor, expected: Tensor) -> float:
    """Largest |got - expected| / max(1, |expected|)."""
    assert got.shape == expected.shape
    return float(((got - expected).abs() / expected.abs().clamp(min=1)).max())
