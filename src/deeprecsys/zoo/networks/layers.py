"""What the dense stages share: a slice's rows repeated for its items, layers, and their weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from deeprecsys.zoo.schema import DenseInput, Pooling, Schema

Rows = Mapping[str, Tensor]
"""Dense inputs and pooled sparse inputs by input name: [n, ...] per item, [S, ...] per query."""


def spread(x: Tensor, slice_of_item: Tensor | None, n: int) -> Tensor:
    """Each item's row of a per-slice tensor: [S, ...] -> [n, ...]; a view when there is one slice.

    Args:
        slice_of_item: [n] int64, each item's slice; None when S is 1.
    """
    return x.expand(n, *x.shape[1:]) if slice_of_item is None else x.index_select(0, slice_of_item)


def per_slice(x: Tensor, slice_of_item: Tensor | None, slices: int) -> Sequence[Tensor]:
    """The items of each slice: [n, ...] -> `slices` views [n_s, ...].

    The items of a slice lie together and slices are in order: `slice_of_item` never decreases.
    """
    if slice_of_item is None:
        return (x,)
    return torch.split(x, torch.bincount(slice_of_item, minlength=slices).tolist())


def concat(x: Rows, names: Iterable[str]) -> Tensor:
    """The named inputs concatenated: [rows, sum of widths]."""
    return torch.cat([x[name] for name in names], dim=1)


def input_std(schema: Schema, name: str) -> float:
    """Standard deviation of an input's values, embedding values being uniform in (-1, 1)."""
    found = next(i for i in schema.inputs if i.name == name)
    if isinstance(found, DenseInput):
        return 1.0
    if found.pooling is Pooling.SUM:
        return math.sqrt(found.mean_lookups / 3)
    return math.sqrt(1 / (3 * found.mean_lookups if found.pooling is Pooling.MEAN else 3))


def columns(*parts: tuple[int, float]) -> Tensor:
    """Standard deviations of a layer's input columns from (width, standard deviation) of its parts."""
    return torch.cat([torch.full((width,), std) for width, std in parts])


class Layer(nn.Linear):
    """A fully connected layer with the distribution of its weights (see `initialise`).

    Attributes:
        std: [in_features], standard deviation (or root mean square) of each input column.
        gain: variance of the output; 2 keeps the mean square through a ReLU.
        bias_mean: where the biases centre; above 0 for a ReLU that is the network's output, which
            would otherwise show zeros whatever the ids.
        centred: columns that share a large positive mean; their weights sum to 0, so that it cancels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        std: Tensor | None = None,
        gain: float = 2.0,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.std = torch.ones(inputs) if std is None else std
        self.gain, self.bias_mean = gain, 0.0
        self.centred: slice | None = None
        if self.std.shape != (inputs,):
            raise ValueError(f"std: expected [{inputs}], got {list(self.std.shape)}")

    def initialise(self, generator: torch.Generator) -> None:
        self.weight.normal_(0, math.sqrt(self.gain / self.in_features), generator=generator)
        self.weight.div_(self.std)
        if self.centred is not None:
            shared = self.weight[:, self.centred]
            shared.sub_(shared.mean(dim=1, keepdim=True))
        if self.bias is not None:
            self.bias.normal_(self.bias_mean, 0.1, generator=generator)


class SplitLayer(Layer):
    """A layer over [user, item] columns whose user part is computed once per slice.

    Its result is that of the layer over the concatenation, to rounding.
    """

    def __init__(self, user: int, item: int, outputs: int, std: Tensor) -> None:
        super().__init__(user + item, outputs, std)
        self.user = user

    def forward(self, user: Tensor, item: Tensor, slice_of_item: Tensor | None) -> Tensor:  # type: ignore[override]
        """[S, user], [n, item] -> [n, outputs]."""
        once = functional.linear(user, self.weight[:, : self.user], self.bias)
        mine = self.weight[:, self.user :].t()
        return torch.addmm(spread(once, slice_of_item, len(item)), item, mine)


def mlp(widths: Sequence[int], std: Tensor | None = None, last: nn.Module | None = None) -> nn.Sequential:
    """Fully connected layers with ReLU between them: [n, widths[0]] -> [n, widths[-1]].

    Args:
        std: of the input's columns, 1 by default.
        last: what follows the last layer; ReLU by default.
    """
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        final = last is not None and i == len(widths) - 2
        layers.append(Layer(a, b, std if i == 0 else None, gain=1.0 if final else 2.0))
        layers.append(last if final and last is not None else nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def output_relu(layers: nn.Sequential) -> nn.Sequential:
    """Draw the last layer so that its ReLU, the network's output, seldom shows 0."""
    last = [m for m in layers if isinstance(m, Layer)][-1]
    last.gain, last.bias_mean = 0.25, 1.5
    return layers


class ClickHead(nn.Module):
    """PReLU layers over [user, item] columns, a two-way softmax, and its click half (1706.06978 §4.1)."""

    def __init__(self, user: int, item: int, widths: Sequence[int], std: Tensor) -> None:
        super().__init__()
        self.first = SplitLayer(user, item, widths[0], std)
        self.first_act = nn.PReLU()
        layers: list[nn.Module] = []
        for a, b in pairwise(widths[:-1]):
            layers += [Layer(a, b), nn.PReLU()]
        self.rest = nn.Sequential(*layers, Layer(widths[-2], widths[-1], gain=1.0))

    def forward(self, user: Tensor, item: Tensor, slice_of_item: Tensor | None) -> Tensor:
        """[S, user], [n, item] -> [n, 1]."""
        logits = self.rest(self.first_act(self.first(user, item, slice_of_item)))
        return torch.softmax(logits, dim=1)[:, 1:2]


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Draw all weights from `seed`: the same in every process, and logits of order 1.

    For inputs with the standard deviations that the layers were given (embedding values uniform in
    (-1, 1), dense inputs standard normal). PReLU slopes keep their 0.25. Gradients are switched off.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase):
            _initialise_recurrent(layer, generator)
        elif hasattr(layer, "initialise"):
            layer.initialise(generator)  # type: ignore[operator]
    module.requires_grad_(False)


def _initialise_recurrent(layer: nn.RNNBase, generator: torch.Generator) -> None:
    """Pre-activations of order 1 for inputs uniform in (-1, 1); states that remember.

    A plain RNN forgets its first inputs unless its recurrence keeps the state's length: hence an
    orthogonal matrix there, and inputs small enough that their sum stays where tanh is steep. A wrong
    first id would otherwise not show in the last state.
    """
    plain = not isinstance(layer, nn.GRU)
    for name, weight in layer.named_parameters():
        if "bias" in name:
            weight.normal_(0, 0.01 if plain else 0.1, generator=generator)
            continue
        inputs = "weight_ih" in name
        gain = (0.03 if plain else 3.0) if inputs else 1.0
        weight.normal_(0, math.sqrt(gain / weight.shape[1]), generator=generator)
        if plain and not inputs:
            weight.copy_(torch.linalg.qr(weight).Q)
