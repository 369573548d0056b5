"""Deep Interest Network (arXiv 1706.06978), and what the artefact builds of it."""

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
class Din:
    """Weights each of the user's behaviours by its relevance to the candidate, then an MLP.

    Goods and categories have one table each, for behaviours and candidates alike (1706.06978 §4.1).
    Behaviours and profile are per query, the candidate is per item. The two-way softmax is kept and
    its second half, the click probability, returned: one score per item to rank by.

    Attributes:
        behaviours: the user's behaviours T; each looks up goods and category, so 2T look-ups: the
            paper's "hundreds".
        goods, categories, users: rows of those tables.
        contexts, context_rows: further profile and context fields, with a table each.
        dim: of all tables.
        attention: hidden width of the activation unit, the original's 36 (its Figure 2).
        head: widths of the head, without its input.
    """

    name: str = "din"
    behaviours: int = 100
    goods: int = 10_000_000
    categories: int = 100_000
    users: int = 1_000_000
    contexts: int = 11
    context_rows: int = 100_000
    dim: int = 32
    attention: int = 36
    head: tuple[int, ...] = (200, 80, 2)
    medium_target_ms: float = 100
    bottleneck: str = "embedding + attention"
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
        prelus = 1 + len(self.head) - 1
        unit = parameters(4 * self.width, self.attention, 1)
        return unit + parameters(self.profile_width + 2 * self.width, *self.head) + prelus

    def flops(self, per: Per) -> int:
        t, d, h = self.behaviours, self.width, self.attention
        if per is Per.QUERY:
            return 2 * (t * d * h + self.profile_width * self.head[0])
        attention = t * d * h + t * h + t * d  # hidden layer, its output, weighted sum
        return 2 * (attention + multiply_adds(2 * d, *self.head))

    def scaled(self, rows_scale: float) -> Self:
        return replace(self, rows_scale=self.rows_scale * positive("rows scale", rows_scale))

    def dense_stage(self) -> torch.nn.Module:
        from deeprecsys.zoo.networks.din import DinDense

        return DinDense(self).eval()


@dataclass(frozen=True)
class DinArtefact:
    """What the artefact builds: behaviours as *tables*, each with a private unit instead of attention.

    Tables in order: user profile, behaviours, candidate, context. Its configuration lists one behaviour
    table and asks for 250 more: 251. Each behaviour table g has a unit of its own,
    relu(W2 relu(w1 . [u, a, u + a] + b1) + b2) with u its pooled rows, a the candidate's, widths
    3 dim - 1 - dim: 161 parameters, 256 FLOPs. The units' outputs are summed; then [user, sum,
    candidate, context] through `head`, ReLU after every layer, the last too. Three look-ups per
    table, summed; everything per item. Parameters 251 x 161 + 42,042 = 82,453.
    """

    name: str = "din-artefact"
    behaviours: int = 251
    users: int = 1_000_000
    behaviour_rows: int = 100_000
    candidates: int = 10_000_000
    contexts: int = 10_000_000
    dim: int = 32
    lookups: int = 3
    attention: int = 1
    head: tuple[int, ...] = (200, 80, 2)
    medium_target_ms: float = 100
    bottleneck: str = "embedding + attention"
    rows_scale: float = 1.0

    @property
    def behaviour_features(self) -> tuple[str, ...]:
        return tuple(f"behaviour_{i}" for i in range(self.behaviours))

    @cached_property
    def schema(self) -> Schema:
        tables = (
            Table("user", self.users, self.dim),
            *(Table(f, self.behaviour_rows, self.dim) for f in self.behaviour_features),
            Table("candidate", self.candidates, self.dim),
            Table("context", self.contexts, self.dim),
        )
        inputs = tuple(SparseInput(t.name, t.name, self.lookups) for t in tables)
        return Schema(scale_rows(tables, self.rows_scale), inputs, outputs=self.head[-1])

    @property
    def unit(self) -> tuple[int, ...]:
        """Widths of one behaviour table's unit."""
        return (3 * self.dim, self.attention, self.dim)

    @property
    def dense_parameters(self) -> int:
        return self.behaviours * parameters(*self.unit) + parameters(4 * self.dim, *self.head)

    def flops(self, per: Per) -> int:
        if per is Per.QUERY:
            return 0
        return 2 * (self.behaviours * multiply_adds(*self.unit) + multiply_adds(4 * self.dim, *self.head))

    def scaled(self, rows_scale: float) -> Self:
        return replace(self, rows_scale=self.rows_scale * positive("rows scale", rows_scale))

    def dense_stage(self) -> torch.nn.Module:
        from deeprecsys.zoo.networks.din import DinArtefactDense

        return DinArtefactDense(self).eval()


# Ten million goods as in the artefact's candidate table; the other sizes are the artefact's too. A dozen
# profile and context fields: the paper's "tens" of tables, of which the original names about that many.
DIN = Din()
DIN_ARTEFACT = DinArtefact()
