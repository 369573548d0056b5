"""What every model of the zoo offers. No torch here: a node's parent plans without loading it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, Self

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.schema import Per, Schema, Table

if TYPE_CHECKING:
    import torch

MIN_ROWS = 16
"""No scaled table is smaller: ids must stay able to differ."""

MAX_ROWS = 2**31 - 1
"""Ids are int32."""


class Model(Protocol):
    """A frozen configuration: what the model reads, what it costs, and how to build its dense stage."""

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
        """Weights and biases of the dense stage; embedding tables are not among them."""

    def flops(self, per: Per) -> int:
        """2 x multiply-adds of dense, attention and recurrent layers, per item or once per slice.

        The per-query part is computed once per *slice*: cutting a query repeats it.
        """

    def scaled(self, rows_scale: float) -> Self:
        """The same model with `rows_scale` times the rows in every table, at least `MIN_ROWS`.

        Raises:
            InputError: `rows_scale` is not a finite number above 0.
        """

    def dense_stage(self) -> torch.nn.Module:
        """A new dense stage, its weights still to be set by `networks.initialise`. Imports torch."""


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
    scaled = tuple(replace(t, rows=max(MIN_ROWS, round(t.rows * rows_scale))) for t in tables)
    for t in scaled:
        if t.rows > MAX_ROWS:
            raise InputError(f"rows scale: table {t.name!r} would have {t.rows} rows, at most {MAX_ROWS} fit")
    return scaled
