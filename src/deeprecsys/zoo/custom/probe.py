"""Finds out by trying whether a dense stage scores each item by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.schema import DenseInput, Input, Per, Pooling, Schema

Rows = Mapping[str, NDArray[Any]]
Score = Callable[[Rows], NDArray[Any]]

ITEMS = 13
_CUTS = (0, 1, 6, ITEMS)
_SCALES = (1.0, 0.05)
"""Sizes of the values that are tried: of normalised inputs, and of freshly trained embeddings."""
_TOLERANCE = 1e-4
"""Beyond what the order of a sum does at fp32, below what items do to each other in a listwise model."""


def row_shape(schema: Schema, i: Input) -> tuple[int, ...]:
    """Shape of one row of an input as the dense stage gets it."""
    if isinstance(i, DenseInput):
        return (i.width,)
    dim = schema.table(i.table).dim
    if i.pooling is Pooling.SEQUENCE:
        return (i.lookups, dim)
    return (dim * (i.lookups if i.pooling is Pooling.CONCAT else 1),)


def random_rows(schema: Schema, items: int, scale: float = 1.0, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Standard normal rows times `scale` by input name: `items` of them, one where the input is per query."""
    rng = np.random.default_rng(seed)
    return {
        i.name: scale
        * rng.standard_normal(
            (items if i.per is Per.ITEM else 1, *row_shape(schema, i)), dtype=np.float32
        ).astype(np.float32)
        for i in schema.inputs
    }


def splittable(schema: Schema, score: Score) -> bool:
    """Whether items keep their scores in another order, and in pieces.

    Args:
        score: from rows by input name to scores [n, ...].

    Raises:
        InputError: the same rows score differently from call to call, or not with every number of items.
    """
    return all(_independent(schema, score, scale) for scale in _SCALES)


def _independent(schema: Schema, score: Score, scale: float) -> bool:
    rows = random_rows(schema, ITEMS, scale)
    whole = _call(score, rows, ITEMS)
    limit = _TOLERANCE * max(1.0, float(np.nanmax(np.abs(whole), initial=0.0)))

    def same(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
        return bool(np.allclose(found, wanted, rtol=0, atol=limit, equal_nan=True))

    if not same(_call(score, rows, ITEMS), whole):
        raise InputError("dense stage: expected the same scores for the same input, got others at each call")
    order = np.random.default_rng(1).permutation(ITEMS)
    if not same(_call(score, _taken(schema, rows, order), ITEMS), whole[order]):
        return False
    parts = [slice(a, b) for a, b in pairwise(_CUTS)]
    return all(same(_call(score, _taken(schema, rows, p), p.stop - p.start), whole[p]) for p in parts)


def _taken(schema: Schema, rows: Rows, which: slice | NDArray[np.int64]) -> Rows:
    """Some of the items, with all that is per query."""
    return {
        i.name: np.ascontiguousarray(rows[i.name][which] if i.per is Per.ITEM else rows[i.name])
        for i in schema.inputs
    }


def _call(score: Score, rows: Rows, items: int) -> NDArray[Any]:
    try:
        found = score(rows)
    except Exception as e:
        said = " ".join(str(e).split())
        raise InputError(
            f"dense stage: expected scores for {items} items, got {type(e).__name__}: {said}"
        ) from e
    if not len(found.shape) or found.shape[0] != items:
        raise InputError(f"dense stage: expected scores [{items}, ...], got shape {list(found.shape)}")
    return found
