"""Multi-task Wide & Deep's dense stage, and the artefact's, as ONNX graphs."""

from __future__ import annotations

from torch import nn

from deeprecsys.engine.dense.graph import Graph
from deeprecsys.zoo.networks.mtwnd import MtWndArtefactDense, MtWndDense


def mtwnd(g: Graph, net: MtWndDense) -> str:
    """user [S, ...], item [n, ...] -> [n, tasks].

    A first layer per tower: one product over all towers would have to be cut apart again, a copy.
    """
    first, towers = net.first, []
    weights = first.weight.chunk(len(net.towers))
    biases = first.bias.chunk(len(net.towers))
    for weight, bias, tower in zip(weights, biases, net.towers, strict=True):
        assert isinstance(tower, nn.Sequential)
        once = g.gemm("user", weight[:, : first.user], bias)
        hidden = g.gemm("item", weight[:, first.user :], g.spread(once))
        towers.append(g.chain(g.node("Relu", hidden), tower))
    return g.concat(*towers)


def mtwnd_artefact(g: Graph, net: MtWndArtefactDense) -> str:
    """item [n, ...] -> [n, outputs]."""
    return g.chain("item", net.layers)
