"""Deep Interest Evolution Network (arXiv 1809.03672), and what the artefact builds of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from deeprecsys.core.errors import positive
from deeprecsys.zoo.cost import multiply_adds, parameters
from deeprecsys.zoo.model import scale_rows
from deeprecsys.zoo.schema import Per, Pooling, Schema, SparseInput, Table

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Dien:
    """A GRU turns behaviours into interests; an attention-gated GRU (AUGRU) evolves them per candidate.

    Goods and categories have one table each, for behaviours and candidates alike. Behaviours and
    profile are per query, so the GRU, and the AUGRU's input gates, run once per slice; the candidate is
    per item. The score is the click half of the two-way softmax.

    Attributes:
        behaviours: the user's behaviours T, oldest first; goods and category each, so 2T look-ups, the
            paper's "tens". 40 is the artefact's sequence.
        goods, categories, users: rows of those tables.
        contexts, context_rows: further profile and context fields, with a table each.
        dim: of all tables.
        hidden: width of both recurrent layers' state; the width of a behaviour, as in the original.
        head: widths of the head, without its input.
    """

    name: str = "dien"
    behaviours: int = 40
    goods: int = 5_000_000
    categories: int = 500_000
    users: int = 5_000_000
    contexts: int = 11
    context_rows: int = 500_000
    dim: int = 32
    hidden: int = 64
    head: tuple[int, ...] = (200, 80, 2)
    medium_target_ms: float = 35
    bottleneck: str = "attention-based GRU"
    rows_scale: float = 1.0

    @property
    def profile_features(self) -> tuple[str, ...]:
        return ("user", *(f"context_{i}" for i in range(self.contexts)))

    @cached_property
    def schema(self) -> Schema:
        tables = (
            Table("goods", self.goods, self.dim),
            Table("category", self.categories, self.dim),
            Table("user", self.users, self.dim),
            *(Table(f"context_{i}", self.context_rows, self.dim) for i in range(self.contexts)),
        )
        behaviours = (
            SparseInput(f"behaviour_{t}", t, self.behaviours, Pooling.SEQUENCE, Per.QUERY)
            for t in ("goods", "category")
        )
        profile = (SparseInput(f, f, per=Per.QUERY) for f in self.profile_features)
        candidate = (SparseInput(f"candidate_{t}", t) for t in ("goods", "category"))
        return Schema(scale_rows(tables, self.rows_scale), (*behaviours, *profile, *candidate))

    @property
    def width(self) -> int:
        """Width of a behaviour or candidate: goods and category concatenated."""
        return 2 * self.dim

    @property
    def profile_width(self) -> int:
        return (1 + self.contexts) * self.dim

    @property
    def dense_parameters(self) -> int:
        h, d = self.hidden, self.width
        gru = 3 * h * (d + h + 2)
        augru = 3 * h * (2 * h + 2)
        prelus = len(self.head) - 1
        return gru + h * d + augru + parameters(h + d + self.profile_width, *self.head) + prelus

    def flops(self, per: Per) -> int:
        t, h, d = self.behaviours, self.hidden, self.width
        if per is Per.QUERY:
            gru = t * 3 * h * (d + h)
            return 2 * (gru + t * 3 * h * h + self.profile_width * self.head[0])
        attention = d * h + t * h
        augru = t * 3 * h * h
        return 2 * (attention + augru + multiply_adds(h + d, *self.head))

    def scaled(self, rows_scale: float) -> Self:
        return replace(self, rows_scale=self.rows_scale * positive("rows scale", rows_scale))

    def dense_stage(self) -> torch.nn.Module:
        from deeprecsys.zoo.networks.dien import DienDense

        return DienDense(self).eval()


@dataclass(frozen=True)
class DienArtefact:
    """What the artefact builds: two plain tanh RNNs over *tables*, no GRU and no attention.

    Table 0 is the user's profile, tables 1-40 are the sequence (one look-up each is one step), 41 the
    candidate, 42 the context. RNN dim -> hidden; a fully connected layer hidden -> hidden with softmax on
    all its states, computed and then overwritten, so unused; RNN hidden -> hidden on the states
    themselves; [last state, profile, candidate, context] through `head`, ReLU after every layer, the
    last too. Everything per item.
    """

    name: str = "dien-artefact"
    rows: tuple[int, ...] = (500_000,) * 41 + (5_000_000,) * 2
    dim: int = 32
    hidden: int = 64
    head: tuple[int, ...] = (200, 80, 2)
    medium_target_ms: float = 35
    bottleneck: str = "attention-based GRU"
    rows_scale: float = 1.0

    @cached_property
    def schema(self) -> Schema:
        tables = tuple(Table(f"table_{i}", rows, self.dim) for i, rows in enumerate(self.rows))
        inputs = tuple(SparseInput(f"sparse_{i}", t.name) for i, t in enumerate(tables))
        return Schema(scale_rows(tables, self.rows_scale), inputs, outputs=self.head[-1])

    @property
    def steps(self) -> int:
        """Length of the sequence: every table but profile, candidate and context."""
        return len(self.rows) - 3

    @property
    def head_widths(self) -> tuple[int, ...]:
        return (self.hidden + 3 * self.dim, *self.head)

    @property
    def dense_parameters(self) -> int:
        h = self.hidden
        recurrent = parameters(self.dim, h) + 3 * parameters(h, h)
        return recurrent + parameters(h, h) + parameters(*self.head_widths)

    def flops(self, per: Per) -> int:
        if per is Per.QUERY:
            return 0
        h = self.hidden
        step = self.dim * h + 3 * h * h + h * h
        return 2 * (self.steps * step + multiply_adds(*self.head_widths))

    def scaled(self, rows_scale: float) -> Self:
        return replace(self, rows_scale=self.rows_scale * positive("rows scale", rows_scale))

    def dense_stage(self) -> torch.nn.Module:
        from deeprecsys.zoo.networks.dien import DienArtefactDense

        return DienArtefactDense(self).eval()


# Table sizes are the artefact's: 5M where an id identifies a user or a product, 500k elsewhere.
DIEN = Dien()
DIEN_ARTEFACT = DienArtefact()
