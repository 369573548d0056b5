"""A backend without a node: its scores are a known function of the inputs, and it misbehaves when told."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.allowance import Allowance
from deeprecsys.core.target import Target
from deeprecsys.node.service.backend import (
    NO_IDS,
    BatchRecord,
    LateAnswers,
    NodeLoad,
    OperatingPoint,
    QueryListener,
    QueryOutcome,
    QueryRecord,
    Reason,
    RefusedError,
    RetiredError,
    ServedModel,
    UnscoredError,
)
from deeprecsys.zoo.jagged import Ids, InputRows, offsets_of
from deeprecsys.zoo.schema import DenseInput, Per, Schema, SparseInput, Table, is_jagged

MIXED = Schema(
    tables=(Table("users", 100, 4), Table("ads", 1000, 4)),
    inputs=(
        DenseInput("dense", 3),
        SparseInput("user", "users", lookups=2, per=Per.QUERY),
        SparseInput("ad", "ads", lookups=4),
    ),
    outputs=2,
)
FLAT = Schema(tables=(Table("ads", 1000, 4),), inputs=(DenseInput("dense", 3), SparseInput("ad", "ads")))
JAGGED = Schema(
    tables=(Table("users", 100, 4), Table("ads", 1000, 4)),
    inputs=(
        DenseInput("dense", 2),
        SparseInput("history", "users", lookups=5, per=Per.QUERY, expected=2.5),
        SparseInput("tags", "ads", lookups=6, expected=2, weighted=True),
        SparseInput("ad", "ads"),
    ),
)
SCHEMAS = {"mixed": MIXED, "flat": FLAT, "jagged": JAGGED}
MAX_ITEMS = 64


def expected_scores(schema: Schema, inputs: Mapping[str, Any], items: int) -> NDArray[np.float32]:
    """Every value of an item, and of its query, told apart by its column; [items, outputs]."""
    found = np.zeros(items, np.float64)
    for number, i in enumerate(schema.inputs):
        if is_jagged(i):
            ids = _ids(inputs, i.name)
            weights = np.ones(len(ids.values)) if ids.weights is None else ids.weights.astype(np.float64)
            sums = np.zeros(len(ids.begins) - 1)
            weighted = ids.values * weights * (number + 1)
            np.add.at(sums, np.repeat(np.arange(len(sums)), np.diff(ids.begins)), weighted)
            found += sums
            continue
        values = np.asarray(inputs[i.name], np.float64)
        found += (values * (number + 1 + np.arange(values.shape[1]))).sum(axis=1)
    with np.errstate(over="ignore"):
        return np.stack([found * (o + 1) for o in range(schema.outputs)], axis=1).astype(np.float32)


def _ids(inputs: Mapping[str, Any], name: str) -> Ids:
    """A jagged input as a seat has it, or as `bodies.arrays` makes it."""
    if name in inputs:
        whole: Ids = inputs[name]
        return whole.rows(0, len(whole.begins) - 1)
    lengths = inputs[f"{name}.lengths"]
    return Ids(inputs[f"{name}.values"], offsets_of(lengths), inputs.get(f"{name}.weights"))


@dataclass
class Place:
    id: int
    model: str
    items: int
    arrival_s: float
    deadline_s: float | None
    priority: int
    inputs: Mapping[str, InputRows]
    blocks: Sequence[NDArray[Any]]
    version: str = ""


@dataclass
class StandIn:
    """Attributes say how it is to behave; `open` and `released` count seats."""

    models: dict[str, ServedModel] = field(default_factory=dict)
    ready: bool = True
    workers: Mapping[str, int] = field(default_factory=lambda: {"cpu": 2})
    refuse: Reason | None = None
    late_after_wait: bool = False
    delay_s: float = 0.0
    fail: str = ""
    open: int = 0
    cancelled: int = 0
    seats: list[Place] = field(default_factory=list)
    valid: list[bool] = field(default_factory=list)
    listeners: list[QueryListener] = field(default_factory=list)
    ids: int = 0

    @classmethod
    def of(cls, **schemas: Schema) -> StandIn:
        made = cls()
        for name, schema in (schemas or SCHEMAS).items():
            made.models[name] = ServedModel(
                name,
                "1",
                schema,
                Target(latency_s=0.1),
                MAX_ITEMS,
                "stand-in",
                True,
                True,
                {"policy": "static"},
            )
        return made

    hung = 0
    load = NodeLoad(0.25, 120.0)

    def waiting(self, model: str) -> tuple[int, int]:
        return self.open, 0

    def point(self, model: str) -> OperatingPoint:
        allowance = Allowance(0.1, 4e-4)
        return OperatingPoint("static", 32, None, 500.0, 0.0, "told so", allowance=allowance)

    def late(self, model: str) -> LateAnswers:
        return LateAnswers(3, 247.0)

    def _refused(self, model: str, items: int, arrival_s: float) -> None:
        if self.refuse:
            self._tell(model, items, arrival_s, math.nan, math.nan, QueryOutcome.SHED, self.refuse)
            raise RefusedError(self.refuse, f"refused: {self.refuse}", 0.25)

    def admit(self, model: str, items: int, *, arrival_s: float, deadline_s: float | None = None) -> None:
        self._refused(model, items, arrival_s)

    def reserve(
        self,
        model: str,
        items: int,
        *,
        arrival_s: float,
        deadline_s: float | None = None,
        priority: int = 0,
        version: str = "",
        ids: Mapping[str, int] = NO_IDS,
    ) -> Place:
        self._refused(model, items, arrival_s)
        inputs: dict[str, Any] = {}
        together = []
        for block in self.models[model].schema.blocks:
            rows = 1 if block.per is Per.QUERY else items
            together.append(
                np.full((len(block.names), rows, block.width), np.nan if block.dense else -77, block.dtype)
            )
            inputs.update(zip(block.names, together[-1], strict=True))
        for i in self.models[model].schema.jagged:  # room for as many ids as were asked for, and no more
            room, rows = (ids[i.name], items) if i.per is Per.ITEM else (i.lookups, 1)
            weights = np.full(room, np.nan, np.float32) if i.weighted else None
            inputs[i.name] = Ids(np.full(room, -77, np.int32), np.full(rows + 1, -7, np.int64), weights, 9)
        self.ids += 1
        self.open += 1
        seat = Place(self.ids, model, items, arrival_s, deadline_s, priority, inputs, together, version)
        self.seats = [*self.seats[-9:], seat]
        return seat

    async def score(self, seat: Place) -> NDArray[Any]:
        start, current = time.monotonic(), self.models[seat.model].version
        if seat.version not in ("", current):
            raise RetiredError(seat.model, seat.version, current)
        seat.version = current
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            self._tell(seat.model, seat.items, seat.arrival_s, start, math.nan, QueryOutcome.CANCELLED, "")
            raise
        if self.late_after_wait:
            self._tell(
                seat.model, seat.items, seat.arrival_s, math.nan, math.nan, QueryOutcome.SHED, Reason.LATE
            )
            raise RefusedError(Reason.LATE, "waited past its deadline", 0.01)
        if self.fail:
            self._tell(
                seat.model, seat.items, seat.arrival_s, start, time.monotonic(), QueryOutcome.FAILED, "fault"
            )
            raise UnscoredError(self.fail, bad_input=False)
        schema = self.models[seat.model].schema
        for i in schema.sparse:
            rows = schema.table(i.table).rows
            found: Any = _ids(seat.inputs, i.name).values if i.jagged else seat.inputs[i.name]
            bad = (found < 0) | (found >= rows)
            if bad.any():
                raise UnscoredError(f"input {i.name!r}: expected ids from 0 to {rows - 1}", bad_input=True)
        scores = expected_scores(schema, seat.inputs, seat.items)
        end = time.monotonic()
        for listener in self.listeners:
            listener.batch_ended(BatchRecord(seat.model, "cpu", 0, seat.items, 1, start, start, end))
        self._tell(seat.model, seat.items, seat.arrival_s, start, end, QueryOutcome.SERVED, "", seat.id)
        return scores

    def release(self, seat: Place, *, valid: bool = True) -> None:
        self.open -= 1
        self.valid = [*self.valid[-9:], valid]

    def listen(self, listener: QueryListener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def _tell(
        self,
        model: str,
        items: int,
        arrival_s: float,
        start_s: float,
        finish_s: float,
        outcome: QueryOutcome,
        reason: str,
        query: int = 0,
    ) -> None:
        record = QueryRecord(
            query, model, items, arrival_s, start_s, finish_s, finish_s - start_s, 1, outcome, reason
        )
        for listener in self.listeners:
            listener.query_ended(record)
