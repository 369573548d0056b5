"""Dense stages of DIN (arXiv 1706.06978 §4) and DIEN (arXiv 1809.03672 §4), and the artefact's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from deeprecsys.zoo.interest import Dien, DienArtefact, Din, DinArtefact, InterestModel
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


class InterestDense(nn.Module):
    """An interest per candidate from the behaviours, then [profile, interest, candidate] through the head."""

    head: ClickHead

    def __init__(self, config: InterestModel) -> None:
        super().__init__()
        self.profile = config.profile_features

    def forward(self, x: Rows, slice_of_item: Tensor | None) -> Tensor:
        """behaviour_* [S, T, dim], profile [S, dim] each, candidate_* [n, dim] -> [n, 1]."""
        behaviours = torch.cat([x["behaviour_goods"], x["behaviour_category"]], dim=2)
        candidates = concat(x, ("candidate_goods", "candidate_category"))
        interest = self.interest(behaviours, candidates, slice_of_item)
        return self.head(concat(x, self.profile), torch.cat([interest, candidates], dim=1), slice_of_item)  # type: ignore[no-any-return]

    def interest(self, behaviours: Tensor, candidates: Tensor, slice_of_item: Tensor | None) -> Tensor:
        """behaviours [S, T, width], candidates [n, width] -> [n, interest width]."""
        raise NotImplementedError


class ActivationUnit(nn.Module):
    """Sum of behaviours b_t weighted by w_t = v . PReLU(W [b_t, c, b_t - c, b_t * c] + u) + v0.

    The weights are not normalised, so that they keep the strength of the interest (§4.3). For one
    slice the hidden layer is *linear in the candidate c*: with W in blocks [B | C | D | P],

        W [b, c, b - c, b * c] = (B + D) b  +  ((C - D) + P diag(b)) c,

    so the slice's behaviours make one matrix [T * hidden, d] and one bias [T * hidden], and all its
    candidates go through them in one matrix product. Nothing of shape [n, T, 4 d] ever exists.
    """

    def __init__(self, width: int, hidden: int, behaviours: int, std: float) -> None:
        super().__init__()
        blocks = columns((2 * width, std), (width, math.sqrt(2) * std), (width, std**2))
        self.hidden = Layer(4 * width, hidden, blocks)
        self.act = nn.PReLU()
        self.out = Layer(hidden, 1, gain=1.0)
        self.std = std * math.sqrt(behaviours)
        """Standard deviation of the result, roughly."""

    def forward(self, behaviours: Tensor, candidates: Tensor) -> Tensor:
        """One slice: behaviours [T, d], candidates [n, d] -> interest [n, d]."""
        b, c, d, p = self.hidden.weight.chunk(4, dim=1)
        steps, hidden = len(behaviours), len(b)
        matrix = torch.addcmul(c - d, behaviours.unsqueeze(1), p)  # [T, hidden, d]
        bias = functional.linear(behaviours, b + d, self.hidden.bias)  # [T, hidden]
        z = functional.linear(candidates, matrix.flatten(0, 1), bias.flatten())  # [n, T * hidden]
        weights: Tensor = self.out(self.act(z).view(-1, hidden))
        return weights.view(-1, steps) @ behaviours


class DinDense(InterestDense):
    """The activation unit's sum of behaviours, slice by slice, as the interest."""

    def __init__(self, config: Din) -> None:
        super().__init__(config)
        width, std = config.width, input_std(config.schema, "candidate_goods")
        self.unit = ActivationUnit(width, config.attention, config.behaviours, std)
        stds = columns((config.profile_width, std), (width, self.unit.std), (width, std))
        self.head = ClickHead(config.profile_width, 2 * width, config.head, stds)

    def interest(self, behaviours: Tensor, candidates: Tensor, slice_of_item: Tensor | None) -> Tensor:
        parts = per_slice(candidates, slice_of_item, len(behaviours))
        interests = [self.unit(b, c) for b, c in zip(behaviours, parts, strict=True)]
        return interests[0] if len(interests) == 1 else torch.cat(interests)


