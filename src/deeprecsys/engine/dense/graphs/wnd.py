"""Wide & Deep's dense stage as an ONNX graph."""

from __future__ import annotations

import torch
from torch import Tensor

from deeprecsys.engine.dense.graph import Graph
from deeprecsys.engine.dense.graphs.parts import split_layer
from deeprecsys.zoo.networks.layers import Layer, SplitLayer
from deeprecsys.zoo.networks.wnd import WndDense


def wnd(g: Graph, net: WndDense) -> str:
    """user [S, ...], item [n, ...] or item [n, ...] alone, cross [n, 1] -> [n, 1]."""
    if isinstance(net.first, SplitLayer):
        hidden = split_layer(g, net.first, "user", "item")
    else:
        hidden = g.linear("item", net.first)
    *deep, last, _identity = net.deep
    assert isinstance(last, Layer)
    for layer in deep:
        hidden = g.layer(hidden, layer)
    bias: str | Tensor = last.bias
    if net.wide is not None:
        features = "user" if net.shared else "item"
        linear = g.gemm(features, _wide(net), last.bias)
        bias = g.node("Add", "cross", g.spread(linear) if net.shared else linear)
    return g.node("Sigmoid", g.gemm(hidden, last.weight, bias))


def _wide(net: WndDense) -> Tensor:
    """The wide part's weights with zeros for the columns beside the dense features, which come first."""
    assert net.wide is not None
    width = net.first.user if isinstance(net.first, SplitLayer) else net.first.in_features
    weight = torch.zeros(1, width)
    weight[:, : net.wide.in_features] = net.wide.weight
    return weight
