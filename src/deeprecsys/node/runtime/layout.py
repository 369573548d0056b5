"""Where a model's tables, inputs and scores lie in a node's shared memory.

A layout is a few numbers from which every process of the node derives the same addresses. Inputs lie either
in a pool of features that were drawn beforehand (`FeaturePool`, for trials) or in rows that queries are
written into as they come (`QueryArena`, for a service); everything else is common to both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Policy
from deeprecsys.engine import Assembly, EngineSpec, SliceView
from deeprecsys.node.runtime.mailbox import COMPUTES, SliceAddress
from deeprecsys.node.runtime.segment import Segment, round_up
from deeprecsys.node.runtime.tables import ALIGN, Progress, Weights, load_tables, table_arrays, table_offsets
from deeprecsys.workload.features import FeatureLayout
from deeprecsys.workload.lengths import HEAVY
from deeprecsys.zoo import Model, model
from deeprecsys.zoo.custom import Own, register
from deeprecsys.zoo.jagged import Ids, InputRows
from deeprecsys.zoo.schema import Per, Schema, SparseInput, is_jagged
from deeprecsys.zoo.tensor_file import TensorFile

DENSE = "dense"
"""Name of the segment with a dense stage's weights."""
STEP = 16
"""Runs of an arena's rows begin and end at multiples of this: no two queries share a cache line of scores."""

OFFSETS, WEIGHTS = ".offsets", ".weights"
"""Suffixes of a jagged input's arrays: NAME.offsets and NAME.weights."""

Viewer = Callable[[SliceAddress], SliceView]
"""Turns the address of a slice, as it stands in a mailbox, into the engine's view of it."""


@dataclass(frozen=True, slots=True)
class FeaturePool:
    """Features drawn beforehand: a query's handle fixes which rows are its own, its slot where scores go.

    Attributes:
        max_query: the most items of one query.
        max_open: the most queries that can be open at once, each with a slot for its scores.
        locality: feature locality, `uniform` or `zipf:S`.
        lookups: how many ids the rows of jagged inputs have (`workload.lengths`).
        llc_bytes: last-level cache; the pool touches at least eight times as much.
        pool_bytes: the most that the pool may take.
    """

    max_query: int = 1024
    max_open: int = 16384
    locality: str = "zipf:0.9"
    llc_bytes: int = 32 << 20
    pool_bytes: int = 512 << 20
    lookups: str = HEAVY

    @property
    def score_rows(self) -> int:
        return self.max_open * self.max_query

    def features(self, schema: Schema) -> FeatureLayout:
        return FeatureLayout.plan(
            schema, self.max_query, self.llc_bytes, self.pool_bytes, self.locality, self.lookups
        )

    def bytes(self, schema: Schema) -> int:
        return self.features(schema).size

    def arrays(self, schema: Schema, segment: Segment) -> dict[str, InputRows]:
        return self.features(schema).views(segment.memory)

    def slots(self, scores: NDArray[Any]) -> NDArray[Any]:
        """The score rows by slot: [max_open, max_query, outputs]."""
        return scores.reshape(self.max_open, self.max_query, -1)

    @property
    def most_open(self) -> int:
        return self.max_open

    def viewer(self, schema: Schema, scores: NDArray[Any], users: NDArray[Any]) -> Viewer:
        by_slot, rows_at = self.slots(scores), self.features(schema).rows_at

        def view(part: SliceAddress) -> SliceView:
            slot, features, start, stop, stage = part
            user = None if stage == COMPUTES else users[slot : slot + 1]
            return SliceView(rows_at(features), start, stop, by_slot[slot, start:stop], user)

        return view


