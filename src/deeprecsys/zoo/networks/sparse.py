"""The sparse stage: gathers and pools embedding rows. One piece of code for every model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from deeprecsys.zoo.jagged import Ids
from deeprecsys.zoo.schema import Pooling, Schema, SparseInput


class SparseStage:
    """Looks up each sparse input's ids in its table and pools the rows, on torch's own kernels.

    Both kernels check every id as they gather it.
    """

    def __init__(self, schema: Schema, tables: Mapping[str, Tensor]) -> None:
        """
        Args:
            tables: [rows, dim] float32 by table name. They are read where they are, never copied.

        Raises:
            ValueError: a table is missing or has another shape than the schema says.
        """
        for t in schema.tables:
            shape = tuple(tables[t.name].shape) if t.name in tables else None
            if shape != (t.rows, t.dim):
                raise ValueError(f"table {t.name!r}: expected shape {(t.rows, t.dim)}, got {shape}")
        self._inputs = [(i, tables[i.table]) for i in schema.sparse]
        # Where each item's ids begin, by (items, look-ups); few differ, as batches repeat.
        self._offsets: dict[tuple[int, int], Tensor] = {}

    def __call__(self, ids: Mapping[str, Tensor | Ids]) -> dict[str, Tensor]:
        """Pooled rows by input name.

        Args:
            ids: contiguous [n, lookups] int32 by input name, `Ids` of n rows of a jagged input; n is
                the items of a per-item input and the slices of a per-query one.

        Returns:
            sum and mean: [n, dim]; concat: [n, lookups * dim]; sequence: [n, lookups, dim].

        Raises:
            RuntimeError, IndexError: an id is outside its table.
        """
        return {i.name: self._pool(i, table, ids[i.name]) for i, table in self._inputs}

    def _pool(self, i: SparseInput, table: Tensor, ids: Tensor | Ids) -> Tensor:
        if isinstance(ids, Ids):
            return _jagged(i, table, ids)
        if i.pooling is Pooling.SEQUENCE:
            return functional.embedding(ids, table)
        if i.pooling is Pooling.CONCAT or i.lookups == 1:
            return functional.embedding(ids, table).flatten(1)
        # What F.embedding_bag calls, less its 20 us of Python per call: with 40 tables they count.
        mode = 0 if i.pooling is Pooling.SUM else 1
        return torch.embedding_bag(table, ids.view(-1), self._starts(ids), False, mode)[0]

    def _starts(self, ids: Tensor) -> Tensor:
        n, lookups = ids.shape
        if (n, lookups) not in self._offsets:
            if len(self._offsets) >= 4096:
                self._offsets.clear()
            starts = torch.arange(0, n * lookups, lookups, dtype=ids.dtype, device=ids.device)
            self._offsets[n, lookups] = starts
        return self._offsets[n, lookups]


def _jagged(i: SparseInput, table: Tensor, ids: Ids) -> Tensor:
    """Pooled rows of a jagged input; those that are kept apart are followed by zeros."""
    values, offsets = torch.from_numpy(ids.values), torch.from_numpy(ids.begins).to(torch.int32)
    weights = None if ids.weights is None else torch.from_numpy(ids.weights)
    if i.pooling in (Pooling.SUM, Pooling.MEAN):
        mode = 0 if i.pooling is Pooling.SUM else 1
        return torch.embedding_bag(table, values, offsets, False, mode, False, weights, True)[0]
    lengths = torch.diff(offsets)
    rows = torch.zeros((len(lengths), i.lookups, table.shape[1]))
    place = torch.arange(i.lookups) < lengths[:, None]
    found = functional.embedding(values, table)
    rows[place] = found if weights is None else found * weights[:, None]
    return rows if i.pooling is Pooling.SEQUENCE else rows.flatten(1)
