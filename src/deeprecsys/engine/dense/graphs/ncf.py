"""NeuMF's dense stage, and the artefact's, as ONNX graphs."""

from __future__ import annotations

from deeprecsys.engine.dense.graph import Graph
from deeprecsys.engine.dense.graphs.parts import split_layer
from deeprecsys.zoo.networks.ncf import NcfArtefactDense, NcfDense


def ncf(g: Graph, net: NcfDense) -> str:
    """mf_user, mlp_user [S, dim], mf_item, mlp_item [n, dim] -> [n, 1].

    The output layer h . [user * item, deep] = (h_mf * user) . item + h_deep . deep: nothing is concatenated,
    and for one slice the first term is one product of matrix and vector.
    """
    deep = g.chain(split_layer(g, net.first, "mlp_user", "mlp_item"), net.mlp)
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
