"""Neural collaborative filtering: NeuMF (arXiv 1708.05031 §3.4), and what the artefact builds of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from deeprecsys.zoo.model import DenseLayer, PaperModel, chain, numbered, parameters, scale_rows
from deeprecsys.zoo.schema import Per, Schema, SparseInput, Table


@dataclass(frozen=True, kw_only=True)
class Ncf(PaperModel):
    """NeuMF: a GMF branch (user times item) and an MLP branch, each with its own two tables.

    The user's two ids are per query, the item's two per item, so the user's half of the MLP's first
    layer runs once per slice.

    Attributes:
        users, items: rows of the user and the item tables; the artefact's MovieLens-20M sizes.
        dim: of all four tables.
        mlp: widths of the MLP branch, without its input (2 x dim).
    """

    name: str = "ncf"
    users: int = 140_000
    items: int = 28_000
    dim: int = 64
    mlp: tuple[int, ...] = (256, 256, 128)
    medium_target_ms: float = 5
    bottleneck: str = "MLP"

    @cached_property
    def schema(self) -> Schema:
        tables = (
            Table("mf_user", self.users, self.dim),
            Table("mf_item", self.items, self.dim),
            Table("mlp_user", self.users, self.dim),
            Table("mlp_item", self.items, self.dim),
        )
        inputs = tuple(
            SparseInput(t.name, t.name, per=Per.QUERY if t.name.endswith("user") else Per.ITEM)
            for t in tables
        )
        return Schema(scale_rows(tables, self.rows_scale), inputs)

    @property
    def dense_parameters(self) -> int:
        return parameters(2 * self.dim, *self.mlp) + parameters(self.dim + self.mlp[-1], 1)

    @property
    def layers(self) -> list[DenseLayer]:
        user = DenseLayer(self.dim, self.mlp[0], Per.QUERY)
        return [user, *chain(self.dim, *self.mlp), DenseLayer(self.dim + self.mlp[-1], 1)]


@dataclass(frozen=True, kw_only=True)
class NcfArtefact(PaperModel):
    """What the artefact builds: the MF branch *sums* its two tables, and nothing ends in one score.

    MF: tables 0 + 1 (dim). MLP: tables 2 and 3 concatenated -> `mlp`. Both concatenated -> `out`. Every
    layer ends in ReLU, the last too, so the "scores" are `out` numbers per item.
    """

    name: str = "ncf-artefact"
    rows: tuple[int, ...] = (140_000, 140_000, 28_000, 28_000)
    dim: int = 64
    mlp: tuple[int, ...] = (256, 256, 128, 64)
    out: int = 64
    medium_target_ms: float = 5
    bottleneck: str = "MLP"

    @cached_property
    def schema(self) -> Schema:
        tables, inputs = numbered(self.rows, self.dim)
        return Schema(scale_rows(tables, self.rows_scale), inputs, outputs=self.out)

    @property
    def dense_parameters(self) -> int:
        return parameters(2 * self.dim, *self.mlp) + parameters(self.dim + self.mlp[-1], self.out)

    @property
    def layers(self) -> list[DenseLayer]:
        return [*chain(2 * self.dim, *self.mlp), DenseLayer(self.dim + self.mlp[-1], self.out)]


NCF = Ncf()
NCF_ARTEFACT = NcfArtefact()
