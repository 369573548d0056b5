"""DIEN's dense stage (arXiv 1809.03672 §4), and the artefact's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprecsys.zoo.dien import Dien, DienArtefact
from deeprecsys.zoo.networks.layers import (
    ClickHead,
    Layer,
    Rows,
    columns,
    concat,
    input_std,
    mlp,
    output_relu,
    per_slice,
    spread,
)


class Augru(nn.Module):
    """GRU with attentional update gate (§4.3, eqs. 5 and 6; gates as in torch.nn.GRU: reset, update, new).

        r, u = sigmoid(W x + b + U h + b')     n = tanh(W x + b + r * (U h + b'))
        h <- (1 - a u) h + a u n

    x, the interests, belong to the slice: W x is computed once for it. a belongs to the item.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        # The interests are bounded by 1, about 0.5 in size.
        self.input = Layer(width, 3 * hidden, torch.full((width,), 0.5), gain=1.0)
        self.state = Layer(hidden, 3 * hidden, gain=1.0)

    def forward(self, interests: Tensor, attention: Tensor, owner: Tensor | None) -> Tensor:
        """interests [T, S, width], attention [n, T] -> last state [n, hidden]."""
        n, h = len(attention), self.state.in_features
        x = self.input(interests)  # [T, S, 3 h]
        # What U h is added to: for r and u all that is in their sigmoid, for n its b' alone.
        inside = x[..., : 2 * h] + self.state.bias[: 2 * h]
        alone = self.state.bias[2 * h :].expand(*x.shape[:2], h)
        x_gates, x_new = torch.cat([inside, alone], dim=2), x[..., 2 * h :]
        u_matrix = self.state.weight.t()
        state = attention.new_zeros(n, h)
        for x_gates_t, x_new_t, a_t in zip(x_gates, x_new, attention.t().unsqueeze(2), strict=True):
            gates = torch.addmm(spread(x_gates_t, owner, n), state, u_matrix)
            gates[:, : 2 * h].sigmoid_()
            r, u, uh = gates.chunk(3, dim=1)
            new = torch.addcmul(spread(x_new_t, owner, n), r, uh).tanh_()
            state = torch.lerp(state, new, u * a_t)
        return state


class DienDense(nn.Module):
    """Interest extractor (GRU), attention, interest evolution (AUGRU), head."""

    def __init__(self, config: Dien) -> None:
        super().__init__()
        self.profile = config.profile_features
        std = input_std(config.schema, "candidate_goods")
        width, hidden = config.width, config.hidden
        self.gru = nn.GRU(width, hidden)
        # score = interest . (W candidate), eq. 4; the gain makes scores of order 1, the softmax not flat.
        self.attention = Layer(width, hidden, torch.full((width,), std), gain=4.0 / hidden, bias=False)
        self.augru = Augru(hidden, hidden)
        # Attention sums to 1 over the sequence, so the last state is some 0.3 in size.
        stds = columns((config.profile_width, std), (hidden, 0.3), (width, std))
        self.head = ClickHead(config.profile_width, hidden + width, config.head, stds)

    def forward(self, x: Rows, owner: Tensor | None) -> Tensor:
        """behaviour_* [S, T, dim], profile [S, dim] each, candidate_* [n, dim] -> [n, 1]."""
        behaviours = torch.cat([x["behaviour_goods"], x["behaviour_category"]], dim=2)
        candidates = concat(x, ("candidate_goods", "candidate_category"))
        interests, _ = self.gru(behaviours.transpose(0, 1))  # [T, S, hidden]
        attention = self.attend(interests, candidates, owner)
        state = self.augru(interests, attention, owner)
        return self.head(concat(x, self.profile), torch.cat([state, candidates], dim=1), owner)  # type: ignore[no-any-return]

    def attend(self, interests: Tensor, candidates: Tensor, owner: Tensor | None) -> Tensor:
        """interests [T, S, hidden], candidates [n, width] -> attention [n, T], each row summing to 1."""
        parts = per_slice(self.attention(candidates), owner, interests.shape[1])
        scores = [c @ h.t() for c, h in zip(parts, interests.unbind(1), strict=True)]
        return torch.softmax(scores[0] if len(scores) == 1 else torch.cat(scores), dim=1)


class DienArtefactDense(nn.Module):
    """See `DienArtefact`."""

    def __init__(self, config: DienArtefact) -> None:
        super().__init__()
        names = [i.name for i in config.schema.inputs]
        self.sequence, self.rest = names[1:-2], (names[0], *names[-2:])
        std = input_std(config.schema, names[0])
        self.first = nn.RNN(config.dim, config.hidden)
        self.unused = Layer(config.hidden, config.hidden)
        self.second = nn.RNN(config.hidden, config.hidden)
        stds = columns((config.hidden, 0.5), (3 * config.dim, std))
        self.head = output_relu(mlp(config.head_widths, stds))

    def forward(self, x: Rows, owner: Tensor | None) -> Tensor:
        """Each sparse input [n, dim] -> [n, 2]."""
        states, _ = self.first(torch.stack([x[f] for f in self.sequence]))  # [T, n, hidden]
        torch.softmax(self.unused(states), dim=2)  # the artefact's graph computes it, so its time counts
        _, last = self.second(states)
        return self.head(torch.cat([last[0], *(x[f] for f in self.rest)], dim=1))  # type: ignore[no-any-return]
