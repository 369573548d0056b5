"""Pieces that several families share."""

from __future__ import annotations

from torch import nn

from deeprecsys.engine.dense.graph import Graph
from deeprecsys.zoo.networks.layers import ClickHead, Layer, SplitLayer


def split_layer(g: Graph, layer: SplitLayer, user: str, item: str) -> str:
    """A layer over [user, item] columns, the user's once per slice: [S, user], [n, item] -> [n, outputs]."""
    once = g.gemm(user, layer.weight[:, : layer.user], layer.bias)
    return g.gemm(item, layer.weight[:, layer.user :], g.spread(once))


def click_head(g: Graph, head: ClickHead, user: str, *items: str) -> str:
    """user [S, ...], item parts [n, ...] side by side -> click probability [n, 1].

    The click half of a softmax over two logits is the sigmoid of their difference, so the last layer has one
    output: the difference of its rows.
    """
    hidden = g.prelu(split_layer(g, head.first, user, g.concat(*items)), head.first_act)
    *layers, last = head.rest
    hidden = g.chain(hidden, nn.Sequential(*layers))
    assert isinstance(last, Layer)
    (no, yes), (no_bias, yes_bias) = last.weight, last.bias
    return g.node("Sigmoid", g.gemm(hidden, (yes - no)[None], (yes_bias - no_bias)[None]))
