"""DLRM's dense stage (arXiv 1906.00091 §2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from deeprecsys.zoo.dlrm import Dlrm
from deeprecsys.zoo.networks.layers import Rows, columns, input_std, mlp


class DlrmDense(nn.Module):
    """Bottom MLP, interaction, top MLP, sigmoid."""

    pairs: Tensor

    def __init__(self, config: Dlrm) -> None:
        super().__init__()
        self.features = [i.name for i in config.schema.sparse]
        self.dot = config.interaction == "dot"
        self.bottom = mlp(config.bottom)
        stds = [1.0, *(input_std(config.schema, f) for f in self.features)]
        row, column = torch.triu_indices(config.vectors, config.vectors, offset=1)
        if self.dot:
            scale = math.sqrt(config.dim)
            dots = [
                (1, scale * stds[i] * stds[j]) for i, j in zip(row.tolist(), column.tolist(), strict=True)
            ]
            std = columns((config.dim, stds[0]), *dots)
        else:
            std = columns(*((config.dim, s) for s in stds))
        self.top = mlp((config.interaction_width, *config.top), std, nn.Sigmoid())
        self.register_buffer("pairs", row * config.vectors + column, persistent=False)

    def forward(self, x: Rows, slice_of_item: Tensor | None) -> Tensor:
        """dense [n, bottom[0]], each sparse input [n, dim] -> [n, 1]; nothing is per query."""
        vectors = [self.bottom(x["dense"]), *(x[f] for f in self.features)]
        return self.top(self.interact(vectors))  # type: ignore[no-any-return]

    def interact(self, vectors: list[Tensor]) -> Tensor:
        """Vectors [n, dim], the bottom MLP's output first -> [n, interaction width]."""
        if not self.dot:
            return torch.cat(vectors, dim=1)
        stacked = torch.stack(vectors, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
        return torch.cat([vectors[0], products.index_select(1, self.pairs)], dim=1)
