"""An engine without torch, which takes a worker most of the time that it needs to start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeprecsys.engine import Assembly, SliceView
from deeprecsys.zoo.schema import Per, SparseInput

PLAIN = f"{__name__}:PlainEngine"


class PlainEngine:
    """A linear network at fp32, with weights of its own for each column of each look-up.

    It tells whether a node scores the right rows by the right version. An id above its table is an error.
    """

    def __init__(self, assembly: Assembly) -> None:
        assert assembly.precision == "fp32"
        schema, rng = assembly.model.schema, np.random.default_rng(assembly.seed)
        self._parts = []
        for i in schema.inputs:
            rows, table, width = (
                assembly.inputs[i.name],
                None,
                i.lookups if isinstance(i, SparseInput) else i.width,
            )
            if isinstance(i, SparseInput):
                table = assembly.tables[i.table]
                width *= table.shape[1]
            weights = rng.standard_normal((width, schema.outputs), np.float32) / np.float32(np.sqrt(width))
            self._parts.append((i.name, i.per, rows, table, weights))

    def score(self, slices: Sequence[SliceView]) -> None:
        for s in slices:
            s.out[...] = 0
            for name, per, pool, table, weights in self._parts:
                first = s.first[name]
                rows = pool[first : first + 1] if per is Per.QUERY else pool[first + s.start : first + s.stop]
                x = rows if table is None else table[rows].reshape(len(rows), -1)
                s.out[...] += x @ weights
