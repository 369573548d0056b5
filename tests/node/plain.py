"""An engine without torch, which takes a worker most of the time that it needs to start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeprecsys.engine import Assembly, SliceView
from deeprecsys.zoo.schema import Per, SparseInput

PLAIN = f"{__name__}:PlainEngine"


class PlainEngine:
    """A linear network at fp32, with a weight of its own for each column of a table and each look-up.

    It tells whether a node scores the right rows by the right version. An id above its table is an error.
    """

    def __init__(self, assembly: Assembly) -> None:
        assert assembly.precision == "fp32"
        schema, rng = assembly.model.schema, np.random.default_rng(assembly.seed)

        def weights(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))

        self._parts = []
        for i in schema.inputs:
            pool, values = assembly.inputs[i.name], None
            if isinstance(i, SparseInput):
                table = assembly.tables[i.table]
                values = table @ weights(table.shape[1], schema.outputs)
            by_column = weights(pool.shape[1], 1 if isinstance(i, SparseInput) else schema.outputs)
            self._parts.append((i.name, i.per, pool, values, by_column))

    def score(self, slices: Sequence[SliceView]) -> None:
        for s in slices:
            s.out[...] = 0
            for name, per, pool, values, by_column in self._parts:
                first = s.first[name]
                rows = pool[first : first + 1] if per is Per.QUERY else pool[first + s.start : first + s.stop]
                s.out[...] += rows @ by_column if values is None else (values[rows] * by_column).sum(1)
