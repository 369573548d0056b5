"""The networks in torch: one generic sparse stage, and a dense stage per family."""

from __future__ import annotations

from torch import nn

from deeprecsys.zoo.custom.model import Own
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.networks.layers import initialise

__all__ = ["initialise", "weighted"]


def weighted(model: Model, seed: int) -> nn.Module:
    """A model's dense stage with its weights: drawn from `seed`, or its own where a user brought them."""
    network = model.dense_stage().eval()
    if isinstance(model, Own):
        return network.requires_grad_(False)
    initialise(network, seed)
    return network
