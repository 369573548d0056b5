"""The graphs that are written from a user's own, each tried against it before it is kept."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from deeprecsys.zoo.custom.merging import merged
from deeprecsys.zoo.custom.stage import GraphStage, OwnDense, random_rows
from deeprecsys.zoo.custom.user_side import split_products
from deeprecsys.zoo.graph_halves import USER, halves
from deeprecsys.zoo.onnx_session import with_weights
from deeprecsys.zoo.schema import SLICE_OF_ITEM, Per, Schema

SCALES = (1.0, 0.05)
"""Sizes of the values that are tried: of normalised inputs, and of freshly trained embeddings."""
TOLERANCE = 1e-4
"""Of scores: more than the order of a sum changes at fp32, less than items change each other's in a listwise
model."""
_BATCHES = ((1,), (5, 1, 7), (1, 1, 1, 1))
"""Items of the queries of each batch that is tried."""


class Rewritten(NamedTuple):
    """As in `Own`."""

    graph: bytes
    merged: bytes = b""
    user_stage: int = 0


@torch.inference_mode()
def rewritten(schema: Schema, graph: bytes, splits: bool) -> Rewritten:
    """What could be written from a graph; without one, or with no input per query, nothing.

    A graph that cannot be written, does not run, or scores otherwise leaves things as they are.

    Args:
        splits: items are scored independently.
    """
    users = {i.name for i in schema.inputs if i.per is Per.QUERY}
    if not graph or not users:
        return Rewritten(graph)
    found = Rewritten(graph)
    with suppress(Exception):
        cut = split_products(graph, users)
        if _same(schema, graph, cut):
            found = Rewritten(cut)
    if not splits:
        return found
    with suppress(Exception):
        found = found._replace(user_stage=_user_stage(schema, found.graph, users))
    with suppress(Exception):
        several = merged(found.graph, schema)
        if several and _each_as_alone(schema, found.graph, several):
            found = found._replace(merged=several)
    return found


def close(found: Tensor, wanted: Tensor) -> bool:
    """Whether scores are the same but for rounding."""
    limit = TOLERANCE * max(1.0, float(wanted.abs().max()))
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=0, atol=limit, equal_nan=True)


def _rows(schema: Schema, items: int, scale: float = 1.0, seed: int = 0) -> dict[str, Tensor]:
    return {name: torch.from_numpy(r) for name, r in random_rows(schema, items, scale, seed).items()}


def _same(schema: Schema, graph: bytes, other: bytes) -> bool:
    one, two = GraphStage(graph), GraphStage(other)
    return all(close(two(**rows), one(**rows)) for n in (1, 3, 12) for rows in [_rows(schema, n)])


def _user_stage(schema: Schema, graph: bytes, users: set[str]) -> int:
    """Numbers that the graph computes of the query alone, if it scores the same in two halves; else 0."""
    found = halves(graph, users)
    if found is None:
        return 0
    rows = _rows(schema, 5)
    user = GraphStage(found.user).of(rows)
    scores = GraphStage(found.items).of({**rows, USER: user})
    return found.width if close(scores, GraphStage(graph)(**rows)) else 0


def _each_as_alone(schema: Schema, graph: bytes, several: bytes) -> bool:
    """Whether the graph for items of several queries scores each as the other does."""
    alone, together = OwnDense(GraphStage(graph), schema), GraphStage(with_weights(several, graph))
    for sizes in _BATCHES:
        for scale in SCALES:
            rows = [_rows(schema, n, scale, seed) for seed, n in enumerate(sizes)]
            wanted = torch.cat([alone(r, None) for r in rows])
            joined = {name: torch.cat([r[name] for r in rows]) for name in rows[0]}
            index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
            if not close(together(**joined, **{SLICE_OF_ITEM: index}), wanted):
                return False
    return True
