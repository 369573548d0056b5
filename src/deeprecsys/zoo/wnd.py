"""Wide & Deep (arXiv 1606.07792) and its multi-task form, and what the artefact builds of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from deeprecsys.zoo.model import DenseLayer, PaperModel, chain, numbered, parameters, scale_rows
from deeprecsys.zoo.schema import DenseInput, Per, Schema, SparseInput, Table


@dataclass(frozen=True, kw_only=True)
class FieldModel(PaperModel):
    """Dense features and one-hot fields of the user and of the item, all concatenated.

    Attributes:
        dense: width of the dense features.
        user_fields: fields per query, one look-up each.
        item_fields: fields per item, one look-up each.
        dim: of each field's table.
    """

    user_fields: int
    item_fields: int
    dense: int = 512
    dim: int = 32
    medium_target_ms: float = 25
    bottleneck: str = "MLP"

    @property
    def user_width(self) -> int:
        """Columns of dense features and user fields."""
        return self.dense + self.user_fields * self.dim

    @property
    def item_width(self) -> int:
        """Columns of the item fields."""
        return self.item_fields * self.dim


@dataclass(frozen=True, kw_only=True)
class Wnd(FieldModel):
    """A deep MLP over dense features and embeddings, plus a wide linear part over crossed features.

    Attributes:
        rows: of each field's table.
        deep: widths of the deep part, without its input (everything concatenated).
        crosses: cross-product features per item, hashed into one weight table of `cross_rows` x 1
            (1606.07792 §3.1, eq. 1); 0 leaves the wide part out.
        user_per: what the dense features and user fields belong to. Per query, their share of the
            first layer runs once per slice; the artefact repeats them for every item.
    """

    crosses: int
    user_per: Per
    rows: int = 1_000_000
    deep: tuple[int, ...] = (1024, 512, 256, 1)
    cross_rows: int = 1_000_000

    @property
    def user_features(self) -> tuple[str, ...]:
        return tuple(f"user_{i}" for i in range(self.user_fields))

    @property
    def item_features(self) -> tuple[str, ...]:
        return tuple(f"item_{i}" for i in range(self.item_fields))

    @property
    def user_stage(self) -> int:
        """The user's share of the first layer, and of the wide part."""
        return self.deep[0] + (self.crosses > 0) if self.user_per is Per.QUERY else 0

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
    def dense_parameters(self) -> int:
        wide = self.dense if self.crosses else 0
        return parameters(self.user_width + self.item_width, *self.deep) + wide

    @property
    def layers(self) -> list[DenseLayer]:
        wide = [DenseLayer(self.dense, 1, self.user_per)] if self.crosses else []
        user = DenseLayer(self.user_width, self.deep[0], self.user_per)
        return [user, *wide, *chain(self.item_width, *self.deep)]


@dataclass(frozen=True, kw_only=True)
class MtWnd(FieldModel):
    """Multi-task Wide & Deep: `tasks` towers over shared embeddings, one probability each (click, like, ...).

    The paper's N is a range. N = 2, the least that is multi-task: the per-item layers of one tower
    already take 2 x (1024 x 512 + 512 x 256) FLOPs, so the 340 items of the 95th-percentile query
    cost 0.45 GFLOP per tower, against a medium target of 25 ms.

    Attributes:
        user_fields: fields per query: the user's id, and the user's and context's features.
        item_fields: fields per item: its id and features. Two thirds would leave 14; 8 (id, creator,
            category, language, length, age, format, source) keep the item's part of the first layer
            small next to the 1024 x 512 layer that follows.
        rows, id_rows: rows of a feature table, and of the user's and the item's id table.
        tower: widths of one tower, without its input (everything concatenated).
    """

    name: str = "mt-wnd"
    tasks: int = 2
    user_fields: int = 35
    item_fields: int = 8
    rows: int = 500_000
    id_rows: int = 5_000_000
    tower: tuple[int, ...] = (1024, 512, 256, 1)

    @property
    def user_features(self) -> tuple[str, ...]:
        return ("user_id", *(f"user_{i}" for i in range(1, self.user_fields)))

    @property
    def item_features(self) -> tuple[str, ...]:
        return ("item_id", *(f"item_{i}" for i in range(1, self.item_fields)))

    @property
    def user_stage(self) -> int:
        """The user's share of each tower's first layer."""
        return self.tasks * self.tower[0]

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
    def dense_parameters(self) -> int:
        return self.tasks * parameters(self.user_width + self.item_width, *self.tower)

    @property
    def layers(self) -> list[DenseLayer]:
        user = DenseLayer(self.user_width, self.tower[0], Per.QUERY)
        return [user, *chain(self.item_width, *self.tower)] * self.tasks


@dataclass(frozen=True, kw_only=True)
class MtWndArtefact(PaperModel):
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

    @cached_property
    def schema(self) -> Schema:
        tables, features = numbered(self.rows, self.dim)
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

    @property
    def layers(self) -> list[DenseLayer]:
        return chain(*self.widths)


# "Tens" of tables: the artefact's 27 x 1M x 32 and 512 dense features. Two thirds of the fields are the
# user's and the context's, as in the original's app store (its Figure 4 lists age, device, installed apps,
# ... against the impression's app): 18 to 9. Eight crosses: the original crosses a few categorical pairs.
WND = Wnd(name="wnd", user_fields=18, item_fields=9, crosses=8, user_per=Per.QUERY)

# No wide branch, every feature per item.
WND_ARTEFACT = Wnd(name="wnd-artefact", user_fields=0, item_fields=27, crosses=0, user_per=Per.ITEM)

MT_WND = MtWnd()
MT_WND_ARTEFACT = MtWndArtefact()
