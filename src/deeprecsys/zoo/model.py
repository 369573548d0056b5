"""What every model of the zoo offers, and the arithmetic of its cost. No torch: nodes plan without it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, Self

from deeprecsys.core.errors import InputError, positive
from deeprecsys.zoo.schema import FLOAT_BYTES, MAX_ROWS, Per, Schema, SparseInput, Table

MIN_ROWS = 16
"""Rows of the smallest scaled table: ids must stay able to differ."""


class Model(Protocol):
    """A frozen configuration: what the model reads and costs. `zoo.networks` builds its dense stage."""

    @property
    def name(self) -> str: ...

    @property
    def medium_target_ms(self) -> float | None:
        """The paper's medium target for the p95 of query latency (docs/facts.md §2); None of a user's own."""

    @property
    def bottleneck(self) -> str:
        """What the paper names as the model's bottleneck."""

    @property
    def schema(self) -> Schema: ...

    @property
    def dense_parameters(self) -> int:
        """Weights and biases of the dense stage, without the embedding tables."""

    @property
    def user_stage(self) -> int:
        """Numbers that the user stage passes to a query's slices; 0 where there is none."""

    def flops(self, per: Per) -> int:
        """2 x multiply-adds of dense, attention and recurrent layers, per item or once per slice.

        The per-query part is computed once per *slice*: cutting a query repeats it.
        """

    def scaled(self, rows_scale: float) -> Self:
        """The model with `rows_scale` times the rows in every table, at least `MIN_ROWS`.

        Raises:
            InputError: `rows_scale` is not a finite number above 0.
        """


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A fully connected layer, or what amounts to one.

    Attributes:
        inputs, outputs: widths.
        per: whether it runs for every item, or once per slice.
        rows: rows of the product for each of those: more than one where a layer is applied to a sequence.
        steps: how often in turn: the steps of a recurrent layer, each reading the weights again.
        bare: a product of two activations: there are no weights.
    """

    inputs: int
    outputs: int
    per: Per = Per.ITEM
    rows: int = 1
    steps: int = 1
    bare: bool = False

    @property
    def flops(self) -> int:
        """2 x multiply-adds for each item (or slice); element-wise work is not counted."""
        return 2 * self.inputs * self.outputs * self.rows * self.steps

    @property
    def weight_bytes(self) -> int:
        return 0 if self.bare else self.inputs * self.outputs * FLOAT_BYTES

    @property
    def activation_bytes(self) -> int:
        """Read once, written once and read again by what follows, for each item (or slice)."""
        return (self.inputs + 2 * self.outputs) * FLOAT_BYTES * self.rows * self.steps


@dataclass(frozen=True, kw_only=True)
class PaperModel(ABC):
    """What the configurations of the paper's models share; see `Model` for the attributes.

    Attributes:
        rows_scale: factor on the rows of every table.
    """

    name: str
    medium_target_ms: float
    bottleneck: str
    rows_scale: float = 1.0

    @property
    @abstractmethod
    def layers(self) -> list[DenseLayer]:
        """All dense, attention and recurrent layers of the dense stage, in order."""

    @property
    def user_stage(self) -> int:
        """See `Model.user_stage`."""
        return 0

    def flops(self, per: Per) -> int:
        """See `Model.flops`."""
        return sum(x.flops for x in self.layers if x.per is per)

    def scaled(self, rows_scale: float) -> Self:
        """See `Model.scaled`."""
        return replace(self, rows_scale=self.rows_scale * positive("rows scale", rows_scale))


def splittable(model: Model) -> bool:
    """Whether a query of this model may be cut: all of the zoo score each item by itself."""
    return getattr(model, "splittable", True)


def scale_rows(tables: Iterable[Table], rows_scale: float) -> tuple[Table, ...]:
    """The tables with `rows_scale` times the rows, at least `MIN_ROWS`; at scale 1 as they are.

    Raises:
        InputError: a table would outgrow 32-bit ids.
    """
    if rows_scale == 1:
        return tuple(tables)
    scaled = {t: max(MIN_ROWS, round(t.rows * rows_scale)) for t in tables}
    for t, rows in scaled.items():
        if rows > MAX_ROWS:
            raise InputError(f"rows scale: table {t.name!r} would have {rows} rows, at most {MAX_ROWS} fit")
    return tuple(replace(t, rows=rows) for t, rows in scaled.items())


def numbered(
    rows: Sequence[int], dim: int, lookups: int = 1, expected: float | None = None
) -> tuple[tuple[Table, ...], tuple[SparseInput, ...]]:
    """Tables `table_0`, `table_1`, … of these rows, and for each a per-item input `sparse_i`, summed."""
    tables = tuple(Table(f"table_{i}", r, dim) for i, r in enumerate(rows))
    return tables, tuple(
        SparseInput(f"sparse_{i}", t.name, lookups, expected=expected) for i, t in enumerate(tables)
    )


def chain(*widths: int) -> list[DenseLayer]:
    """Fully connected layers, per item, one behind the other; `widths[0]` is their input."""
    return [DenseLayer(a, b) for a, b in pairwise(widths)]


def parameters(*widths: int) -> int:
    """Weights and biases of a chain of fully connected layers."""
    return sum((a + 1) * b for a, b in pairwise(widths))
