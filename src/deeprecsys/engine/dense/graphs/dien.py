"""DIEN's dense stage, and the artefact's, as ONNX graphs. Loops over the sequence are unrolled.

A loop operator runs its body through the library's interpreter of graphs anew at each step; the sequences
are short and of fixed length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprecsys.engine.dense.graph import Graph
from deeprecsys.engine.dense.graphs.parts import click_head
from deeprecsys.zoo.networks.dien import Augru, DienArtefactDense, DienDense
from deeprecsys.zoo.networks.layers import Layer


def dien(g: Graph, net: DienDense) -> str:
    """behaviours [S, T, d], user [S, ...], item [n, d] -> [n, 1]."""
    interests = gru(g, net.gru, "behaviours")  # [T, S, hidden]
    by_slice = g.node("Transpose", interests, perm=[1, 0, 2]) if g.merged else interests
    weights = attention(g, net.attention, by_slice)
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


def attention(g: Graph, layer: Layer, interests: str) -> str:
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
    xs = [
        _per_step(g, g.gemm(flat, w, b), steps)
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


def _per_step(g: Graph, x: str, steps: int) -> list[str]:
    """[T * S, width] -> T of [S, width]."""
    return g.nodes("Split", x, axis=0, num_outputs=steps, outputs=steps)


def dien_artefact(g: Graph, net: DienArtefactDense) -> str:
    """step_0 ... [n, dim] each, rest [n, 3 dim] -> [n, outputs].

    The layer that the artefact computes and drops is left out: nobody reads its result.
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
