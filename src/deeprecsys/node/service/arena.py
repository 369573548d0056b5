"""Where a model's queries and tables lie in a service's shared memory.

Every per-item input, and the scores, have one row per item, and a query takes one contiguous run of them; a
per-query input has one row per slot, and a query takes one slot. So two numbers say where all of a query
is: its first row and its slot. They cross to a worker in the mailbox, and nothing is copied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.engine import Assembly, SliceView
from deeprecsys.node.runtime.mailbox import SliceAddress
from deeprecsys.node.runtime.memory import (
    available_bytes,
    load_own,
    table_arrays,
    table_offsets,
    write_float32,
)
from deeprecsys.node.runtime.segment import Segment, round_up
from deeprecsys.node.service.rows import STEP
from deeprecsys.zoo import Model, model
from deeprecsys.zoo.custom import Own, adopt
from deeprecsys.zoo.rows import RowFormat
from deeprecsys.zoo.schema import Per, Schema
from deeprecsys.zoo.tables import fill_rows

_ALIGN = 64
FREE_SHARE = 0.9
"""Of the memory that is free; the rest is for the processes themselves."""


@dataclass(frozen=True, slots=True)
class ArenaPlan:
    """What fixes the layout of a model's memory; every process derives the same from it.

    Attributes:
        model: as `zoo.model` knows it; rows_scale: a factor on its tables' rows.
        rows: of every per-item input, and of the scores.
        slots: rows of every per-query input.
        precision: the lowest allowed; tables are stored in its format (`zoo.rows`).
    """

    model: str
    rows_scale: float
    rows: int
    slots: int
    precision: str = "fp32"

    @classmethod
    def sized(
        cls,
        name: str,
        rows_scale: float,
        precision: str = "fp32",
        *,
        max_items: int,
        max_queries: int,
        most_bytes: int,
    ) -> ArenaPlan:
        """Room for `max_queries` queries of `max_items` items, or for as many as fit in `most_bytes`.

        Raises:
            InputError: not even one query fits.
        """
        schema = model(name).scaled(rows_scale).schema
        per_row = schema.feature_bytes(Per.ITEM) + 4 * schema.outputs
        per_slot = schema.feature_bytes(Per.QUERY)
        left = most_bytes - max_queries * per_slot
        rows = min(max_queries * round_up(max_items, STEP), left // per_row // STEP * STEP)
        if rows < max_items:
            raise InputError(
                f"{name}: expected a memory for queries that holds one of {max_items} items and "
                f"{max_queries} slots, {round_up(max_items, STEP) * per_row + max_queries * per_slot} bytes, "
                f"got {most_bytes}"
            )
        return cls(name, rows_scale, rows, max_queries, precision)

    def built(self) -> Model:
        return model(self.model).scaled(self.rows_scale)

    def schema(self) -> Schema:
        return self.built().schema

    def places(self) -> dict[str, tuple[int, tuple[int, int], type[np.generic]]]:
        """Of each input: byte offset, shape, dtype; and the whole's size under the name ""."""
        found: dict[str, tuple[int, tuple[int, int], type[np.generic]]] = {}
        at = 0
        for i in self.schema().inputs:
            rows = self.rows if i.per is Per.ITEM else self.slots
            found[i.name] = (at, (rows, i.width), i.dtype.type)
            at = round_up(at + rows * i.bytes, _ALIGN)
        return {**found, "": (at, (0, 0), np.float32)}

    def sizes(self) -> dict[str, int]:
        """Bytes of each segment. A user's own model is one, for the workers to know what was found out."""
        schema, own = self.schema(), model(self.model)
        described = {"model": len(own.pack())} if isinstance(own, Own) else {}
        return {
            **described,
            "tables": table_offsets(schema, self.precision)[""],
            "inputs": self.places()[""][0],
            "scores": self.rows * schema.outputs * 4,
        }


