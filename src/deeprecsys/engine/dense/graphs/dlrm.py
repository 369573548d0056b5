"""DLRM's dense stage as an ONNX graph."""

from __future__ import annotations

from deeprecsys.engine.dense.graph import Graph
from deeprecsys.zoo.networks.dlrm import DlrmDense


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
