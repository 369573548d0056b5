"""Wide & Deep's dense stage (arXiv 1606.07792 §3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprecsys.zoo.networks.layers import (
    Layer,
    Rows,
    SplitLayer,
    columns,
    concat,
    input_std,
    mlp,
    spread,
)
from deeprecsys.zoo.schema import Per
from deeprecsys.zoo.wnd import Wnd


class WndDense(nn.Module):
    """sigmoid(deep + wide), eq. 3."""

    def __init__(self, config: Wnd) -> None:
        super().__init__()
        self.user = ("dense", *config.user_features)
        self.item = config.item_features
        self.shared = config.user_per is Per.QUERY
        std = columns(
            (config.dense, 1.0),
            *((config.dim, input_std(config.schema, f)) for f in self.user[1:] + self.item),
        )
        widths, first = config.deep, config.deep[0]
        self.first: Layer = (
            SplitLayer(config.user_width, config.item_width, first, std)
            if self.shared
            else Layer(config.user_width + config.item_width, first, std)
        )
        self.deep = nn.Sequential(nn.ReLU(inplace=True), *mlp(widths, last=nn.Identity()))
        # The crosses' weights come summed from their table; the bias is the deep part's.
        self.wide = Layer(config.dense, 1, gain=0.25, bias=False) if config.crosses else None

    def forward(self, x: Rows, owner: Tensor | None) -> Tensor:
        """dense and user fields [S or n, ...], item fields [n, dim], cross [n, 1] -> [n, 1]."""
        if self.shared:
            hidden = self.first(concat(x, self.user), concat(x, self.item), owner)
        else:
            hidden = self.first(concat(x, self.user + self.item))
        logit = self.deep(hidden)
        if self.wide is not None:
            linear = self.wide(x["dense"])
            logit = logit + x["cross"] + (spread(linear, owner, len(logit)) if self.shared else linear)
        return torch.sigmoid(logit)
