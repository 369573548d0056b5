"""NeuMF's dense stage (arXiv 1708.05031 §3.4), and the artefact's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprecsys.zoo.ncf import Ncf, NcfArtefact
from deeprecsys.zoo.networks.layers import (
    Layer,
    Rows,
    SplitLayer,
    columns,
    input_std,
    mlp,
    output_relu,
    spread,
)


class NcfDense(nn.Module):
    """sigmoid(h . [GMF, MLP]), eq. 12."""

    def __init__(self, config: Ncf) -> None:
        super().__init__()
        std = input_std(config.schema, "mlp_user")
        self.first = SplitLayer(config.dim, config.dim, config.mlp[0], columns((2 * config.dim, std)))
        self.mlp = nn.Sequential(nn.ReLU(inplace=True), *mlp(config.mlp))
        product = input_std(config.schema, "mf_user") * input_std(config.schema, "mf_item")
        both = columns((config.dim, product), (config.mlp[-1], 1.0))
        self.out = Layer(len(both), 1, both, gain=1.0)

    def forward(self, x: Rows, slice_of_item: Tensor | None) -> Tensor:
        """mf_user, mlp_user [S, dim], mf_item, mlp_item [n, dim] -> [n, 1]."""
        items = x["mf_item"]
        gmf = spread(x["mf_user"], slice_of_item, len(items)) * items
        deep = self.mlp(self.first(x["mlp_user"], x["mlp_item"], slice_of_item))
        return torch.sigmoid(self.out(torch.cat([gmf, deep], dim=1)))


class NcfArtefactDense(nn.Module):
    """MF branch a sum, no sigmoid; see `NcfArtefact`."""

    def __init__(self, config: NcfArtefact) -> None:
        super().__init__()
        std = input_std(config.schema, "sparse_0")
        self.mlp = mlp((2 * config.dim, *config.mlp), columns((2 * config.dim, std)))
        both = columns((config.dim, std * 2**0.5), (config.mlp[-1], 1.0))
        self.out = output_relu(mlp((len(both), config.out), both))

    def forward(self, x: Rows, slice_of_item: Tensor | None) -> Tensor:
        """sparse_0 ... sparse_3 [n, dim] -> [n, out]."""
        mf = x["sparse_0"] + x["sparse_1"]
        deep = self.mlp(torch.cat([x["sparse_2"], x["sparse_3"]], dim=1))
        return self.out(torch.cat([mf, deep], dim=1))  # type: ignore[no-any-return]
