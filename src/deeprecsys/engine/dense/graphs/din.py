"""DIN's dense stage, and the artefact's, as ONNX graphs."""

from __future__ import annotations

import torch

from deeprecsys.engine.dense.graph import Graph
from deeprecsys.engine.dense.graphs.parts import click_head
from deeprecsys.zoo.networks.din import ActivationUnit, DinArtefactDense, DinDense, PrivateUnits
from deeprecsys.zoo.networks.layers import Layer


def din(g: Graph, net: DinDense) -> str:
    """behaviours [1, T, d], user [1, ...], item [n, d] -> [n, 1]; one slice only."""
    assert not g.merged
    return click_head(g, net.head, "user", interest(g, net.unit), "item")


def interest(g: Graph, unit: ActivationUnit) -> str:
    """Behaviours weighted by relevance and summed, [n, d].

    The hidden layer's W [b, c, b - c, b * c] + u, with W in blocks [B | C | D | P], in two forms:

        ((B + D) + P diag(c)) b + ((C - D) c + u)    for few items: `hidden` rows of width d per item
        ((C - D) + P diag(b)) c + ((B + D) b + u)    for many: `hidden` rows per behaviour, made per slice

    Either way one matrix product yields all of it; what differs is what has to be made first.
    """
    width, steps = unit.hidden.in_features // 4, g.steps("behaviours")
    behaviours = g.reshape("behaviours", -1, width)  # [T, d]
    act = _by_item(g, unit, behaviours) if g.few else _by_behaviour(g, unit, behaviours)
    weights = g.reshape(g.node("MatMul", g.constant(unit.out.weight), act), -1, steps)  # [n, T]
    # v0 is the same for all T behaviours: its share is v0 times their sum.
    total = g.node("ReduceSum", behaviours, g.constant([0]), keepdims=1)
    return g.node("Gemm", weights, behaviours, g.node("Mul", total, g.constant(unit.out.bias)))


def _by_item(g: Graph, unit: ActivationUnit, behaviours: str) -> str:
    """Activations of the hidden layer, [n, hidden, T]."""
    b, c, d, p = unit.hidden.weight.chunk(4, dim=1)
    hidden, width = b.shape
    own = g.node("Mul", g.node("Unsqueeze", "item", g.constant([1])), g.constant(p))
    rows = g.reshape(g.node("Add", own, g.constant(b + d)), -1, width)  # [n * hidden, d]
    level = g.reshape(g.gemm("item", c - d, unit.hidden.bias), -1, 1)  # [n * hidden, 1]
    z = g.node("Gemm", rows, behaviours, level, transB=1)
    return g.reshape(g.prelu(z, unit.act), -1, hidden, g.steps("behaviours"))


def _by_behaviour(g: Graph, unit: ActivationUnit, behaviours: str) -> str:
    """Activations of the hidden layer, [n, hidden, T]; its columns are ordered hidden first."""
    b, c, d, p = unit.hidden.weight.chunk(4, dim=1)
    hidden, width = b.shape
    own = g.node("Mul", g.node("Unsqueeze", behaviours, g.constant([0])), g.constant(p[:, None]))
    matrix = g.reshape(g.node("Add", own, g.constant((c - d)[:, None])), -1, width)  # [hidden * T, d]
    level = g.node("Gemm", g.constant(b + d), behaviours, g.constant(unit.hidden.bias[:, None]), transB=1)
    z = g.node("Gemm", "item", matrix, g.reshape(level, -1), transB=1)
    return g.reshape(g.prelu(z, unit.act), -1, hidden, g.steps("behaviours"))


def din_artefact(g: Graph, net: DinArtefactDense) -> str:
    """behaviours [n, G * dim], candidate [n, dim], rest (user, context) [n, 2 dim] -> [n, outputs]."""
    first, *others = net.head
    assert isinstance(first, Layer)
    u, s, a, c = first.weight.chunk(4, dim=1)
    hidden = g.gemm("rest", torch.cat([u, c], dim=1), first.bias)
    hidden = g.gemm("candidate", a, hidden)
    hidden = g.gemm(private_units(g, net.units), s, hidden)
    for layer in others:
        hidden = g.layer(hidden, layer)
    return hidden


def private_units(g: Graph, units: PrivateUnits) -> str:
    """Sum of the units' outputs, [n, dim].

    W1 [u, a, u + a] = (W1_u + W1_sum) u + (W1_a + W1_sum) a, and with a hidden width of one the first term
    is a dot product per table, the second a matrix product over all tables.
    """
    tables, hidden, dim = units.w2.shape
    assert hidden == 1
    w_u, w_a, w_sum = units.w1[:, 0].chunk(3, dim=1)  # [G, dim] each
    u = g.reshape("behaviours", 0, tables, dim)
    mine = g.node("ReduceSum", g.node("Mul", u, g.constant(w_u + w_sum)), g.constant([2]), keepdims=0)
    both = g.node("Relu", g.node("Add", mine, g.gemm("candidate", w_a + w_sum, units.b1[:, 0])))
    out = g.node("Mul", g.node("Unsqueeze", both, g.constant([2])), g.constant(units.w2[:, 0]))
    out = g.node("Relu", g.node("Add", out, g.constant(units.b2[:, 0])))
    return g.node("ReduceSum", out, g.constant([1]), keepdims=0)
