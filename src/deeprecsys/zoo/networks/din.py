"""DIN's dense stage (arXiv 1706.06978 §4), and the artefact's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from deeprecsys.zoo.din import Din, DinArtefact
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
)


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


class DinDense(nn.Module):
    """Activation unit per slice, then [profile, interest, candidate] through the head."""

    def __init__(self, config: Din) -> None:
        super().__init__()
        self.profile = config.profile_features
        width, std = config.width, input_std(config.schema, "candidate_goods")
        self.unit = ActivationUnit(width, config.attention, config.behaviours, std)
        stds = columns((config.profile_width, std), (width, self.unit.std), (width, std))
        self.head = ClickHead(config.profile_width, 2 * width, config.head, stds)

    def forward(self, x: Rows, owner: Tensor | None) -> Tensor:
        """behaviour_* [S, T, dim], profile [S, dim] each, candidate_* [n, dim] -> [n, 1]."""
        behaviours = torch.cat([x["behaviour_goods"], x["behaviour_category"]], dim=2)
        candidates = concat(x, ("candidate_goods", "candidate_category"))
        parts = per_slice(candidates, owner, len(behaviours))
        interests = [self.unit(b, c) for b, c in zip(behaviours, parts, strict=True)]
        interest = interests[0] if len(interests) == 1 else torch.cat(interests)
        return self.head(concat(x, self.profile), torch.cat([interest, candidates], dim=1), owner)  # type: ignore[no-any-return]


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
        # The units' outputs are positive: their sum is large, and about the same whatever the ids. Only
        # how much it differs between dimensions and items is told to the head.
        varying = 0.2 * math.sqrt(config.behaviours)
        self.head = output_relu(
            mlp((4 * dim, *config.head), columns((dim, std), (dim, varying), (2 * dim, std)))
        )
        first = self.head[0]
        assert isinstance(first, Layer)
        first.centred = slice(dim, 2 * dim)

    def forward(self, x: Rows, owner: Tensor | None) -> Tensor:
        """Each sparse input [n, dim] -> [n, 2]."""
        summed = self.units([x[f] for f in self.behaviours], x["candidate"])
        return self.head(torch.cat([x["user"], summed, x["candidate"], x["context"]], dim=1))  # type: ignore[no-any-return]
