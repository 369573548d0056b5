"""Plain PyTorch rankers of the kinds that public libraries have, for `tests/custom/test_module.py`."""

from __future__ import annotations

import torch
from torch import nn


class TwoTower(nn.Module):
    """A user tower once, an item tower, their product; a second output is the item's own score."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.goods = nn.Embedding(20, 8), nn.Embedding(50, 8)
        self.user, self.item = nn.Linear(16, 8), nn.Linear(10, 8)
        self.bias = nn.Parameter(torch.linspace(-1, 1, 50))

    def forward(self, user, seen, item, x):
        once = self.user(torch.cat([self.users(user), self.goods(seen).mean(1)], 1))
        tower = torch.relu(self.item(torch.cat([self.goods(item), x], 1)))
        return (once * tower).sum(1) + self.bias[item], torch.sigmoid(tower[:, :1])

    def example_inputs(self):
        return {
            "user": torch.tensor([3]),
            "seen": torch.arange(6)[None],
            "item": torch.arange(5),
            "x": torch.linspace(-1, 1, 10).reshape(5, 2),
        }


class Sequence(nn.Module):
    """SASRec-like: attention over a history per item, its mask made from the ids."""

    def __init__(self) -> None:
        super().__init__()
        self.goods, self.place = nn.Embedding(50, 8, padding_idx=0), nn.Parameter(torch.zeros(6, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.out = nn.BatchNorm1d(16), nn.Linear(16, 1)

    def forward(self, seen, item):
        rows, target = self.goods(seen) + self.place, self.goods(item)
        found, _ = self.attention(target[:, None], rows, rows, key_padding_mask=seen == 0, need_weights=False)
        return self.out(self.norm(torch.cat([found[:, 0], target], 1)))


class Listwise(nn.Module):
    """Scores of a softmax over all items of the query."""

    def __init__(self) -> None:
        super().__init__()
        self.goods, self.out = nn.Embedding(50, 8), nn.Linear(8, 1)

    def forward(self, item):
        return torch.softmax(self.out(self.goods(item))[:, 0], 0)


class BySize(nn.Module):
    """The export takes the number of items, which Python reads, for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.goods = nn.Embedding(50, 8)

    def forward(self, item):
        return self.goods(item).sum(1) + torch.full((1,), float(len(item)))


class Bags(nn.Module):
    """DLRM's look-ups by EmbeddingBag, in every mode, ids [n, 3], one table padded."""

    def __init__(self) -> None:
        super().__init__()
        self.summed, self.mean = nn.EmbeddingBag(40, 4, mode="sum"), nn.EmbeddingBag(30, 4, mode="mean")
        self.largest = nn.EmbeddingBag(20, 4, mode="max")
        self.padded = nn.EmbeddingBag(40, 4, mode="sum", padding_idx=0)
        self.out = nn.Linear(16, 1)

    def forward(self, ids, x):
        parts = [self.summed(ids), self.mean(ids), self.largest(ids), self.padded(ids)]
        return self.out(torch.cat(parts, 1)) * x


class Unpadded(Bags):
    """The modes that torch's older exporter can write."""

    def forward(self, ids):
        return torch.cat([self.summed(ids), self.mean(ids), self.largest(ids)], 1).sum(1)


def listwise() -> nn.Module:
    return Listwise()


class NeedsArgument(nn.Module):
    def __init__(self, width) -> None:
        super().__init__()


class NoExample(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)
