"""The reference engine: the networks as torch runs them, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deeprecsys.core.errors import InputError
from deeprecsys.engine.protocol import Assembly, SliceView
from deeprecsys.zoo.jagged import Ids
from deeprecsys.zoo.networks import weighted
from deeprecsys.zoo.networks.sparse import SparseStage
from deeprecsys.zoo.schema import Per


class EagerEngine:
    """Eager torch at fp32. Every other engine is held against its scores."""

    def __init__(self, assembly: Assembly) -> None:
        if assembly.precision != "fp32":
            raise InputError(f"precision of engine eager: expected fp32, got {assembly.precision}")
        torch.set_num_threads(assembly.threads)
        self.arithmetic = "fp32 rows, fp32 dense (torch)"
        schema = assembly.model.schema
        self._schema = schema
        inputs = assembly.inputs.items()
        self._inputs = {name: torch.from_numpy(r) for name, r in inputs if not isinstance(r, Ids)}
        self._jagged = {name: rows for name, rows in inputs if isinstance(rows, Ids)}
        tables = {name: torch.from_numpy(rows) for name, rows in assembly.tables.items()}
        self._sparse = SparseStage(schema, tables)
        self.network = weighted(assembly.model, assembly.seed, assembly.dense)

    @torch.inference_mode()
    def score(self, slices: Sequence[SliceView]) -> None:
        inputs = self._schema.inputs
        rows = {i.name: self._rows(i.name, i.per, slices) for i in inputs if i.name not in self._jagged}
        ids: dict[str, torch.Tensor | Ids] = {
            i.name: self._ids(i.name, i.per, slices) if i.name in self._jagged else rows[i.name]
            for i in self._schema.sparse
        }
        x = self._sparse(ids)
        x |= {i.name: rows[i.name] for i in self._schema.dense}
        items = [s.stop - s.start for s in slices]
        slice_of_item = None
        if len(slices) > 1:
            slice_of_item = torch.repeat_interleave(torch.arange(len(slices)), torch.tensor(items))
        scores = self.network(x, slice_of_item)
        for part, y in zip(slices, scores.split(items), strict=True):
            torch.from_numpy(part.out).copy_(y)

    def _rows(self, name: str, per: Per, slices: Sequence[SliceView]) -> torch.Tensor:
        """The batch's rows of one input: a view for one slice, a copy for several."""
        rows = self._inputs[name]
        if per is Per.QUERY:
            views = [rows[s.first[name] : s.first[name] + 1] for s in slices]
        else:
            views = [rows[s.first[name] + s.start : s.first[name] + s.stop] for s in slices]
        return views[0] if len(views) == 1 else torch.cat(views)

    def _ids(self, name: str, per: Per, slices: Sequence[SliceView]) -> Ids:
        """The batch's rows of a jagged input."""
        ids, once = self._jagged[name], per is Per.QUERY
        parts = [
            ids.rows(first, first + 1) if once else ids.rows(first + s.start, first + s.stop)
            for s in slices
            for first in (s.first[name],)
        ]
        return Ids.joined(parts)
