"""Multi-task Wide & Deep: one set of embeddings, several task towers; and what the artefact builds of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from deeprecsys.core.errors import positive
from deeprecsys.zoo.cost import multiply_adds, parameters
from deeprecsys.zoo.model import scale_rows
from deeprecsys.zoo.schema import DenseInput, Per, Schema, SparseInput, Table

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MtWnd:
    """`tasks` parallel towers over shared embeddings, one probability each (click, like, ...).

    The paper's N is a range. N = 2, the least that is multi-task: the per-item layers of one tower
    already take 2 x (1024 x 512 + 512 x 256) FLOPs, so the 340 items of the 95th-percentile query
    cost 0.45 GFLOP per tower, against a medium target of 25 ms.

    Attributes:
        dense: width of the dense features, per query.
        user_fields: fields per query: the user's id, and the user's and context's features.
        item_fields: fields per item: its id and features. Two thirds would leave 14; 8 (id, creator,
            category, language, length, age, format, source) keep the item's part of the first layer
            small beside the 1024 x 512 layer that follows.
        rows, id_rows: rows of a feature table, and of the user's and the item's id table.
        tower: widths of one tower, without its input (everything concatenated).
    """

    name: str = "mt-wnd"
    tasks: int = 2
    dense: int = 512
    user_fields: int = 35
    item_fields: int = 8
    rows: int = 500_000
    id_rows: int = 5_000_000
    dim: int = 32
    tower: tuple[int, ...] = (1024, 512, 256, 1)
    medium_target_ms: float = 25
    bottleneck: str = "MLP"
    rows_scale: float = 1.0

    @property
    def user_features(self) -> tuple[str, ...]:
        return ("user_id", *(f"user_{i}" for i in range(1, self.user_fields)))

    @property
    def item_features(self) -> tuple[str, ...]:
        return ("item_id", *(f"item_{i}" for i in range(1, self.item_fields)))

    @cached_property
    def schema(self) -> Schema:
        tables = (
            Table(f, self.id_rows if f.endswith("id") else self.rows, self.dim)
            for f in self.user_features + self.item_features
        )
        users = (SparseInput(f, f, per=Per.QUERY) for f in self.user_features)
        items = (SparseInput(f, f) for f in self.item_features)
        return Schema(
            tables=scale_rows(tables, self.rows_scale),
            inputs=(DenseInput("dense", self.dense, Per.QUERY), *users, *items),
            outputs=self.tasks,
        )

    @property
    def user_width(self) -> int:
        return self.dense + self.user_fields * self.dim

    @property
    def item_width(self) -> int:
        return self.item_fields * self.dim

    @property
    def dense_parameters(self) -> int:
        return self.tasks * parameters(self.user_width + self.item_width, *self.tower)

    def flops(self, per: Per) -> int:
        if per is Per.QUERY:
            return 2 * self.tasks * self.user_width * self.tower[0]
        return 2 * self.tasks * multiply_adds(self.item_width, *self.tower)

    def scaled(self, rows_scale: float) -> Self:
        return replace(self, rows_scale=self.rows_scale * positive("rows scale", rows_scale))

    def dense_stage(self) -> torch.nn.Module:
        from deeprecsys.zoo.networks.mtwnd import MtWndDense

        return MtWndDense(self).eval()


@dataclass(frozen=True)
class MtWndArtefact:
    """What the artefact builds: shared layers, then one task head; every feature per item.

    `shared` ends in ReLU; the task's first layer too, its last (128 wide) in sigmoid: the "scores" are
    128 numbers per item.
    """

    name: str = "mt-wnd-artefact"
    dense: int = 512
    rows: tuple[int, ...] = (500_000,) * 41 + (5_000_000,) * 2
    dim: int = 32
    shared: tuple[int, ...] = (1024, 512)
    task: tuple[int, ...] = (256, 128)
    medium_target_ms: float = 25
    bottleneck: str = "MLP"
    rows_scale: float = 1.0

    @cached_property
    def schema(self) -> Schema:
        tables = tuple(Table(f"table_{i}", rows, self.dim) for i, rows in enumerate(self.rows))
        features = (SparseInput(f"sparse_{i}", t.name) for i, t in enumerate(tables))
        return Schema(
            tables=scale_rows(tables, self.rows_scale),
            inputs=(DenseInput("dense", self.dense), *features),
            outputs=self.task[-1],
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """All layers, the concatenated input first."""
        return (self.dense + len(self.rows) * self.dim, *self.shared, *self.task)

    @property
    def dense_parameters(self) -> int:
        return parameters(*self.widths)

    def flops(self, per: Per) -> int:
        return 0 if per is Per.QUERY else 2 * multiply_adds(*self.widths)

    def scaled(self, rows_scale: float) -> Self:
        return replace(self, rows_scale=self.rows_scale * positive("rows scale", rows_scale))

    def dense_stage(self) -> torch.nn.Module:
        from deeprecsys.zoo.networks.mtwnd import MtWndArtefactDense

        return MtWndArtefactDense(self).eval()


MT_WND = MtWnd()
MT_WND_ARTEFACT = MtWndArtefact()
