"""`explain_model`: what was found in a model of one's own, and what serving it takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deeprecsys.core.errors import InputError
from deeprecsys.zoo import model as named
from deeprecsys.zoo.custom import Own, with_weights
from deeprecsys.zoo.schema import Per, Pooling, Schema, SparseInput, TensorSpec

_MB = 2**20


@dataclass(frozen=True)
class ModelExplanation:
    """What was found in a model.

    Attributes:
        inputs, outputs, tables: a line for each.
        once: what is sent, gathered and computed once per query.
        merged: several queries are scored in one call.
        splittable: items are scored independently.
        notes: what was not recognised, and why.
        shared_bytes: of the tables, once per machine; worker_bytes: of the rest, in each worker.
    """

    model: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tables: tuple[str, ...]
    once: tuple[str, ...]
    merged: bool
    splittable: bool
    notes: tuple[str, ...]
    shared_bytes: int
    worker_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        items = "each by itself: queries are split" if self.splittable else "together: queries are never cut"
        together = "one call scores items of several" if self.merged else "each in a call of its own"
        parts = [
            ("inputs", self.inputs),
            ("outputs", self.outputs),
            ("tables, shared by all workers", self.tables or ("none",)),
            ("once per query", self.once or ("nothing: every input is per item",)),
            ("not recognised", self.notes or ("nothing",)),
            (
                "served",
                (
                    f"items are scored {items}",
                    f"queries in one batch: {together}",
                    f"memory: {self.shared_bytes / _MB:.1f} MiB of tables, and "
                    f"{self.worker_bytes / _MB:.1f} MiB in each worker",
                ),
            ),
        ]
        lines = [f"{self.model} ({self.kind})"]
        for head, entries in parts:
            lines += ["", head, *(f"  {line}" for line in entries)]
        return "\n".join(lines)


def explain_model(
    model: str, *, weights: str | Path | None = None, example: str | Path | None = None
) -> ModelExplanation:
    """What was found in a model of one's own: its tables, what is per item and per query, what it costs.

    Args:
        model, weights, example: as of `serve`.

    Raises:
        InputError: the model cannot be loaded or served.
    """
    own = named(with_weights(model, weights or None, example or None))
    if not isinstance(own, Own):
        raise InputError(f"MODEL: expected a model of your own, got {model!r}, which is one of the zoo")
    schema, copies = own.schema, 2 if own.merged else 1
    per_query = [i for i in schema.inputs if i.per is Per.QUERY]
    return ModelExplanation(
        own.name,
        str(own.kind),
        tuple(_input(schema, t) for t in schema.signature.inputs),
        tuple(f"{t.name} {t.datatype} {_shape(t)}" for t in schema.signature.outputs),
        tuple(_table(schema, t.name) for t in schema.tables),
        tuple(
            f"{i.name}: {'its rows and ' if isinstance(i, SparseInput) else ''}what is computed of it alone"
            for i in per_query
        ),
        bool(own.merged) or (own.splittable and not per_query),
        own.splittable,
        own.notes + ((f"engine compiled: {own.graph_error}",) if own.graph_error else ()),
        schema.table_bytes,
        copies * (len(own.graph) or 4 * own.dense_parameters),
    )  # fmt: skip


def _shape(t: TensorSpec) -> str:
    return f"[{', '.join(['n' if t.per is Per.ITEM else '1', *map(str, t.row)])}]"


def _input(schema: Schema, t: TensorSpec) -> str:
    to = []
    for feed in t.feeds:
        i = next(i for i in schema.inputs if i.name == feed.input)
        of = f"columns {', '.join(map(str, feed.columns))} " if feed.columns else ""
        to.append(of + (f"ids of {i.table}" if isinstance(i, SparseInput) else "numbers"))
    return f"{t.name} {t.datatype} {_shape(t)}, per {t.per}: {'; '.join(to)}"


def _table(schema: Schema, name: str) -> str:
    table = schema.table(name)
    how = {Pooling.SUM: "summed", Pooling.MEAN: "averaged", Pooling.CONCAT: "side by side"}
    reads = ", ".join(
        f"{i.name} {i.lookups} {how.get(i.pooling, 'one by one')}" if i.lookups > 1 else i.name
        for i in schema.sparse
        if i.table == name
    )
    return f"{name} [{table.rows}, {table.dim}], {table.bytes / _MB:.1f} MiB: read by {reads}"
