"""Models of a user's own, good and bad, for `tests/custom`."""

from __future__ import annotations

import torch
from torch import nn

from deeprecsys.zoo.custom import OwnModel
from deeprecsys.zoo.schema import DenseInput, Per, Pooling, Schema, SparseInput, Table

SCHEMA = Schema(
    (Table("goods", 50, 4), Table("user", 20, 4)),
    (
        SparseInput("seen", "goods", 3, Pooling.SEQUENCE, Per.QUERY),
        SparseInput("pair", "goods", 2, Pooling.CONCAT),
        SparseInput("user", "user", per=Per.QUERY),
        DenseInput("price", 2),
    ),
    outputs=2,
)


class Scorer(nn.Module):
    """Every kind of input, two scores an item."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(8 + 4 + 4 + 2, 16), nn.Linear(16, 2)

    def forward(self, seen, pair, user, price):
        once = torch.cat([seen.amax(1), user], 1).expand(pair.shape[0], -1)
        return self.out(torch.relu(self.hidden(torch.cat([once, pair, price], 1))))


class Full(nn.Module):
    """The same with its tables, as it is trained."""

    def __init__(self):
        super().__init__()
        self.goods, self.user = nn.Embedding(50, 4), nn.Embedding(20, 4)
        self.dense = Scorer()

    def forward(self, seen, pair, user, price):
        return self.dense(self.goods(seen), self.goods(pair).flatten(1), self.user(user).flatten(1), price)


class Plain(OwnModel):
    schema = SCHEMA
    dense_prefix = "dense."

    def dense_stage(self):
        return Scorer()


class NeverFits(Plain):
    """Its batches are of a size that Python asked for: cannot be exported, runs eagerly."""

    def dense_stage(self):
        class ByLength(Scorer):
            def forward(self, seen, pair, user, price):
                return super().forward(seen, pair, user, price) + torch.zeros(len(pair), 2)

        return ByLength()


class Listwise(Plain):
    def dense_stage(self):
        class Softmax(Scorer):
            def forward(self, seen, pair, user, price):
                return super().forward(seen, pair, user, price).softmax(0)

        return Softmax()


ONE = Schema((Table("goods", 50, 4),), (SparseInput("item", "goods"),))


class ListwiseAlone(OwnModel):
    """Listwise, and without a per-query input that would tell queries apart."""

    schema = ONE

    def dense_stage(self):
        class Centred(nn.Linear):
            def forward(self, item):
                y = super().forward(item)
                return y - y.mean(0)

        return Centred(4, 1)


class Random(OwnModel):
    schema = ONE

    def dense_stage(self):
        class Noise(nn.Linear):
            def forward(self, item):
                return super().forward(item) + torch.randn(item.shape[0], 1)

        return Noise(4, 1)


class WrongInputs(OwnModel):
    schema = ONE

    def dense_stage(self):
        return nn.Linear(4, 1)  # its input is called `input`


class WrongOutputs(Plain):
    schema = Schema(SCHEMA.tables, SCHEMA.inputs, outputs=3)


class NoModule(OwnModel):
    schema = ONE

    def dense_stage(self):
        return torch.relu


class NoSchema(OwnModel):
    def dense_stage(self):
        return nn.Linear(4, 1)


class NoOwnModel(nn.Linear):
    pass


class WithArguments(Plain):
    def __init__(self, width):
        self.width = width


class Other:
    pass


def number():
    return 1


class OfLengths(OwnModel):
    """Jagged inputs of each kind: averaged once per query, weighted sums and sequences per item."""

    schema = Schema(
        tables=(Table("user", 40, 8), Table("goods", 50, 8)),
        inputs=(
            DenseInput("dense", 3),
            SparseInput("history", "user", lookups=9, pooling=Pooling.MEAN, per=Per.QUERY, expected=4),
            SparseInput("tags", "goods", lookups=12, expected=2.5, weighted=True),
            SparseInput("clicks", "goods", lookups=5, pooling=Pooling.SEQUENCE, expected=2),
        ),
    )

    def dense_stage(self) -> nn.Module:
        return OfLengthsDense()


class OfLengthsDense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3 + 8 + 8 + 8, 1)

    def forward(self, dense, history, tags, clicks):
        last = clicks.sum(dim=1)
        return self.out(torch.cat([dense, history.expand(dense.shape[0], -1), tags, last], dim=1))
