"""Eager's scores of a client's queries for every version of a model's weights, computed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.serve.load.offer import Requests
from deeprecsys.zoo import model
from deeprecsys.zoo.tables import fill_rows

ATOL, RTOL = 1e-4, 1e-3
"""By how much the compiled engine's scores may differ from eager's."""

Scores = NDArray[np.float32]


class VersionScores:
    """The scores of queries of `kinds` kinds and any size, by version: "1" of seed 0, "2" of seed 1, …

    An item's score does not depend on the query's other items, so a query's scores are the first ones of the
    largest query of its kind.
    """

    def __init__(self, name: str, rows_scale: float, largest: int, kinds: int, versions: int) -> None:
        self._model, self._largest = model(name).scaled(rows_scale), largest
        self.kinds, self.requests = kinds, Requests(self._model.schema, largest, 0, kinds)
        self._by_version = {str(1 + seed): self._scored(seed) for seed in range(versions)}

    def _scored(self, seed: int) -> Sequence[Scores]:
        schema = self._model.schema
        tables = {t.name: np.empty((t.rows, t.dim), np.float32) for t in schema.tables}
        for i, table in enumerate(schema.tables):
            fill_rows(table, tables[table.name], seed=(seed, i))
        features = self.requests.arrays
        engine = build("eager", Assembly(self._model, tables, features, seed))
        found = []
        for kind in range(self.kinds):
            scores = np.empty((self._largest, schema.outputs), np.float32)
            engine.score([SliceView(dict.fromkeys(features, kind), 0, self._largest, scores)])
            found.append(scores)
        return found

    @property
    def least_difference(self) -> float:
        """How far the scores of two successive versions differ at least, over all kinds of queries."""
        return min(
            float(np.abs(a - b).max())
            for old, new in pairwise(self._by_version.values())
            for a, b in zip(old, new, strict=True)
        )

    def right(self, version: str, kind: int, size: int, body: bytes) -> bool:
        """Whether a binary answer has the scores of the version that it names."""
        wanted = self._by_version.get(version)
        if wanted is None or len(body) != 4 * size * wanted[kind].shape[1]:
            return False
        found = np.frombuffer(body, "<f4").reshape(size, -1)
        return bool(np.allclose(found, wanted[kind][:size], atol=ATOL, rtol=RTOL))
