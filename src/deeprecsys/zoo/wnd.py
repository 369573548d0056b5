"""Wide & Deep (arXiv 1606.07792), and what the artefact builds of it."""

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
class Wnd:
    """A deep MLP over dense features and embeddings, plus a wide linear part over crossed features.

    Attributes:
        dense: width of the dense features.
        user_fields: fields per query, one look-up each.
        item_fields: fields per item, one look-up each.
        rows, dim: of each field's table.
        deep: widths of the deep part, without its input (everything concatenated).
        crosses: cross-product features per item, hashed into one weight table of `cross_rows` x 1
            (1606.07792 §3.1, eq. 1); 0 leaves the wide part out.
        user_per: what the dense features and user fields belong to. Per query, their share of the
            first layer runs once per slice; the artefact repeats them for every item.
    """

    name: str
    user_fields: int
    item_fields: int
    crosses: int
    user_per: Per
    dense: int = 512
    rows: int = 1_000_000
    dim: int = 32
    deep: tuple[int, ...] = (1024, 512, 256, 1)
    cross_rows: int = 1_000_000
    medium_target_ms: float = 25
    bottleneck: str = "MLP"
    rows_scale: float = 1.0

    @property
    def user_features(self) -> tuple[str, ...]:
        return tuple(f"user_{i}" for i in range(self.user_fields))

    @property
    def item_features(self) -> tuple[str, ...]:
        return tuple(f"item_{i}" for i in range(self.item_fields))

    @cached_property
    def schema(self) -> Schema:
        tables = [Table(f, self.rows, self.dim) for f in self.user_features + self.item_features]
        users = [SparseInput(f, f, per=self.user_per) for f in self.user_features]
        items = [SparseInput(f, f) for f in self.item_features]
        wide = [SparseInput("cross", "cross", self.crosses)] if self.crosses else []
        tables += [Table("cross", self.cross_rows, 1)] if self.crosses else []
        return Schema(
            tables=scale_rows(tables, self.rows_scale),
            inputs=(DenseInput("dense", self.dense, self.user_per), *users, *items, *wide),
        )

    @property
    def user_width(self) -> int:
        return self.dense + self.user_fields * self.dim

    @property
    def item_width(self) -> int:
        return self.item_fields * self.dim

    @property
    def dense_parameters(self) -> int:
        wide = self.dense if self.crosses else 0
        return parameters(self.user_width + self.item_width, *self.deep) + wide

    def flops(self, per: Per) -> int:
        user = self.user_width * self.deep[0] + (self.dense if self.crosses else 0)
        cost = 0 if per is Per.QUERY else multiply_adds(self.item_width, *self.deep)
        return 2 * (cost + user if per is self.user_per else cost)

    def scaled(self, rows_scale: float) -> Self:
        return replace(self, rows_scale=self.rows_scale * positive("rows scale", rows_scale))

    def dense_stage(self) -> torch.nn.Module:
        from deeprecsys.zoo.networks.wnd import WndDense

        return WndDense(self).eval()


# "Tens" of tables: the artefact's 27 x 1M x 32 and 512 dense features. Two thirds of the fields are the
# user's and the context's, as in the original's app store (its Figure 4 lists age, device, installed apps,
# ... against the impression's app): 18 to 9. Eight crosses: the original crosses a few categorical pairs.
WND = Wnd(name="wnd", user_fields=18, item_fields=9, crosses=8, user_per=Per.QUERY)

# No wide branch, every feature per item.
WND_ARTEFACT = Wnd(name="wnd-artefact", user_fields=0, item_fields=27, crosses=0, user_per=Per.ITEM)
