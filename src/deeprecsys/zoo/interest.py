"""Deep Interest Network (arXiv 1706.06978), Deep Interest Evolution Network (arXiv 1809.03672), and what the
artefact builds of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from deeprecsys.zoo.model import DenseLayer, PaperModel, chain, numbered, parameters, scale_rows
from deeprecsys.zoo.schema import Per, Pooling, Schema, SparseInput, Table


@dataclass(frozen=True, kw_only=True)
class InterestModel(PaperModel):
    """Compares the user's past behaviours with each candidate item, then an MLP over all that is known.

    Goods and categories have one table each, for behaviours and candidates alike (1706.06978 §4.1).
    Behaviours and profile are per query, the candidate is per item. The two-way softmax is kept and
    its second half, the click probability, returned: one score per item to rank by.

    Attributes:
        behaviours: the user's behaviours T, oldest first; each looks up goods and category, so 2T look-ups.
        goods, categories, users: rows of those tables.
        contexts, context_rows: further profile and context fields, with a table each.
        dim: of all tables.
        head: widths of the head, without its input.
    """

    behaviours: int
    goods: int
    categories: int
    users: int
    contexts: int = 11
    context_rows: int
    dim: int = 32
    head: tuple[int, ...] = (200, 80, 2)

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


@dataclass(frozen=True, kw_only=True)
class Din(InterestModel):
    """Deep Interest Network: weights each behaviour by its relevance to the candidate, and sums them.

    T = 100 behaviours make the paper's "hundreds" of look-ups.

    Attributes:
        attention: hidden width of the activation unit, the original's 36 (its Figure 2).
    """

    attention: int = 36

    @property
    def dense_parameters(self) -> int:
        prelus = len(self.head)
        unit = parameters(4 * self.width, self.attention, 1)
        return unit + parameters(self.profile_width + 2 * self.width, *self.head) + prelus

    @property
    def layers(self) -> list[DenseLayer]:
        t, d, h = self.behaviours, self.width, self.attention
        return [
            DenseLayer(d, h, Per.QUERY, t),
            DenseLayer(self.profile_width, self.head[0], Per.QUERY),
            DenseLayer(d, h, rows=t),
            DenseLayer(h, 1, rows=t),
            DenseLayer(d, 1, rows=t, bare=True),  # the weighted sum
            *chain(2 * d, *self.head),
        ]


@dataclass(frozen=True, kw_only=True)
class DinArtefact(PaperModel):
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

    @property
    def layers(self) -> list[DenseLayer]:
        return chain(*self.unit) * self.behaviours + chain(4 * self.dim, *self.head)


@dataclass(frozen=True, kw_only=True)
class Dien(InterestModel):
    """Deep Interest Evolution Network: a GRU turns behaviours into interests, and a GRU whose update gate is
    weighted by attention (AUGRU) evolves them per candidate.

    The GRU and the AUGRU's input gates run once per slice. T = 40 behaviours, the artefact's sequence, make
    the paper's "tens" of look-ups.

    Attributes:
        hidden: width of both recurrent layers' state; the width of a behaviour, as in the original.
    """

    hidden: int = 64

    @property
    def dense_parameters(self) -> int:
        h, d = self.hidden, self.width
        gru = 3 * h * (d + h + 2)
        augru = 3 * h * (2 * h + 2)
        prelus = len(self.head) - 1
        return gru + h * d + augru + parameters(h + d + self.profile_width, *self.head) + prelus

    @property
    def layers(self) -> list[DenseLayer]:
        t, h, d = self.behaviours, self.hidden, self.width
        return [
            DenseLayer(d + h, 3 * h, Per.QUERY, steps=t),  # GRU
            DenseLayer(h, 3 * h, Per.QUERY, rows=t),  # the AUGRU's input gates
            DenseLayer(self.profile_width, self.head[0], Per.QUERY),
            DenseLayer(d, h),
            DenseLayer(h, 1, rows=t, bare=True),  # attention
            DenseLayer(h, 3 * h, steps=t),  # AUGRU
            *chain(h + d, *self.head),
        ]


@dataclass(frozen=True, kw_only=True)
class DienArtefact(PaperModel):
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

    @cached_property
    def schema(self) -> Schema:
        tables, inputs = numbered(self.rows, self.dim)
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

    @property
    def layers(self) -> list[DenseLayer]:
        h, t = self.hidden, self.steps
        return [
            DenseLayer(self.dim, h, rows=t),
            DenseLayer(h, h, steps=t),
            DenseLayer(h, h, rows=t),  # unused
            DenseLayer(h, h, rows=t),
            DenseLayer(h, h, steps=t),
            *chain(*self.head_widths),
        ]


# Ten million goods as in the artefact's candidate table; the other sizes are the artefact's too. A dozen
# profile and context fields: the paper's "tens" of tables, of which the original names about that many.
DIN = Din(
    name="din", behaviours=100, goods=10_000_000, categories=100_000, users=1_000_000, context_rows=100_000,
    medium_target_ms=100, bottleneck="embedding + attention",
)  # fmt: skip
DIN_ARTEFACT = DinArtefact()

# Table sizes are the artefact's: 5M where an id identifies a user or a product, 500k elsewhere.
DIEN = Dien(
    name="dien", behaviours=40, goods=5_000_000, categories=500_000, users=5_000_000, context_rows=500_000,
    medium_target_ms=35, bottleneck="attention-based GRU",
)  # fmt: skip
DIEN_ARTEFACT = DienArtefact()
