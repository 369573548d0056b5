"""The fast CPU engine: the gather kernel writes straight into the buffers that a dense route reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.engine.dense import DenseStage, build, lowest
from deeprecsys.engine.dense.layout import aligned
from deeprecsys.engine.dense.stage import Arrays
from deeprecsys.engine.gather import Gather
from deeprecsys.engine.protocol import Assembly, SliceView
from deeprecsys.zoo.jagged import Ids
from deeprecsys.zoo.model import splittable
from deeprecsys.zoo.networks import weighted
from deeprecsys.zoo.rows import format_of
from deeprecsys.zoo.schema import Per, Schema

ROUTE = "onnxruntime"
"""The faster of the routes for nearly every model and batch (docs/design/0008-dense-stage.md)."""


class CompiledEngine:
    """Sparse and dense stage joined without a copy: `compiled`, or `compiled:ROUTE` for another dense route.

    A single slice's scores are written in place, and dense features that have a buffer to themselves are read
    in place; for several slices both are copied, a few bytes per item.

    Table rows are read in the format that they are stored in. The dense layers compute in bf16 where the
    precision allows it and the route has it on this CPU, else at fp32; `arithmetic` states which.

    Raises:
        InputError: no such route.
    """

    holds_reading = True

    def __init__(self, assembly: Assembly, route: str = ROUTE) -> None:
        model = assembly.model
        network = weighted(model, assembly.seed, assembly.dense)
        self._assembly = assembly
        dense = lowest(route, assembly.precision)
        self._stage: DenseStage = build(route, model, network, assembly.threads, dense)
        formats = sorted({str(format_of(t, assembly.tables[t.name])) for t in model.schema.tables})
        self.arithmetic = f"{', '.join(formats) or 'no'} rows, {dense} dense ({route})"
        self._per_query = self._stage.layout.per_query or not splittable(model)
        # Buffer, its one input's name, and that input's rows: read in place for a single slice.
        self._direct: list[tuple[str, str, NDArray[Any]]] = []
        for b in self._stage.layout.buffers:
            if b.direct and b.per is Per.ITEM:
                (name,) = b.places
                rows = assembly.inputs[name]
                assert not isinstance(rows, Ids), "direct buffers hold dense inputs"
                self._direct.append((b.name, name, rows))
        self._items = self._slices = 0
        self._grow(1024, 1)

    def score(self, slices: Sequence[SliceView]) -> None:
        """See `Engine.score`.

        Raises:
            IndexError: an id is outside its table, or a slice outside its input's rows.
        """
        if any(s.user is not None for s in slices):
            slices = self._staged(slices)
            if not slices:
                return
        items, slice_of_item = slices[0].stop - slices[0].start, None
        single = len(slices) == 1 and slices[0].out.flags.c_contiguous
        if len(slices) > 1:
            sizes = [s.stop - s.start for s in slices]
            items = sum(sizes)
            slice_of_item = np.repeat(np.arange(len(slices)), sizes) if self._per_query else None
        if items > self._items or len(slices) > self._slices:
            self._grow(items, len(slices))
        if single:
            self.sparse(slices)
            self.dense(slices[0])
            return
        self._gather(self._gather_all, slices)
        scores = self._scores[:items]
        self._stage.run(items, slice_of_item, scores)
        at = 0
        for s in slices:
            s.out[...] = scores[at : (at := at + s.stop - s.start)]

    def _staged(self, slices: Sequence[SliceView]) -> list[SliceView]:
        """Run the slices that write or read what a user stage gives; the others are left."""
        left = []
        for s in slices:
            items = s.stop - s.start
            if s.user is None:
                left.append(s)
                continue
            if items > self._items:
                self._grow(items, 1)
            if faults := self._gather_part[Per.ITEM if items else Per.QUERY].gather([s]):
                raise IndexError(str(faults[0]))
            if not items:
                self._stage.run_user(s.user)
            elif s.out.flags.c_contiguous:
                self._stage.run_items(items, s.user, s.out, self._overrides(s))
            else:
                self._stage.run_items(items, s.user, self._scores[:items], self._overrides(s))
                s.out[...] = self._scores[:items]
        return left

    def sparse(self, slices: Sequence[SliceView]) -> None:
        """The first half of scoring one slice: gather its rows into the dense stage's buffers."""
        self._gather(self._gather_one, slices)

    def _gather(self, gather: Gather, slices: Sequence[SliceView]) -> None:
        with self._assembly.reading:
            faults = gather.gather(slices)
        if faults:
            raise IndexError(str(faults[0]))

    def dense(self, part: SliceView) -> None:
        """The second half: score what lies in the buffers."""
        self._stage.run(part.stop - part.start, None, part.out, self._overrides(part))

    def _overrides(self, s: SliceView) -> Arrays:
        return {
            buffer: rows[s.first[name] + s.start : s.first[name] + s.stop]
            for buffer, name, rows in self._direct
        }

    def _grow(self, items: int, slices: int) -> None:
        """Make room for a larger batch."""
        self._items, self._slices = max(items, self._items), max(slices, self._slices)
        self._stage.reserve(self._items, self._slices)
        outputs = self._stage.layout.views(self._stage.buffers)
        a = self._assembly
        self._scores = aligned((self._items, a.model.schema.outputs))
        self._gather_all = Gather(a.model.schema, a.tables, a.inputs, outputs)
        self._gather_one = self._gather_all
        elsewhere = {name for _, name, _ in self._direct}
        copied = {name: view for name, view in outputs.items() if name not in elsewhere}
        if self._direct:
            self._gather_one = Gather(a.model.schema, a.tables, a.inputs, copied)
        if a.model.user_stage:
            self._gather_part = {
                per: Gather(_only(a.model.schema, per), a.tables, a.inputs, copied) for per in Per
            }


def _only(schema: Schema, per: Per) -> Schema:
    """The inputs that belong to an item, or to a query."""
    return replace(schema, inputs=tuple(i for i in schema.inputs if i.per is per), given=None)
