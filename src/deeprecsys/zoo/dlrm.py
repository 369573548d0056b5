"""DLRM (arXiv 1906.00091), in the three production shapes RMC1-3 of arXiv 1906.03109.

Dense features go through a bottom MLP, each sparse feature's rows are summed, the two interact, and a
top MLP ends in the click probability. Every input is *per item*: the paper characterises look-ups per
item, and ranks items whose features, multi-hot ones included, differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from deeprecsys.zoo.model import DenseLayer, PaperModel, chain, numbered, parameters, scale_rows
from deeprecsys.zoo.schema import DenseInput, Schema


@dataclass(frozen=True, kw_only=True)
class Dlrm(PaperModel):
    """A DLRM.

    Attributes:
        bottom: widths of the bottom MLP, its input (the dense features) first, `dim` last.
        top: widths of the top MLP, without its input (the interaction).
        tables, rows, dim, lookups: `tables` tables of `rows` x `dim`, each with `lookups` ids summed.
        interaction: `cat` concatenates bottom output and pooled features, as in the paper's artefact;
            `dot` is DLRM's own: the pairwise dot products next to the bottom output (1906.00091 §2.1).
        expected: ids of an item and table on average, where they differ and `lookups` is the most.
    """

    bottom: tuple[int, ...]
    top: tuple[int, ...]
    tables: int
    rows: int
    dim: int
    lookups: int
    interaction: Literal["cat", "dot"] = "cat"
    expected: float | None = None

    @cached_property
    def schema(self) -> Schema:
        tables, features = numbered((self.rows,) * self.tables, self.dim, self.lookups, self.expected)
        return Schema(
            tables=scale_rows(tables, self.rows_scale),
            inputs=(DenseInput("dense", self.bottom[0]), *features),
        )

    @property
    def vectors(self) -> int:
        """The vectors that interact: the bottom MLP's output and one per table."""
        return 1 + self.tables

    @property
    def interaction_width(self) -> int:
        """Width of the top MLP's input."""
        if self.interaction == "cat":
            return self.vectors * self.dim
        return self.dim + self.vectors * (self.vectors - 1) // 2

    @property
    def dense_parameters(self) -> int:
        return parameters(*self.bottom) + parameters(self.interaction_width, *self.top)

    @property
    def layers(self) -> list[DenseLayer]:
        layers = chain(*self.bottom) + chain(self.interaction_width, *self.top)
        # All pairs are computed in one matrix product, both triangles, and one triangle is kept.
        pairs = DenseLayer(self.dim, self.vectors, rows=self.vectors, bare=True)
        return [*layers, pairs] if self.interaction == "dot" else layers


# The paper gives at most 10, 40 and 10 tables, about 80, 80 and 20 look-ups: we take the limits. It gives no
# row counts and no dimension: rows are the artefact's (4M, 500k, 2M), the dimension its most frequent, 32.
# The first number of its Dense-FC list is the width of the dense features, the artefact's convention.
RMC1 = Dlrm(
    name="dlrm-rmc1", bottom=(256, 128, 32), top=(256, 64, 1), tables=10, rows=4_000_000, dim=32, lookups=80,
    medium_target_ms=100, bottleneck="embedding",
)  # fmt: skip
RMC2 = Dlrm(
    name="dlrm-rmc2", bottom=(256, 128, 32), top=(512, 128, 1), tables=40, rows=500_000, dim=32, lookups=80,
    medium_target_ms=400, bottleneck="embedding",
)  # fmt: skip
RMC3 = Dlrm(
    name="dlrm-rmc3", bottom=(2560, 512, 32), top=(512, 128, 1), tables=10, rows=2_000_000, dim=32,
    lookups=20, medium_target_ms=100, bottleneck="MLP",
)  # fmt: skip

# Multi-hot features of production have different lengths: about 16 ids on average, with a heavy tail.
RMC1_JAGGED = replace(RMC1, name="dlrm-rmc1-jagged", lookups=256, expected=16)

RMC1_ARTEFACT = replace(RMC1, name="dlrm-rmc1-artefact", bottom=(128, 64, 32), tables=8)
RMC2_ARTEFACT = replace(RMC2, name="dlrm-rmc2-artefact", bottom=(256, 128, 64), top=(128, 64, 1), tables=32,
                        dim=64, lookups=120)  # fmt: skip
RMC3_ARTEFACT = replace(RMC3, name="dlrm-rmc3-artefact", bottom=(2560, 1024, 256, 32), top=(512, 256, 1))
