"""Multi-task Wide & Deep's dense stage, and the artefact's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprecsys.zoo.mtwnd import MtWnd, MtWndArtefact
from deeprecsys.zoo.networks.layers import Rows, SplitLayer, columns, concat, input_std, mlp


class MtWndDense(nn.Module):
    """Parallel towers. Their first layers read the same input, so they are one matrix product."""

    def __init__(self, config: MtWnd) -> None:
        super().__init__()
        self.user = ("dense", *config.user_features)
        self.item = config.item_features
        std = columns(
            (config.dense, 1.0),
            *((config.dim, input_std(config.schema, f)) for f in self.user[1:] + self.item),
        )
        first = config.tasks * config.tower[0]
        self.first = SplitLayer(config.user_width, config.item_width, first, std)
        self.towers = nn.ModuleList(mlp(config.tower, last=nn.Sigmoid()) for _ in range(config.tasks))

    def forward(self, x: Rows, owner: Tensor | None) -> Tensor:
        """dense and user fields [S, ...], item fields [n, dim] -> [n, tasks]."""
        hidden = self.first(concat(x, self.user), concat(x, self.item), owner).relu_()
        parts = hidden.chunk(len(self.towers), dim=1)
        return torch.cat([tower(h) for tower, h in zip(self.towers, parts, strict=True)], dim=1)


class MtWndArtefactDense(nn.Module):
    """Shared layers and one task head on the concatenated input; see `MtWndArtefact`."""

    def __init__(self, config: MtWndArtefact) -> None:
        super().__init__()
        self.inputs = tuple(i.name for i in config.schema.inputs)
        features = self.inputs[1:]
        std = columns((config.dense, 1.0), *((config.dim, input_std(config.schema, f)) for f in features))
        self.layers = mlp(config.widths, std, nn.Sigmoid())

    def forward(self, x: Rows, owner: Tensor | None) -> Tensor:
        """dense [n, dense], each sparse input [n, dim] -> [n, 128]."""
        return self.layers(concat(x, self.inputs))  # type: ignore[no-any-return]