class Arena:
    """The inputs and scores of one model's queries, mapped into this process.

    Attributes:
        inputs: by name, all rows of each; scores: float32 [rows, outputs].
    """

    def __init__(self, plan: ArenaPlan, segments: Mapping[str, Segment]) -> None:
        self.plan = plan
        self.schema = plan.schema()
        self.segments = segments
        self.inputs: dict[str, NDArray[Any]] = {
            name: segments["inputs"].array(kind, shape, at)
            for name, (at, shape, kind) in plan.places().items()
            if name
        }
        self.scores: NDArray[Any] = segments["scores"].array(np.float32, (plan.rows, self.schema.outputs))
        self._per_item = [(i.name, i.per is Per.ITEM) for i in self.schema.inputs]
        self._blocks = [(self._block(b.names), b.per is Per.ITEM) for b in self.schema.blocks]

    def _block(self, names: Sequence[str]) -> NDArray[Any]:
        """Inputs that are alike as one array: they follow one another at one distance."""
        first = self.inputs[names[0]]
        at = [i.ctypes.data for i in (self.inputs[n] for n in names[:2])]
        stride = at[-1] - at[0]
        return as_strided(first, (len(names), *first.shape), (stride, *first.strides))

    @classmethod
    def create(cls, plan: ArenaPlan) -> Arena:
        segments = {n: Segment.create(n, size) for n, size in plan.sizes().items() if n != "tables"}
        if isinstance(own := model(plan.model), Own):
            segments["model"].memory.raw = own.pack()
        return cls(plan, segments)

    def seat(self, row: int, slot: int, items: int) -> dict[str, NDArray[Any]]:
        """The rows of every input that belong to a query."""
        return {
            name: self.inputs[name][row : row + items] if per_item else self.inputs[name][slot : slot + 1]
            for name, per_item in self._per_item
        }

    def seat_blocks(self, row: int, slot: int, items: int) -> list[NDArray[Any]]:
        """The same by `Schema.blocks`: of each an array [inputs, rows, width]."""
        return [
            block[:, row : row + items] if per_item else block[:, slot : slot + 1]
            for block, per_item in self._blocks
        ]

    def viewer(self) -> Callable[[SliceAddress], SliceView]:
        """A function from a slice in a mailbox to the engine's view of it."""
        per_item, scores = self._per_item, self.scores

        def view(part: SliceAddress) -> SliceView:
            row, slot = part.features, part.slot
            first = {name: row if item else slot for name, item in per_item}
            return SliceView(first, part.start, part.stop, scores[row + part.start : row + part.stop])

        return view

    def close(self) -> None:
        """Drop the segments. The arrays must not be used afterwards."""
        self.inputs, self._blocks = {}, []
        for segment in self.segments.values():
            segment.close()


@dataclass(frozen=True, slots=True)
class Weights:
    """One version of a model's weights.

    Attributes:
        seed: of the dense stage, and of the tables where nobody fills them.
        model: another model of the same schema, whose dense stage is taken; None for the served one's own.
        fill: writes the tables, float32 [rows, dim] by name; called in a thread of its own. None fills them
            from the seed.
    """

    seed: int = 0
    model: str | None = None
    fill: Callable[[Mapping[str, NDArray[Any]]], None] | None = None


def load_tables(plan: ArenaPlan, weights: Weights, progress: Callable[[str, float], None]) -> Segment:
    """A new segment with the tables of a version of the weights.

    Raises:
        InputError: it does not fit in what the machine has free, or an own model's weights cannot be had.
    """
    own, schema, form = model(plan.model), plan.schema(), plan.precision
    size, fill = table_offsets(schema, form)[""], weights.fill
    weighted = isinstance(own, Own) and bool(own.keys)
    wide = table_offsets(schema)[""] if (fill or weighted) and form != RowFormat.FP32 else 0
    need, free = size + wide, available_bytes()
    if need > FREE_SHARE * free:
        raise InputError(
            f"tables of {plan.model}: {need / 2**30:.1f} GiB do not fit in {free / 2**30:.1f} GiB free"
        )
    segment = Segment.create("tables", size)
    try:
        segment.collapse()
        if fill:
            write_float32(schema, segment, form, lambda into: fill(table_arrays(schema, into)))
        elif isinstance(own, Own) and weighted:
            progress("loading weights", 0.0)
            load_own(own, segment, form)
        else:
            tables = table_arrays(schema, segment, form)
            for i, table in enumerate(schema.tables):
                progress(f"filling table {table.name}", i / len(tables))
                fill_rows(table, tables[table.name], seed=(weights.seed, i))
    except BaseException:
        segment.close()
        raise
    return segment


@dataclass(frozen=True)
class VersionSpec:
    """One version of one model, as a worker is told of it; crosses as JSON.

    Attributes:
        id: by which batches name it; fds: of the segments `tables`, `inputs` and `scores`, and of `model`
            where it is a user's own.
        network: the model whose dense stage is taken.
    """

    id: int
    plan: ArenaPlan
    network: str
    seed: int
    engine: str
    fds: dict[str, int]

    def attach(
        self, threads: int, mapped: dict[int, Segment]
    ) -> tuple[Assembly, Callable[[SliceAddress], SliceView]]:
        """A worker's view of it: what its engine is built from, and what finds a slice's rows.

        Args:
            mapped: this process's maps by descriptor; what is missing is added.
        """
        if described := self.fds.get("model"):
            adopt(os.pread(described, os.fstat(described).st_size, 0))
        for name, size in self.plan.sizes().items():
            fd = self.fds[name]
            mapped[fd] = mapped.get(fd) or Segment(fd, size, name == "scores")
        segments = {name: mapped[fd] for name, fd in self.fds.items()}
        arena = Arena(self.plan, segments)
        tables = table_arrays(arena.schema, segments["tables"], self.plan.precision)
        network = model(self.network).scaled(self.plan.rows_scale)
        assembly = Assembly(network, tables, arena.inputs, self.seed, threads, self.plan.precision)
        return assembly, arena.viewer()
