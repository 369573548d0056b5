"""Dense stages of DIN and DIEN, and the artefact's, as ONNX graphs.

Loops over a sequence are unrolled: a loop operator runs its body through the library's interpreter of graphs
anew at each step, and the sequences are short and of fixed length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprecsys.engine.dense.graph import Graph
from deeprecsys.zoo.networks.interest import (
    ActivationUnit,
    Augru,
    DienArtefactDense,
    DienDense,
    DinArtefactDense,
    DinDense,
    PrivateUnits,
)
from deeprecsys.zoo.networks.layers import ClickHead, Layer


def click_head(g: Graph, head: ClickHead, user: str, *items: str) -> str:
    """user [S, ...], item parts [n, ...] concatenated -> click probability [n, 1].

    The click half of a softmax over two logits is the sigmoid of their difference, so the last layer has one
    output: the difference of its rows.
    """
    hidden = g.prelu(g.split_layer(head.first, user, g.concat(*items)), head.first_act)
    *layers, last = head.rest
    hidden = g.chain(hidden, nn.Sequential(*layers))
    assert isinstance(last, Layer)
    (no, yes), (no_bias, yes_bias) = last.weight, last.bias
    return g.node("Sigmoid", g.gemm(hidden, (yes - no)[None], (yes_bias - no_bias)[None]))


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


def dien(g: Graph, net: DienDense) -> str:
    """behaviours [S, T, d], user [S, ...], item [n, d] -> [n, 1]."""
    interests = gru(g, net.gru, "behaviours")  # [T, S, hidden]
    by_slice = g.node("Transpose", interests, perm=[1, 0, 2]) if g.merged else interests
    weights = attention_weights(g, net.attention, by_slice)
    return click_head(g, net.head, "user", augru(g, net.augru, interests, weights), "item")


def gru(g: Graph, layer: nn.GRU, x: str) -> str:
    """x [S, T, width] -> all states [T, S, hidden]."""
    states = g.nodes(
        "GRU",
        g.node("Transpose", x, perm=[1, 0, 2]),
        g.constant(_gates(layer, "weight_ih_l0")[None]),
        g.constant(_gates(layer, "weight_hh_l0")[None]),
        g.constant(torch.cat([_gates(layer, "bias_ih_l0"), _gates(layer, "bias_hh_l0")])[None]),
        outputs=1,
        hidden_size=layer.hidden_size,
        linear_before_reset=1,
    )[0]
    return g.node("Squeeze", states, g.constant([1]))


def _gates(layer: nn.GRU, name: str) -> Tensor:
    """From torch's order of gates (reset, update, new) to ONNX's (update, reset, hidden)."""
    reset, update, new = layer.get_parameter(name).chunk(3)
    return torch.cat([update, reset, new])


def attention_weights(g: Graph, layer: Layer, interests: str) -> str:
    """interests [S, T, hidden], candidates "item" [n, d] -> [n, T], each row summing to 1."""
    if not g.merged:
        states = g.reshape(interests, -1, layer.out_features)  # [T, hidden]
        keys = g.gemm(states, layer.weight.t())  # interest . (W candidate) = (W' interest) . candidate
        return g.node("Softmax", g.node("Gemm", "item", keys, transB=1), axis=1)
    keys = g.node("MatMul", interests, g.constant(layer.weight))
    columns = g.node("Unsqueeze", "item", g.constant([2]))
    scores = g.node("MatMul", g.spread(keys), columns)  # [n, T, d] x [n, d, 1]
    return g.node("Softmax", g.node("Squeeze", scores, g.constant([2])), axis=1)


def augru(g: Graph, cell: Augru, interests: str, weights: str) -> str:
    """interests [T, S, width], attention [n, T] -> last state [n, hidden]. See `Augru`.

    A product per gate, so that none has to be cut out of another's result.
    """
    steps = g.steps("behaviours")
    flat = g.reshape(interests, -1, cell.input.in_features)
    w_r, w_u, w_n = cell.input.weight.chunk(3)
    u_r, u_u, u_n = (g.constant(u.t()) for u in cell.state.weight.chunk(3))
    state_bias = cell.state.bias.chunk(3)
    b_r, b_u, b_n = cell.input.bias.chunk(3)
    new_bias = g.constant(state_bias[2])
    xs = [  # T of [S, width] each
        g.nodes("Split", g.gemm(flat, w, b), axis=0, num_outputs=steps, outputs=steps)
        for w, b in ((w_r, b_r + state_bias[0]), (w_u, b_u + state_bias[1]), (w_n, b_n))
    ]
    amounts = g.nodes("Split", weights, axis=1, num_outputs=steps, outputs=steps)  # [n, 1] each
    # The first state is 0, and so are its products.
    x_r, x_u, x_n = (g.spread(x[0]) for x in xs)
    new = _new(g, g.node("Sigmoid", x_r), new_bias, x_n)
    state = g.node("Mul", g.node("Mul", g.node("Sigmoid", x_u), amounts[0]), new)
    for t in range(1, steps):
        x_r, x_u, x_n = (g.spread(x[t]) for x in xs)
        r = g.node("Sigmoid", g.node("Gemm", state, u_r, x_r))
        u = g.node("Sigmoid", g.node("Gemm", state, u_u, x_u))
        new = _new(g, r, g.node("Gemm", state, u_n, new_bias), x_n)
        change = g.node("Mul", g.node("Mul", u, amounts[t]), g.node("Sub", new, state))
        state = g.node("Add", state, change)
    return state


def _new(g: Graph, reset: str, from_state: str, x: str) -> str:
    return g.node("Tanh", g.node("Add", x, g.node("Mul", reset, from_state)))


def dien_artefact(g: Graph, net: DienArtefactDense) -> str:
    """step_0 ... [n, dim] each, rest [n, 3 dim] -> [n, outputs].

    The layer whose result the artefact drops is left out.
    """
    first = second = ""
    for t in range(len(net.sequence)):
        first = _step(g, net.first, f"step_{t}", first)
        second = _step(g, net.second, first, second)
    hidden = net.second.hidden_size
    start, *others = net.head
    assert isinstance(start, Layer)
    x = g.gemm("rest", start.weight[:, hidden:], start.bias)
    return g.chain(g.gemm(second, start.weight[:, :hidden], x), nn.Sequential(*others))


def _step(g: Graph, layer: nn.RNN, x: str, state: str) -> str:
    """tanh(W x + b + U h + b'); the first state, named "", is 0."""
    bias = layer.get_parameter("bias_ih_l0") + layer.get_parameter("bias_hh_l0")
    inside = g.gemm(x, layer.get_parameter("weight_ih_l0"), bias)
    if state:
        inside = g.gemm(state, layer.get_parameter("weight_hh_l0"), inside)
    return g.node("Tanh", inside)
