"""Dense stages without a sequence as ONNX graphs: DLRM, NeuMF, Wide & Deep, multi-task Wide & Deep, and the
artefact's forms of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprecsys.engine.dense.graph import Graph
from deeprecsys.zoo.networks.dlrm import DlrmDense
from deeprecsys.zoo.networks.layers import Layer, SplitLayer
from deeprecsys.zoo.networks.ncf import NcfArtefactDense, NcfDense
from deeprecsys.zoo.networks.wnd import MtWndArtefactDense, MtWndDense, WndDense


def dlrm(g: Graph, net: DlrmDense) -> str:
    """dense [n, bottom[0]], features [n, tables * dim] -> [n, 1]."""
    bottom = g.chain("dense", net.bottom)
    if not net.dot:
        return g.chain(g.concat(bottom, "features"), net.top)
    vectors = 1 + len(net.features)
    stacked = g.reshape(g.concat(bottom, "features"), 0, vectors, -1)
    products = g.node("MatMul", stacked, g.node("Transpose", stacked, perm=[0, 2, 1]))
    flat = g.reshape(products, 0, vectors * vectors)
    pairs = g.node("Gather", flat, g.constant(net.pairs.tolist()), axis=1)
    return g.chain(g.concat(bottom, pairs), net.top)


def ncf(g: Graph, net: NcfDense) -> str:
    """mf_user, mlp_user [S, dim], mf_item, mlp_item [n, dim] -> [n, 1].

    The output layer h . [user * item, deep] = (h_mf * user) . item + h_deep . deep: nothing is concatenated,
    and for one slice the first term is one product of matrix and vector.
    """
    deep = g.chain(g.split_layer(net.first, "mlp_user", "mlp_item"), net.mlp)
    dim = net.first.user
    h_mf, h_deep = net.out.weight[:, :dim], net.out.weight[:, dim:]
    weighted = g.node("Mul", "mf_user", g.constant(h_mf))
    if g.merged:
        products = g.node("Mul", g.spread(weighted), "mf_item")
        mf = g.node("ReduceSum", products, g.constant([1]), keepdims=1)
    else:
        mf = g.node("Gemm", "mf_item", weighted, transB=1)
    return g.node("Sigmoid", g.gemm(deep, h_deep, g.node("Add", mf, g.constant(net.out.bias))))


def ncf_artefact(g: Graph, net: NcfArtefactDense) -> str:
    """mf_0, mf_1 [n, dim], mlp [n, 2 dim] -> [n, out]."""
    deep = g.chain("mlp", net.mlp)
    both = g.concat(g.node("Add", "mf_0", "mf_1"), deep)
    return g.chain(both, net.out)


def wnd(g: Graph, net: WndDense) -> str:
    """user [S, ...], item [n, ...] or item [n, ...] alone, cross [n, 1] -> [n, 1]."""
    if isinstance(net.first, SplitLayer):
        hidden = g.split_layer(net.first, "user", "item")
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
    """The wide part's weights with zeros for the columns after the dense features."""
    assert net.wide is not None
    width = net.first.user if isinstance(net.first, SplitLayer) else net.first.in_features
    weight = torch.zeros(1, width)
    weight[:, : net.wide.in_features] = net.wide.weight
    return weight


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
