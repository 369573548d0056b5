"""The reference engine: the networks as torch runs them, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deeprecsys.core.errors import InputError
from deeprecsys.engine.protocol import Assembly, SliceView
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
        self._inputs = {name: torch.from_numpy(rows) for name, rows in assembly.inputs.items()}
        tables = {name: torch.from_numpy(rows) for name, rows in assembly.tables.items()}
        self._sparse = SparseStage(schema, tables)
        self._dense = weighted(assembly.model, assembly.seed, assembly.dense)

    @torch.inference_mode()
    def score(self, slices: Sequence[SliceView]) -> None:
        rows = {i.name: self._rows(i.name, i.per, slices) for i in self._schema.inputs}
        x = self._sparse({i.name: rows[i.name] for i in self._schema.sparse})
        x |= {i.name: rows[i.name] for i in self._schema.dense}
        items = [s.stop - s.start for s in slices]
        slice_of_item = None
        if len(slices) > 1:
            slice_of_item = torch.repeat_interleave(torch.arange(len(slices)), torch.tensor(items))
        scores = self._dense(x, slice_of_item)
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
