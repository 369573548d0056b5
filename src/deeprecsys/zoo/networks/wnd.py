"""Dense stages of Wide & Deep (arXiv 1606.07792 §3), of its multi-task form, and the artefact's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprecsys.zoo.networks.layers import Layer, Rows, SplitLayer, columns, concat, input_std, mlp, spread
from deeprecsys.zoo.schema import Per
from deeprecsys.zoo.wnd import MtWnd, MtWndArtefact, Wnd


def _input_stds(config: Wnd | MtWnd | MtWndArtefact) -> Tensor:
    """Standard deviations of the concatenated input's columns: dense features first, then a field each."""
    fields = [i.name for i in config.schema.sparse if i.table != "cross"]
    return columns((config.dense, 1.0), *((config.dim, input_std(config.schema, f)) for f in fields))


class WndDense(nn.Module):
    """sigmoid(deep + wide), eq. 3."""

    def __init__(self, config: Wnd) -> None:
        super().__init__()
        self.user = ("dense", *config.user_features)
        self.item = config.item_features
        self.shared = config.user_per is Per.QUERY
        std = _input_stds(config)
        widths, first = config.deep, config.deep[0]
        self.first: Layer = (
            SplitLayer(config.user_width, config.item_width, first, std)
            if self.shared
            else Layer(config.user_width + config.item_width, first, std)
        )
        self.deep = nn.Sequential(nn.ReLU(inplace=True), *mlp(widths, last=nn.Identity()))
        # The crosses' weights come summed from their table; the bias is the deep part's.
        self.wide = Layer(config.dense, 1, gain=0.25, bias=False) if config.crosses else None

    def forward(self, x: Rows, slice_of_item: Tensor | None) -> Tensor:
        """dense and user fields [S or n, ...], item fields [n, dim], cross [n, 1] -> [n, 1]."""
        if self.shared:
            hidden = self.first(concat(x, self.user), concat(x, self.item), slice_of_item)
        else:
            hidden = self.first(concat(x, self.user + self.item))
        logit = self.deep(hidden)
        if self.wide is not None:
            linear = self.wide(x["dense"])
            logit = (
                logit + x["cross"] + (spread(linear, slice_of_item, len(logit)) if self.shared else linear)
            )
        return torch.sigmoid(logit)


class MtWndDense(nn.Module):
    """Parallel towers. Their first layers read the same input, so they are one matrix product."""

    def __init__(self, config: MtWnd) -> None:
        super().__init__()
        self.user = ("dense", *config.user_features)
        self.item = config.item_features
        std = _input_stds(config)
        first = config.tasks * config.tower[0]
        self.first = SplitLayer(config.user_width, config.item_width, first, std)
        self.towers = nn.ModuleList(mlp(config.tower, last=nn.Sigmoid()) for _ in range(config.tasks))

    def forward(self, x: Rows, slice_of_item: Tensor | None) -> Tensor:
        """dense and user fields [S, ...], item fields [n, dim] -> [n, tasks]."""
        hidden = self.first(concat(x, self.user), concat(x, self.item), slice_of_item).relu_()
        parts = hidden.chunk(len(self.towers), dim=1)
        return torch.cat([tower(h) for tower, h in zip(self.towers, parts, strict=True)], dim=1)


class MtWndArtefactDense(nn.Module):
    """Shared layers and one task head on the concatenated input; see `MtWndArtefact`."""

    def __init__(self, config: MtWndArtefact) -> None:
        super().__init__()
        self.inputs = tuple(i.name for i in config.schema.inputs)
        self.layers = mlp(config.widths, _input_stds(config), nn.Sigmoid())

    def forward(self, x: Rows, slice_of_item: Tensor | None) -> Tensor:
        """dense [n, dense], each sparse input [n, dim] -> [n, 128]."""
        return self.layers(concat(x, self.inputs))  # type: ignore[no-any-return]