class PrivateUnits(nn.Module):
    """One unit per behaviour table, relu(W2 relu(W1 [u, a, u + a] + b1) + b2), and their sum.

    All G tables' units as batched products. The three blocks of W1 are applied one by one, which is as
    many multiply-adds and spares the concatenation. Items come last until W2: a product with one
    row is several times as fast as one with one column.
    """

    def __init__(self, tables: int, dim: int, hidden: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.w1 = nn.Parameter(torch.empty(tables, hidden, 3 * dim))
        self.b1 = nn.Parameter(torch.empty(tables, hidden))
        self.w2 = nn.Parameter(torch.empty(tables, hidden, dim))
        self.b2 = nn.Parameter(torch.empty(tables, 1, dim))

    def initialise(self, generator: torch.Generator) -> None:
        """Biases of the narrow hidden layer centre above 0, or its ReLU would hide half the tables."""
        fan_in = self.w1.shape[2]
        self.w1.normal_(0, 0.2 / (math.sqrt(fan_in) * self.std), generator=generator)
        self.b1.normal_(1.0, 0.1, generator=generator)
        self.w2.normal_(0, 1.0, generator=generator)
        self.b2.normal_(0, 0.1, generator=generator)

    def forward(self, behaviours: list[Tensor], candidate: Tensor) -> Tensor:
        """behaviours: G of [n, dim]; candidate [n, dim] -> [n, dim]."""
        w_u, w_a, w_sum = self.w1.chunk(3, dim=2)
        u = torch.stack(behaviours)  # [G, n, dim]
        mine = torch.addmm(self.b1.view(-1, 1), w_a.flatten(0, 1), candidate.t())
        hidden = torch.baddbmm(mine.view(*self.b1.shape, -1), w_u, u.transpose(1, 2))  # [G, hidden, n]
        u += candidate
        hidden = torch.baddbmm(hidden, w_sum, u.transpose(1, 2)).relu_()
        return torch.baddbmm(self.b2, hidden.transpose(1, 2), self.w2).relu_().sum(dim=0)


class DinArtefactDense(nn.Module):
    """See `DinArtefact`."""

    def __init__(self, config: DinArtefact) -> None:
        super().__init__()
        self.behaviours = config.behaviour_features
        std = input_std(config.schema, "user")
        self.units = PrivateUnits(config.behaviours, config.dim, config.attention, std)
        dim = config.dim
        # The units' outputs are positive: their sum is large, and about the same whatever the ids. The head
        # is scaled to how much it differs between dimensions and items alone.
        varying = 0.2 * math.sqrt(config.behaviours)
        self.head = output_relu(
            mlp((4 * dim, *config.head), columns((dim, std), (dim, varying), (2 * dim, std)))
        )
        first = self.head[0]
        assert isinstance(first, Layer)
        first.centred = slice(dim, 2 * dim)

    def forward(self, x: Rows, slice_of_item: Tensor | None) -> Tensor:
        """Each sparse input [n, dim] -> [n, 2]."""
        summed = self.units([x[f] for f in self.behaviours], x["candidate"])
        return self.head(torch.cat([x["user"], summed, x["candidate"], x["context"]], dim=1))  # type: ignore[no-any-return]


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

    def forward(self, interests: Tensor, attention: Tensor, slice_of_item: Tensor | None) -> Tensor:
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
            gates = torch.addmm(spread(x_gates_t, slice_of_item, n), state, u_matrix)
            gates[:, : 2 * h].sigmoid_()
            r, u, uh = gates.chunk(3, dim=1)
            new = torch.addcmul(spread(x_new_t, slice_of_item, n), r, uh).tanh_()
            state = torch.lerp(state, new, u * a_t)
        return state


class DienDense(InterestDense):
    """Interest extractor (GRU), attention, interest evolution (AUGRU), head."""

    def __init__(self, config: Dien) -> None:
        super().__init__(config)
        std = input_std(config.schema, "candidate_goods")
        width, hidden = config.width, config.hidden
        self.gru = nn.GRU(width, hidden)
        # score = interest . (W candidate), eq. 4; the gain makes scores of order 1, the softmax not flat.
        self.attention = Layer(width, hidden, torch.full((width,), std), gain=4.0 / hidden, bias=False)
        self.augru = Augru(hidden, hidden)
        # Attention sums to 1 over the sequence, so the last state is some 0.3 in size.
        stds = columns((config.profile_width, std), (hidden, 0.3), (width, std))
        self.head = ClickHead(config.profile_width, hidden + width, config.head, stds)

    def interest(self, behaviours: Tensor, candidates: Tensor, slice_of_item: Tensor | None) -> Tensor:
        """The evolved interest: the AUGRU's last state, [n, hidden]."""
        interests, _ = self.gru(behaviours.transpose(0, 1))  # [T, S, hidden]
        return self.augru(interests, self.attend(interests, candidates, slice_of_item), slice_of_item)  # type: ignore[no-any-return]

    def attend(self, interests: Tensor, candidates: Tensor, slice_of_item: Tensor | None) -> Tensor:
        """interests [T, S, hidden], candidates [n, width] -> attention [n, T], each row summing to 1."""
        parts = per_slice(self.attention(candidates), slice_of_item, interests.shape[1])
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

    def forward(self, x: Rows, slice_of_item: Tensor | None) -> Tensor:
        """Each sparse input [n, dim] -> [n, 2]."""
        states, _ = self.first(torch.stack([x[f] for f in self.sequence]))  # [T, n, hidden]
        torch.softmax(self.unused(states), dim=2)  # the artefact's graph computes it, so its time counts
        _, last = self.second(states)
        return self.head(torch.cat([last[0], *(x[f] for f in self.rest)], dim=1))  # type: ignore[no-any-return]
