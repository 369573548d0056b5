"""The work of a batch of a model, counted from its layers: products, gathers, operators."""

from __future__ import annotations

from dataclasses import dataclass

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.model import DenseLayer, Model, PaperModel
from deeprecsys.zoo.schema import FLOAT_BYTES, Per


@dataclass(frozen=True, slots=True)
class GatherWork:
    """Rows of one table that each item (or slice) reads."""

    rows: int
    row_bytes: int
    table_rows: int
    per: Per = Per.ITEM


@dataclass(frozen=True, slots=True)
class Work:
    """A batch's work.

    Attributes:
        name: the model.
        layers, gathers: in order.
        operators: launches of a framework per batch: one per gather, two per layer and step (the product and
            what follows it), one to join the features.
        table_bytes: all embedding tables.
        input_bytes: features of an item, ids included; what a transfer to an accelerator moves.
    """

    name: str
    layers: tuple[DenseLayer, ...]
    gathers: tuple[GatherWork, ...]
    operators: int
    table_bytes: int
    input_bytes: int

    @property
    def weight_bytes(self) -> int:
        return sum(x.weight_bytes for x in self.layers)

    def flops(self, items: int) -> int:
        return sum(x.flops * (items if x.per is Per.ITEM else 1) for x in self.layers)

    def gathered_bytes(self, items: int) -> int:
        return sum(g.rows * g.row_bytes * (items if g.per is Per.ITEM else 1) for g in self.gathers)

    def activation_bytes(self, items: int) -> int:
        return sum(x.activation_bytes * (items if x.per is Per.ITEM else 1) for x in self.layers)


def work_of(model: Model) -> Work:
    """The work of a model of the zoo; InputError for any other."""
    if not isinstance(model, PaperModel):
        raise InputError(f"model: expected one of the zoo's, got {type(model).__name__}")
    layers, schema = tuple(model.layers), model.schema
    gathers = []
    for i in schema.sparse:
        table = schema.table(i.table)
        gathers.append(GatherWork(round(i.mean_lookups), table.dim * FLOAT_BYTES, table.rows, i.per))
    operators = len(gathers) + sum(2 * x.steps for x in layers) + 1
    return Work(
        model.name, layers, tuple(gathers), operators, schema.table_bytes, schema.feature_bytes(Per.ITEM)
    )