@dataclass(frozen=True, slots=True)
class QueryArena:
    """Rows for queries that are written as they come.

    Every per-item input, and the scores, have one row per item, and a query takes one contiguous run of them;
    a per-query input has one row per slot, and a query takes one slot. So two numbers say where all of a
    query is: its first row and its slot. They cross to a worker in the mailbox, and nothing is copied.

    A jagged input has room for `SparseInput.capacity` ids per row. A query whose rows have more takes more
    rows, and one more for the end of its offsets. Per query a slot has room for the longest row, and two
    offsets.

    Attributes:
        rows: of every per-item input, and of the scores; slots: rows of every per-query input.
    """

    rows: int
    slots: int

    @classmethod
    def sized(
        cls, name: str, schema: Schema, *, max_items: int, max_queries: int, most_bytes: int
    ) -> QueryArena:
        """Room for `max_queries` queries of `max_items` items, or for as many as fit in `most_bytes`.

        Raises:
            InputError: not even one query fits.
        """
        per_row = schema.feature_bytes(Per.ITEM) + 4 * schema.outputs
        per_slot = schema.feature_bytes(Per.QUERY)
        per_item = (i for i in schema.jagged if i.per is Per.ITEM)
        least = max([max_items, *(1 + -(-max_items * i.lookups // i.capacity) for i in per_item)])
        left = most_bytes - max_queries * per_slot
        rows = min(max_queries * round_up(least, STEP), left // per_row // STEP * STEP)
        if rows < least:
            raise InputError(
                f"{name}: expected a memory for queries that holds one of {max_items} items and "
                f"{max_queries} slots, {round_up(least, STEP) * per_row + max_queries * per_slot} bytes, "
                f"got {most_bytes}"
            )
        return cls(rows, max_queries)

    @property
    def score_rows(self) -> int:
        return self.rows

    def rows_of(self, schema: Schema, items: int, ids: Mapping[str, int]) -> int:
        """Rows that a query takes.

        Args:
            ids: how many it has in each jagged per-item input, by name; empty where there are none.
        """
        if not ids:
            return items
        capacity = {i.name: i.capacity for i in schema.jagged}
        return max(items + 1, *(-(-count // capacity[name]) for name, count in ids.items()))

    def _places(self, schema: Schema) -> dict[str, tuple[int, tuple[int, ...], type[np.generic]]]:
        """Byte offset, shape and dtype of each array; the size of all under the name ""."""
        found: dict[str, tuple[int, tuple[int, ...], type[np.generic]]] = {}
        at = 0

        def place(name: str, shape: tuple[int, ...], kind: type[np.generic]) -> None:
            nonlocal at
            found[name] = (at, shape, kind)
            at = round_up(at + int(np.prod(shape)) * np.dtype(kind).itemsize, ALIGN)

        for i in schema.inputs:
            rows = self.rows if i.per is Per.ITEM else self.slots
            if not isinstance(i, SparseInput) or not i.jagged:
                place(i.name, (rows, i.width), i.dtype.type)
                continue
            ids = rows * (i.capacity if i.per is Per.ITEM else i.lookups)
            place(i.name, (ids,), i.dtype.type)
            place(i.name + OFFSETS, (rows + 1 if i.per is Per.ITEM else 2 * rows,), np.int64)
            if i.weighted:
                place(i.name + WEIGHTS, (ids,), np.float32)
        return {**found, "": (at, (0, 0), np.float32)}

    def bytes(self, schema: Schema) -> int:
        return self._places(schema)[""][0]

    def arrays(self, schema: Schema, segment: Segment) -> dict[str, InputRows]:
        places = self._places(schema).items()
        found = {name: segment.array(kind, shape, at) for name, (at, shape, kind) in places if name}
        return {
            i.name: Ids(found[i.name], found[i.name + OFFSETS], found.get(i.name + WEIGHTS))
            if is_jagged(i)
            else found[i.name]
            for i in schema.inputs
        }

    @property
    def most_open(self) -> int:
        return self.slots

    def viewer(self, schema: Schema, scores: NDArray[Any], users: NDArray[Any]) -> Viewer:
        per_item = [(i.name, i.per is Per.ITEM, 1 + is_jagged(i)) for i in schema.inputs]

        def view(part: SliceAddress) -> SliceView:
            slot, row, start, stop, stage = part
            first = {name: row if item else each * slot for name, item, each in per_item}
            user = None if stage == COMPUTES else users[slot : slot + 1]
            return SliceView(first, start, stop, scores[row + start : row + stop], user)

        return view


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """What fixes the layout of one model's memory.

    Attributes:
        model: as `zoo.model` knows it; rows_scale: factor on its tables' rows.
        precision: format of the tables' rows, and the lowest that may be computed in.
        inputs: where the features of queries lie.
    """

    model: str
    rows_scale: float
    precision: str
    inputs: FeaturePool | QueryArena

    @classmethod
    def from_json(cls, doc: dict[str, Any]) -> ModelLayout:
        kind = FeaturePool if "locality" in doc["inputs"] else QueryArena
        return cls(**{**doc, "inputs": kind(**doc["inputs"])})

    def built(self) -> Model:
        return model(self.model).scaled(self.rows_scale)

    def schema(self) -> Schema:
        return self.built().schema

    def sizes(self) -> dict[str, int]:
        """Bytes of each segment. A user's own model has one more, with the description of its artefact."""
        built, own = self.built(), model(self.model)
        schema, described = built.schema, {"model": len(own.pack())} if isinstance(own, Own) else {}
        return {
            **described,
            **({"users": 4 * built.user_stage * self.inputs.most_open} if built.user_stage else {}),
            "tables": table_offsets(schema, self.precision)[""],
            "inputs": self.inputs.bytes(schema),
            "scores": self.inputs.score_rows * schema.outputs * 4,
        }

    def load_tables(self, weights: Weights, progress: Progress, more_bytes: int = 0) -> Segment:
        """See `tables.load_tables`."""
        return load_tables(self.model, self.rows_scale, self.precision, weights, progress, more_bytes)


class ModelMemory:
    """The segments of one model, mapped into this process, and the arrays in them.

    Attributes:
        tables: by name; empty where the segments hold none.
        inputs: by name, all rows of each; scores: float32 [rows, outputs].
        users: float32 [queries, `Model.user_stage`], what user stages gave.
    """

    def __init__(self, layout: ModelLayout, segments: Mapping[str, Segment]) -> None:
        self.layout = layout
        self.schema = layout.schema()
        self.segments = segments
        self.tables: dict[str, NDArray[Any]] = (
            table_arrays(self.schema, segments["tables"], layout.precision) if "tables" in segments else {}
        )
        self.inputs: dict[str, InputRows] = layout.inputs.arrays(self.schema, segments["inputs"])
        shape = (layout.inputs.score_rows, self.schema.outputs)
        self.scores: NDArray[Any] = segments["scores"].array(np.float32, shape)
        kept = (layout.inputs.most_open, layout.built().user_stage)
        self.users: NDArray[Any] = (
            segments["users"].array(np.float32, kept) if kept[1] else np.empty(kept, np.float32)
        )

    @classmethod
    def create(cls, layout: ModelLayout) -> Self:
        """New memory for inputs and scores, without tables."""
        return cls(layout, new_segments(layout))

    @classmethod
    def of_trials(cls, layout: ModelLayout, seed: int, progress: Progress | None = None) -> Self:
        """New memory with tables and a feature pool, both filled from a seed.

        Raises:
            InputError: it would not fit in what the machine has free.
        """
        say = progress or (lambda _what, _share: None)
        more_bytes = sum(size for name, size in layout.sizes().items() if name != "tables")
        tables = layout.load_tables(Weights(seed), say, more_bytes)
        try:
            memory = cls(layout, {"tables": tables, **new_segments(layout)})
        except BaseException:
            tables.close()
            raise
        pool = memory.segments["inputs"]
        pool.collapse()
        say("filling features", 0.0)
        memory.features.fill(pool.memory, seed)
        say("filling features", 1.0)
        return memory

    @cached_property
    def features(self) -> FeatureLayout:
        """The pool's features: from a query's handle to its rows."""
        assert isinstance(self.layout.inputs, FeaturePool)
        return self.layout.inputs.features(self.schema)

    def viewer(self) -> Viewer:
        return self.layout.inputs.viewer(self.schema, self.scores, self.users)

    @property
    def fds(self) -> dict[str, int]:
        return {name: s.fd for name, s in self.segments.items()}

    def close(self) -> None:
        """Drop the segments. The arrays must not be used afterwards."""
        self.tables, self.inputs = {}, {}
        for segment in self.segments.values():
            segment.close()


def new_segments(layout: ModelLayout) -> dict[str, Segment]:
    """New segments of a layout, but for its tables."""
    segments: dict[str, Segment] = {}
    try:
        for name, size in layout.sizes().items():
            if name != "tables":
                segments[name] = Segment.create(name, size)
    except BaseException:
        for segment in segments.values():
            segment.close()
        raise
    if isinstance(own := model(layout.model), Own):
        segments["model"].memory.raw = own.pack()
    return segments


def check_stage(policy: Policy, model: Model, engine: str) -> None:
    """Raise InputError if a policy runs user stages, and the model or the engine has none."""
    if not policy.user_first or (model.user_stage and EngineSpec.parse(engine).user_stage):
        return
    raise InputError(
        f"policy {policy.name}: expected a model with a user stage and engine compiled, "
        f"got engine {engine} and a model {'with' if model.user_stage else 'without'} one"
    )


@dataclass(frozen=True)
class VersionSpec:
    """One version of one model, as a worker needs it; crosses as JSON.

    Attributes:
        id: by which batches name it.
        fds: descriptors of the segments that `ModelLayout.sizes` names, and `DENSE` of the dense stage's
            weights (`zoo.tensor_file`) where they do not come from the seed.
        network: the model whose dense stage is taken; seed: of its weights.
    """

    id: int
    layout: ModelLayout
    network: str
    seed: int
    engine: str
    fds: dict[str, int]

    @classmethod
    def from_json(cls, doc: dict[str, Any]) -> VersionSpec:
        return cls(**{**doc, "layout": ModelLayout.from_json(doc["layout"])})

    def attach(
        self, threads: int, mapped: dict[int, Segment], reading: AbstractContextManager[Any]
    ) -> tuple[Assembly, Viewer]:
        """What a worker's engine is built from, and what finds a slice's rows.

        Only scores, and what user stages give, can be written.

        Args:
            mapped: this process's maps by descriptor; what is missing is added.
            reading: see `Assembly.reading`.
        """
        if described := self.fds.get("model"):
            register(os.pread(described, os.fstat(described).st_size, 0))
        for name, size in self.layout.sizes().items():
            fd = self.fds[name]
            mapped[fd] = mapped.get(fd) or Segment(fd, size, name in ("scores", "users"))
        memory = ModelMemory(
            self.layout, {name: mapped[fd] for name, fd in self.fds.items() if name != DENSE}
        )
        network = model(self.network).scaled(self.layout.rows_scale)
        precision = self.layout.precision
        dense = TensorFile(self.fds[DENSE], "weights") if DENSE in self.fds else None
        assembly = Assembly(
            network, memory.tables, memory.inputs, self.seed, threads, precision, dense, reading
        )
        return assembly, memory.viewer()
